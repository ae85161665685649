// The grids of the geometry view: positions of every stage, what lights up, and cells set apart by zeros.

import { html, useLayoutEffect, useRef, useState } from "/static/vendor/preact-htm.js";
import { short } from "/static/lib/maps.js";

const LARGEST = 46; // pixels of a cell
const GAP = 42;
const LABEL = 64;

// For each stage and axis the positions that `lit` reaches: backwards those that it sees, forwards those that see it.
export function reached(layers, lit) {
  const stages = Array(layers.length + 1).fill(null);
  stages[lit.stage] = { way: "here", axes: lit.at.map((place) => [place]) };
  for (let stage = lit.stage; stage > 0; stage -= 1) {
    const { sees } = layers[stage - 1];
    stages[stage - 1] = { way: "back", axes: stages[stage].axes.map((places) => union(places, sees)) };
  }
  for (let stage = lit.stage; stage < layers.length; stage += 1) {
    const { seen_by: seenBy } = layers[stage];
    stages[stage + 1] = { way: "forth", axes: stages[stage].axes.map((places) => union(places, seenBy)) };
  }
  return stages;
}

function union(places, table) {
  const found = new Set();
  for (const place of places) for (const [other] of table[place] ?? []) found.add(other);
  return [...found].sort((one, other) => one - other);
}

// Neighbouring positions as [first, last].
export function runs(places) {
  const found = [];
  for (const place of places) {
    const last = found[found.length - 1];
    if (last && place === last[1] + 1) last[1] = place;
    else found.push([place, place]);
  }
  return found;
}

// Stages with their places in the drawing, in rows as wide as there is room.
function laidOut(told, width, largest) {
  const { layers, dims } = told;
  const stages = [{ size: told.size, channels: told.channels }, ...layers.map((each) => ({ size: each.outputs, channels: each.out_channels }))];
  const room = Math.max(180, Math.min(350, (width - GAP * (stages.length - 1)) / stages.length));
  let x = 0;
  let y = 0;
  let tallest = 0;
  for (const [number, stage] of stages.entries()) {
    const layer = layers[number];
    const pads = layer && layer.kind !== "transposed" ? layer.padding : [0, 0];
    stage.before = pads[0];
    stage.count = stage.size + pads[0] + pads[1];
    stage.cell = Math.max(0.5, Math.min(largest, (dims === 1 ? Math.max(room, width * 0.9) : room) / stage.count));
    stage.width = stage.count * stage.cell;
    stage.height = dims === 1 ? Math.max(stage.cell, 16) : stage.width;
    const taken = Math.max(stage.width, 180);
    if (x > 0 && (x + taken > width || dims === 1)) {
      x = 0;
      y += tallest + LABEL + 8;
      tallest = 0;
    }
    Object.assign(stage, { x, y });
    x += taken + GAP;
    tallest = Math.max(tallest, stage.height);
  }
  return { stages, height: y + tallest + LABEL, width };
}

function lines(count, cell, width, height, dims) {
  if (cell < 3) return `M0,0H${width}V${height}H0Z`;
  let path = "";
  for (let place = 0; place <= count; place += 1) path += `M${place * cell},0V${height}`;
  for (let place = 0; place <= (dims === 1 ? 1 : count); place += 1) path += `M0,${dims === 1 ? place * height : place * cell}H${width}`;
  return path;
}

// Rectangles of the product of two axes' positions, as they lie in a stage.
function boxes(stage, axes, dims) {
  const [rows, columns] = dims === 1 ? [[[0, 0]], runs(axes[0])] : axes.map(runs);
  if (rows.length * columns.length > 3000) return [];
  const lead = dims === 1 ? 0 : stage.before;
  const tall = dims === 1 ? stage.height : stage.cell;
  return rows.flatMap(([top, bottom]) => columns.map(([left, right]) => [
    (left + stage.before) * stage.cell, (top + lead) * tall, (right - left + 1) * stage.cell, (bottom - top + 1) * tall,
  ]));
}

