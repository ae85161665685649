// The graph's drawing: SVG for boxes, edges and nodes, of which only those on screen exist, and a canvas for small maps.

import { html, useEffect, useLayoutEffect, useRef, useState } from "/static/vendor/preact-htm.js";
import { scaleOf } from "/static/lib/colours.js";
import { bytes, many, picture } from "/static/lib/maps.js";
import { cut, sizes } from "/static/lib/svg.js";

const MARGIN = 10;
const PLAIN = 0.3; // below this scale nodes have no text
const BARE = 0.12; // and below this one they are one path
const SMALL = 0.7; // below this one they have two lines in letters that grow as the drawing shrinks

// The part of the drawing that is on screen, with some around it: [left, top, right, bottom].
function useWindow(stage, scale) {
  const [window_, setWindow] = useState([0, 0, 4000, 3000]);
  useLayoutEffect(() => {
    const element = stage.current;
    let waiting = 0;
    const look = () => {
      waiting = 0;
      const { scrollLeft: x, scrollTop: y, clientWidth: width, clientHeight: height } = element;
      setWindow([x - 300, y - 300, x + width + 300, y + height + 300].map((each) => Math.round(each / scale)));
    };
    const later = () => { waiting ||= requestAnimationFrame(look); };
    look();
    element.addEventListener("scroll", later);
    const watch = new ResizeObserver(later);
    watch.observe(element);
    return () => { element.removeEventListener("scroll", later); watch.disconnect(); cancelAnimationFrame(waiting); };
  }, [scale]);
  return window_;
}

function meets([x, y, width, height], [left, top, right, bottom]) {
  return x <= right && y <= bottom && x + width >= left && y + height >= top;
}

function extent(points) {
  const xs = points.map((each) => each[0]);
  const ys = points.map((each) => each[1]);
  const [x, y] = [Math.min(...xs), Math.min(...ys)];
  return [x, y, Math.max(...xs) - x, Math.max(...ys) - y];
}

// A way as a path: level and upright pieces straight with round corners, others as curves.
export function path(points) {
  let text = `M${points[0][0]},${points[0][1]}`;
  for (let place = 1; place < points.length; place += 1) {
    const [fromX, fromY] = points[place - 1];
    const [x, y] = points[place];
    if (fromX === x || Math.abs(fromY - y) < 0.5) {
      text += `L${x},${y}`;
    } else {
      const middle = (fromX + x) / 2;
      text += `C${middle},${fromY} ${middle},${y} ${x},${y}`;
    }
  }
  return text;
}

export function Drawing({ data, scale, stage, maps, ...more }) {
  const part = useWindow(stage, scale);
  const nodes = data.nodes.filter((each) => meets(each.box, part));
  return html`<${Maps} nodes=${nodes} maps=${maps} scale=${scale} stage=${stage} window=${part} />
    <${Graph} data=${data} scale=${scale} part=${part} ...${more} />`;
}

// The part [left, top, right, bottom] of the graph as SVG.
export function Graph({ data, scale, part, fields, selected, onSelect, onToggle, onNumbers }) {
  const nodes = data.nodes.filter((each) => meets(each.box, part));
  const boxes = data.boxes.filter((each) => meets(each.box, part));
  const edges = data.edges.filter((each) => meets(each.extent ??= extent(each.points), part));
  const size = { width: (data.width + 2 * MARGIN) * scale, height: (data.height + 2 * MARGIN) * scale };
  return html`<svg class="graph" width=${size.width} height=${size.height} role="group" aria-label="graph"
      viewBox=${`${-MARGIN} ${-MARGIN} ${data.width + 2 * MARGIN} ${data.height + 2 * MARGIN}`}>
      <defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" markerUnits="userSpaceOnUse" orient="auto">
        <path class="tip" d="M0,0.8L7,4L0,7.2Z" /></marker></defs>
      ${boxes.map((each) => html`<${Box} key=${each.id} box=${each} onToggle=${onToggle} />`)}
      ${scale < BARE ? html`<path class="wires" d=${edges.map((each) => path(each.points)).join("")} />`
        : edges.map((each) => html`<path key=${`${each.source} ${each.target} ${each.value}`}
          class=${`wire${selected && (each.source === selected.id || each.target === selected.id) ? " lit" : ""}`}
          d=${path(each.points)} marker-end="url(#tip)"><title>${sizes(each.shape)}</title></path>`)}
      ${scale < BARE ? html`<path class="bare" d=${nodes.map(({ box: [x, y, w, h] }) => `M${x},${y}h${w}v${h}h${-w}z`).join("")} />`
        : nodes.map((each) => html`<${Node} key=${each.id} node=${each} scale=${scale} field=${fields?.[each.values[0]]}
          chosen=${each.id === selected?.id} onSelect=${onSelect} onToggle=${onToggle} onNumbers=${onNumbers} />`)}
    </svg>`;
}

