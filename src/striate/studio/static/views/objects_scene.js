// The picture with boxes over it, which can be pointed at, clicked and saved.

import { html, useLayoutEffect, useRef } from "/static/vendor/preact-htm.js";
import { changed, go } from "/static/lib/address.js";
import { short } from "/static/lib/maps.js";
import { Exports } from "/static/lib/parts.js";
import { imageOf } from "/static/lib/pixels.js";

// Okabe and Ito's colours, which colour-blind people tell apart.
export const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999"];
export const rgb = (text) => [1, 3, 5].map((place) => parseInt(text.slice(place, place + 2), 16));

export function mix(data, place, [red, green, blue], share) {
  data[4 * place] = (1 - share) * data[4 * place] + share * red;
  data[4 * place + 1] = (1 - share) * data[4 * place + 1] + share * green;
  data[4 * place + 2] = (1 - share) * data[4 * place + 2] + share * blue;
}

// How large a picture is shown: most of the window, and never smaller than it is legible.
function sizeOf([, height, width]) {
  const room = [window.innerWidth - (window.innerWidth > 1000 ? 520 : 40), window.innerHeight - 190];
  const factor = Math.max(Math.min(room[0] / width, room[1] / height), Math.min(320, room[0]) / width);
  return [Math.round(width * factor), Math.round(height * factor)];
}

// `paint` changes the pixels under the boxes; `boxes` are {key, box, colour, kind, label}, the last on top;
// `onAt` is called with the key of the box that is pointed at, `onPick` with (y, x) of a click, in pixels.
export function Scene({ pixels, paint, boxes, label = "the picture", onAt, onPick, name, json }) {
  const [channels, height, width] = pixels.header.shape;
  const canvas = useRef(null);
  const drawing = useRef(null);
  const size = sizeOf(pixels.header.shape);
  useLayoutEffect(() => {
    const image = imageOf(pixels.data, 0, channels, height, width);
    paint?.(image.data);
    canvas.current.width = width;
    canvas.current.height = height;
    canvas.current.getContext("2d").putImageData(image, 0, 0);
  }, [pixels, paint]);
  const pick = onPick && ((event) => {
    const frame = drawing.current.getBoundingClientRect();
    onPick(((event.clientY - frame.top) / frame.height) * height, ((event.clientX - frame.left) / frame.width) * width);
  });
  return html`<div class="scene"><div class="painted" style=${{ width: `${size[0]}px`, height: `${size[1]}px` }}>
      <canvas class="pixels" ref=${canvas} role="img" aria-label=${label}></canvas>
      <svg ref=${drawing} class=${pick ? "pick" : ""} viewBox=${`0 0 ${width} ${height}`} role="group" aria-label="boxes" onPointerLeave=${() => onAt?.(null)} onClick=${pick}>
        ${boxes.map((each) => { const [left, top, right, bottom] = each.box; return html`<rect key=${each.key} data-box=${each.key} tabindex=${onAt ? "0" : null} role="img" aria-label=${each.label}
          class=${`box ${each.kind}`} x=${left} y=${top} width=${Math.max(0, right - left)} height=${Math.max(0, bottom - top)} stroke=${each.colour} vector-effect="non-scaling-stroke"
          onPointerEnter=${onAt && (() => onAt(each.key))} onFocus=${onAt && (() => onAt(each.key))} />`; })}</svg></div>
    <${Exports} name=${name} svg=${() => drawing.current} pictures=${() => [{ canvas: canvas.current, x: 0, y: 0, width, height }]} canvas=${() => together(canvas.current, boxes, size[0] / width)} json=${json} /></div>`;
}

// Picture and boxes on one canvas, as large as they are shown.
function together(under, boxes, factor) {
  const canvas = document.createElement("canvas");
  canvas.width = under.width * factor;
  canvas.height = under.height * factor;
  const draw = canvas.getContext("2d");
  draw.imageSmoothingEnabled = false;
  draw.drawImage(under, 0, 0, canvas.width, canvas.height);
  for (const { box: [left, top, right, bottom], colour, kind } of boxes) {
    draw.strokeStyle = colour;
    draw.lineWidth = kind.includes("kept") ? 2.2 : 1.4;
    draw.setLineDash(kind.includes("removed") ? [5, 4] : []);
    draw.strokeRect(left * factor, top * factor, (right - left) * factor, (bottom - top) * factor);
  }
  return canvas;
}

// Boxes that are drawn unless the address says how many: more of them cover each other.
const FEW = 60;

// Boxes before and after suppression: why each of them goes, and which stay.
export function Suppressed({ list, overlap, names, pixels, paint, address, at, setAt, all, name, json, what, limit, children }) {
  const colourOf = (each) => COLOURS[names.indexOf(each.name) % COLOURS.length];
  const kept = list.filter((each) => each.kept);
  const pointed = at === null ? null : list[at];
  const most = Math.min(list.length, Number(address.query.most) || FEW);
  const wanted = (each) => each.place === at || each.place === pointed?.by || (each.place < most && (each.kept || all));
  const shown = list.map((each, place) => ({ ...each, place })).filter(wanted).toReversed();
  const boxes = shown.map((each) => ({
    key: each.place, box: each.box, colour: colourOf(each), label: `${each.name}, score ${short(each.score)}, ${each.kept ? "kept" : "removed"}`,
    kind: `${each.kept ? "kept" : "removed"}${each.place === at ? " at" : ""}${pointed && !pointed.kept && each.place === pointed.by ? " guilty" : ""}`,
  }));
  const told = !list.length ? html`No box is surer than that. Lower the threshold to see what the network would say.` : !pointed ? html`<b>${kept.length}</b> of ${list.length} ${what} stay.`
    : pointed.kept ? html`<b>${pointed.name}</b>, score ${short(pointed.score)}, stays. ${list.filter((each) => each.by === at).length} boxes are removed because of it.`
    : pointed.by < 0 ? html`<b>${pointed.name}</b>, score ${short(pointed.score)}, is removed: the network gives ${limit ?? kept.length} boxes at most, and these are surer.`
    : html`<b>${pointed.name}</b>, score ${short(pointed.score)}, is removed: it overlaps a surer box (${short(list[pointed.by]?.score)}) of its ${what === "proposals" ? "level" : "class"} by <b>${short(pointed.overlap)}</b>, more than ${short(overlap)}.`;
  return html`<div class="beside-scene"><${Scene} pixels=${pixels} paint=${paint} boxes=${boxes} onAt=${setAt} name=${name} json=${json} />
    <div class="says-boxes"><p class="told" aria-live="polite">${told}</p>${children}
      ${list.length > 1 && html`<label class="slider"><span>show the surest</span><input type="range" min="1" max=${list.length} value=${most} aria-label="boxes that are shown"
        onInput=${(event) => go(changed(address, { most: event.currentTarget.value }), { replace: true })} /><output>${most} of ${list.length}</output></label>`}
      <ul class="names">${names.map((each) => html`<li key=${each}><span class="dot" style=${{ background: COLOURS[names.indexOf(each) % COLOURS.length] }}></span>${each}: ${kept.filter((one) => one.name === each).length}</li>`)}</ul></div></div>`;
}