function Stage({ stage, number, dims, set, numbers, winners, label, onLight, active }) {
  const inner = stage.size * stage.cell;
  const lead = stage.before * stage.cell;
  const top = dims === 1 ? 0 : lead;
  const tall = dims === 1 ? stage.height : inner;
  const at = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const place = (offset, length) => Math.max(0, Math.min(stage.size - 1, Math.floor((offset / length) * stage.size)));
    const x = place(event.clientX - box.left, box.width);
    return dims === 1 ? [x] : [place(event.clientY - box.top, box.height), x];
  };
  const move = (event) => {
    const moved = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!moved) return;
    event.preventDefault();
    const from = active ?? Array(dims).fill(0);
    const steps = dims === 1 ? [moved[1]] : moved;
    onLight({ stage: number, at: from.map((place, axis) => Math.max(0, Math.min(stage.size - 1, place + steps[axis]))) });
  };
  return html`<g transform=${`translate(${stage.x},${stage.y + 22})`} class="stage" data-stage=${number}>
    <text x="0" y="-8" class="title">${label[0]}</text>
    ${stage.count > stage.size && html`<path class="padding" d=${lines(stage.count, stage.cell, stage.width, stage.height, dims)} />`}
    <rect class="ground" x=${lead} y=${top} width=${inner} height=${tall} />
    ${set && boxes(stage, set.axes, dims).map(([x, y, width, height], key) => html`<rect key=${key} class=${`lit ${set.way}`} x=${x} y=${y} width=${width} height=${height} />`)}
    <path class="cells" transform=${`translate(${lead},${top})`} d=${lines(stage.size, stage.cell, inner, tall, dims)} />
    ${numbers && stage.cell >= 20 && numbers.map((value, place) => {
      const x = dims === 1 ? place : place % stage.size;
      const y = dims === 1 ? 0 : Math.floor(place / stage.size);
      return html`<text key=${place} class=${`value${winners?.has(place) ? " winner" : ""}${active && (dims === 1 ? active[0] === x : active[0] === y && active[1] === x) ? " on" : ""}`} x=${lead + (x + 0.5) * stage.cell}
        y=${top + (y + 0.5) * (dims === 1 ? tall : stage.cell) + 5} text-anchor="middle">${short(value)}</text>`;
    })}
    <rect class="touch" x=${lead} y=${top} width=${inner} height=${tall} tabindex="0" role="img"
      aria-label=${`${label[0]}, ${label[1]}${active ? `, position ${active.join(", ")}` : ""}; arrow keys move`}
      onPointerMove=${(event) => onLight({ stage: number, at: at(event) })} onClick=${(event) => onLight({ stage: number, at: at(event), held: true })}
      onKeyDown=${move} onFocus=${() => !active && onLight({ stage: number, at: Array(dims).fill(0) })} />
    <text x="0" y=${stage.height + 18} class="size">${label[1]}</text>
    ${label[2] && html`<text x="0" y=${stage.height + 35} class="size">${label[2]}</text>`}
  </g>`;
}

export function Grids({ told, sets, lit, setLit, refer, worked, show, selected }) {
  const [width, setWidth] = useState(900);
  const frame = useRef(null);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(Math.max(280, Math.floor(entry.contentRect.width))));
    watch.observe(frame.current);
    return () => watch.disconnect();
  }, []);
  const { dims } = told;
  const plan = laidOut(told, width, worked ? 64 : LARGEST);
  const power = (size) => (dims === 1 ? `${size}` : `${size}×${size}`);
  const labels = plan.stages.map((stage, number) => {
    const layer = told.layers[number - 1];
    const field = layer?.field && number > 1 ? `sees ${power(layer.field.size)} of the input` : "";
    const name = told.layers.length > 2 ? layer?.name.replace("average", "avg").replace("convolution", "conv").replace("transposed", "transp.") : layer?.name;
    return [number === 0 ? "input" : `${number}. ${name} ${power(layer.kernel)}${layer.stride > 1 ? ` / ${layer.stride}` : ""}`,
      `${power(stage.size)}${stage.channels > 1 ? ` × ${stage.channels}` : ""}`, field];
  });
  const numbers = worked && (show === "forward" ? [worked.x, worked.y] : show === "input" ? [worked.dx, worked.g] : [worked.x, worked.g]);
  const kept = worked && lit?.tap ? tapped(told.layers[0], lit.tap, plan.stages.length) : sets;
  // Where several windows are won by one input, all of them are its.
  const winners = worked?.winners && show !== "kernel" ? new Set(worked.winners) : null;
  return html`<div ref=${frame} class="grids" onPointerLeave=${() => !lit?.held && setLit(null)}>
    <svg ref=${refer} viewBox=${`-2 0 ${plan.width + 4} ${plan.height}`} width=${plan.width + 4} height=${plan.height} role="group" aria-label="positions of every stage">
      ${plan.stages.map((stage, number) => html`<${Stage} key=${number} stage=${stage} number=${number} dims=${dims} set=${kept?.[number]}
        numbers=${numbers?.[number]} winners=${number === 0 ? winners : null} label=${labels[number]} active=${lit?.stage === number ? lit.at : null}
        onLight=${setLit} selected=${selected} />`)}
    </svg>
    <p class="key quiet"><span class="swatch here"></span> pointed at <span class="swatch back"></span> what it sees
      <span class="swatch forth"></span> what sees it <span class="swatch pad"></span> padding</p>
  </div>`;
}