function Box({ box, onToggle }) {
  const [x, y, width, height] = box.box;
  const close = () => onToggle(box.id, false);
  return html`<g class="box" transform=${`translate(${x},${y})`}>
    <rect width=${width} height=${height} rx="10" />
    <text x="30" y="18"><tspan class="strong">${cut(box.name, Math.floor((width - 60) / 7.5))}</tspan>
      <tspan class="quiet">${" "}${cut(box.type, Math.max(4, Math.floor((width - 60) / 7.5) - box.name.length))}</tspan></text>
    <g class="button" role="button" tabindex="0" aria-label=${`close ${box.name}`} onClick=${close}
      onKeyDown=${(event) => event.key === "Enter" && (event.stopPropagation(), close())}>
      <rect x="7" y="5" width="17" height="17" rx="4" /><path d="M11,13.5h9" /></g>
  </g>`;
}

function figures(node) {
  const told = [];
  if (node.parameters) told.push(`${many(node.parameters)} params`);
  if (node.macs) told.push(`${many(node.macs)} MACs`);
  else if (node.flops && !told.length) told.push(`${many(node.flops)} FLOPs`);
  return told.join(" · ");
}

export function sees(field) {
  if (!field) return "";
  if (field.whole.length && field.whole.every(Boolean)) return "sees all";
  if (field.size.some((each) => each === null)) return "";
  return `sees ${field.size.join("×")}`;
}

function Node({ node, field, scale, chosen, onSelect, onToggle, onNumbers }) {
  const plain = scale < PLAIN;
  const grown = scale < SMALL ? Math.min(2, 0.95 / scale) : 0;
  const [x, y, width, height] = node.box;
  const end = node.kind === "input" || node.kind === "output";
  const letters = Math.floor((width - (node.opens ? 40 : 20)) / 7.3);
  const fits = Math.floor((width - 18) / 5.9);
  const told = node.kind === "operator" || end ? node.about : [node.type, node.about].filter(Boolean).join(" ");
  const type = told.length > fits ? told.replace("padding", "pad") : told;
  const seen = [sees(field), node.bytes ? bytes(node.bytes) : ""].filter(Boolean).join(" · ");
  const label = `${node.name}, ${node.type}, ${sizes(node.shape)}, ${figures(node)} ${sees(field)}`;
  const inside = node.parts && node.operators > 1 ? node.parts : "";
  return html`<g class=${`node ${node.family}${chosen ? " chosen" : ""}${node.opens ? " stack" : ""}`} transform=${`translate(${x},${y})`}
      role="button" tabindex="0" aria-label=${label} aria-pressed=${chosen} data-node=${node.id}
      onClick=${() => onSelect(node.id)} onDblClick=${() => onNumbers(node)}
      onFocus=${(event) => event.target.matches(":focus-visible") && onSelect(node.id)}>
    ${node.opens && !node.about && html`<rect class="behind" x="4" y="-4" width=${width} height=${height} rx="7" />`}
    <rect class="body" width=${width} height=${height} rx="7" />
    <path class="side" d=${`M7,0H6A6,6 0 0 0 0,6V${height - 6}A6,6 0 0 0 6,${height}H7z`} />
    ${!plain && grown > 0 && html`
      <text class="strong" style=${{ fontSize: `${13 * grown}px` }} x="14" y=${14 * grown}>${cut(node.name, Math.floor((width - (node.opens ? 42 : 18)) / (8.4 * grown)))}</text>
      ${!end && html`<text style=${{ fontSize: `${11.5 * grown}px` }} x="14" y=${29 * grown}>${cut(sizes(node.shape), Math.floor((width - 18) / (6.8 * grown)))}</text>`}`}
    ${!plain && !grown && html`
      <text class="strong" x="14" y="17">${cut(node.name, letters)}</text>
      ${end ? html`<text class="quiet" x="14" y="34">${sizes(node.shape)}</text>` : html`
      <text class="quiet" x="14" y="31">${cut(type || node.type, fits)}</text>
      <text x="14" y="45">${sizes(node.shape)}${inside ? html`<tspan class="quiet">${cut(`  ${inside}`, Math.max(3, Math.floor((width - 20) / 6.4) - sizes(node.shape).length))}</tspan>` : ""}</text>
      <text class="quiet" x="14" y="59">${figures(node)}</text>
      <text class="quiet" x="14" y="73">${seen}</text>`}`}
    ${node.opens && html`<g class="button" role="button" tabindex="0" aria-label=${`open ${node.name}`}
      onClick=${(event) => { event.stopPropagation(); onToggle(node.id, true); }}
      onKeyDown=${(event) => event.key === "Enter" && (event.stopPropagation(), onToggle(node.id, true))}>
      <rect x=${width - 23} y="6" width="17" height="17" rx="4" />
      <path d=${`M${width - 19},14.5h9M${width - 14.5},10v9`} /></g>`}
  </g>`;
}

// Small maps of a tensor beside each other, within a width.
export function drawMaps(draw, map, x, y, width, height, factor = 1) {
  const [count, rows, columns] = map.shape;
  const scale = scaleOf(map.low, map.high);
  draw.imageSmoothingEnabled = false;
  const vector = map.form === "vector";
  const tall = vector ? 14 : height;
  // A matrix of very many rows or columns would be a line.
  const aspect = map.form === "rows" ? Math.min(4, Math.max(0.6, columns / rows)) : columns / rows;
  const wide = vector ? width : Math.min(tall * aspect, width / Math.min(count, 4) - 3);
  for (let place = 0; place < count; place += 1) {
    const left = x + place * (wide + 3);
    if (left + wide > x + width + 0.5) break;
    const small = document.createElement("canvas");
    small.width = columns;
    small.height = rows;
    small.getContext("2d").putImageData(picture(map.data, rows, columns, scale, map.start + place * rows * columns), 0, 0);
    draw.drawImage(small, left * factor, (y + (height - tall) / 2) * factor, wide * factor, (vector ? tall : Math.min(tall, wide / aspect || tall)) * factor);
  }
}

function Maps({ nodes, maps, scale, stage, window: window_ }) {
  const canvas = useRef(null);
  useEffect(() => {
    const element = canvas.current;
    const area = stage.current;
    const fine = window.devicePixelRatio || 1;
    const paint = () => {
      element.width = area.clientWidth * fine;
      element.height = area.clientHeight * fine;
      element.style.width = `${area.clientWidth}px`;
      element.style.height = `${area.clientHeight}px`;
      element.style.marginBottom = `${-area.clientHeight}px`;
      const draw = element.getContext("2d");
      if (scale < PLAIN) return;
      draw.setTransform(scale * fine, 0, 0, scale * fine, (MARGIN * scale - area.scrollLeft) * fine, (MARGIN * scale - area.scrollTop) * fine);
      for (const { values, box: [x, y, width, height], maps: has } of nodes) {
        const map = has && maps.get(values[0]);
        if (map) drawMaps(draw, map, x + 14, y + height - 41, width - 20, 36);
      }
    };
    paint();
    area.addEventListener("scroll", paint);
    const watch = new ResizeObserver(paint);
    watch.observe(area);
    return () => { area.removeEventListener("scroll", paint); watch.disconnect(); };
  });
  return html`<canvas class="overlay" ref=${canvas} aria-hidden="true"></canvas>`;
}