// The inputs and outputs that one tap of the kernel joins.
function tapped(layer, tap, stages) {
  const pairs = tap.map((wanted) => layer.sees.flatMap((each, output) => each.filter(([, t]) => t === wanted).map(([place]) => [place, output])));
  const found = Array(stages).fill(null);
  found[0] = { way: "back", axes: pairs.map((axis) => [...new Set(axis.map(([place]) => place))].sort((a, b) => a - b)) };
  found[1] = { way: "forth", axes: pairs.map((axis) => [...new Set(axis.map(([, output]) => output))].sort((a, b) => a - b)) };
  return found;
}

// The kernel's numbers; pointing at one lights its tap.
export function KernelGrid({ numbers, size, dims, label, tap, onTap }) {
  if (size > 12) return null;
  const rows = dims === 1 ? [numbers] : Array.from({ length: size }, (_, y) => numbers.slice(y * size, (y + 1) * size));
  return html`<table class="kernel" onPointerLeave=${() => onTap(null)}><caption>${label}</caption><tbody>
    ${rows.map((row, y) => html`<tr key=${y}>${row.map((value, x) => {
      const place = dims === 1 ? [x] : [y, x];
      return html`<td key=${x} tabindex="0" class=${tap?.join() === place.join() ? "tap" : ""} onPointerEnter=${() => onTap(place)}
        onFocus=${() => onTap(place)}>${short(value)}</td>`;
    })}</tr>`)}</tbody></table>`;
}

// The transposed window as a plain one: positions set apart by zeros, and the flipped kernel at stride 1 over them.
export function Stretched({ told, lit, stage }) {
  const { cells, made, dilation, zeros, before, after } = told.stretched;
  const forward = told.kind === "transposed";
  const cell = Math.min(34, 1000 / cells.length);
  const which = lit && lit.stage === (forward ? stage + 1 : stage) ? lit.at[lit.at.length - 1] : null;
  const span = dilation * (told.kernel - 1) + 1;
  const what = forward
    ? "The same along one axis as a plain convolution: the flipped kernel at stride 1 over the inputs"
    : "The adjoint along one axis, by which gradients go back: the flipped kernel at stride 1 over the gradients of the outputs";
  return html`<figure class="stretched"><figcaption>${what}, ${zeros ? `${zeros} zero${zeros > 1 ? "s" : ""} between them` : "side by side"}, ${before < 0 ? `${-before} cut off` : `${before}`} before and ${after < 0 ? `${-after} cut off` : `${after}`} after.</figcaption>
    <svg width=${cells.length * cell + 2} height=${cell + 34} viewBox=${`-1 -1 ${cells.length * cell + 2} ${cell + 34}`} role="img" aria-label=${what}>
      ${cells.map((place, number) => html`<rect key=${number} class=${place === null ? "zero" : "place"} x=${number * cell} y="0" width=${cell} height=${cell} />`)}
      ${which !== null && which < made && Array.from({ length: told.kernel }, (_, tap) => html`<rect key=${tap} class="lit back" x=${(which + tap * dilation) * cell} y="0" width=${cell} height=${cell} />`)}
      ${cell >= 13 && cells.map((place, number) => html`<text key=${number} x=${(number + 0.5) * cell} y=${cell / 2 + 5} text-anchor="middle"
        class=${place === null ? "quiet" : "value"}>${place === null ? 0 : place}</text>`)}
      ${which !== null && html`<text class="size" x=${(which + span / 2) * cell} y=${cell + 22} text-anchor="middle">${forward ? "output" : "input"} ${which}</text>`}
    </svg></figure>`;
}
