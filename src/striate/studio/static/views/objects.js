// Objects: boxes that a detector keeps, those that suppression removes and why, masks, and classes of pixels.

import { html, useLayoutEffect, useRef, useState } from "/static/vendor/preact-htm.js";
import { changed, go } from "/static/lib/address.js";
import { getNumbers } from "/static/lib/api.js";
import { Progress, useJob } from "/static/lib/jobs.js";
import { short } from "/static/lib/maps.js";
import { Call, Exports, Help, Note } from "/static/lib/parts.js";
import { imageOf } from "/static/lib/pixels.js";
import { sheet } from "/static/lib/sheet.js";
import { useLoaded } from "/static/lib/store.js";

sheet("objects");

export const title = "objects";
export const help = "What the network finds on the picture. Solid boxes stay; dashed ones are removed, since a surer box of the same class covers them: point at one to see which.";

// Okabe and Ito's colours, which colour-blind people tell apart.
const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999"];
const colourOf = (names, name) => COLOURS[names.indexOf(name) % COLOURS.length];
const rgb = (text) => [1, 3, 5].map((place) => parseInt(text.slice(place, place + 2), 16));

// The picture, with what `paint` puts over its pixels.
function Painted({ pixels, paint, refer, size }) {
  const [channels, height, width] = pixels.header.shape;
  useLayoutEffect(() => {
    const image = imageOf(pixels.data, 0, channels, height, width);
    paint?.(image.data);
    refer.current.width = width;
    refer.current.height = height;
    refer.current.getContext("2d").putImageData(image, 0, 0);
  }, [pixels, paint]);
  return html`<canvas class="pixels" ref=${refer} role="img" aria-label="the picture" style=${{ width: `${size}px`, height: `${(size * height) / width}px` }}></canvas>`;
}

function mix(data, place, [red, green, blue], share) {
  data[4 * place] = (1 - share) * data[4 * place] + share * red;
  data[4 * place + 1] = (1 - share) * data[4 * place + 1] + share * green;
  data[4 * place + 2] = (1 - share) * data[4 * place + 2] + share * blue;
}

function Boxes({ result, pixels, masks, address }) {
  const [at, setAt] = useState(null);
  const [all, setAll] = useState(true);
  const canvas = useRef(null);
  const drawing = useRef(null);
  const [, height, width] = pixels.header.shape;
  const size = Math.min(560, Math.max(320, width));
  const names = [...new Set(result.boxes.map((each) => each.name))].sort();
  const kept = result.boxes.filter((each) => each.kept);
  const shown = result.boxes.map((each, place) => ({ ...each, place })).filter((each) => each.kept || all);
  const pointed = at === null ? null : result.boxes[at];
  const paint = masks && ((data) => {
    const [count, rows, columns] = masks.header.shape;
    for (let mask = 0; mask < count && rows === height && columns === width; mask += 1) {
      const colour = rgb(COLOURS[mask % COLOURS.length]);
      for (let place = 0; place < rows * columns; place += 1) if (masks.data[mask * rows * columns + place] > 0.5) mix(data, place, colour, 0.55);
    }
  });
  const set = (change) => go(changed(address, change), { replace: true });
  const slider = (name, value, words) => html`<label class="slider"><span>${words}</span><input type="range" min="0" max="1" step="0.01" value=${value ?? 0} aria-label=${words}
    onChange=${(event) => set({ [name]: event.currentTarget.value })} /><output>${short(value)}</output></label>`;
  return html`<div class="boxes">
    <p class="told" aria-live="polite">${pointed && !pointed.kept
      ? html`<b>${pointed.name}</b>, score ${short(pointed.score)}, is removed: it overlaps a surer box (${short(result.boxes[pointed.by]?.score)}) of its class by <b>${short(pointed.overlap)}</b>, more than ${short(result.overlap)}.`
      : pointed ? html`<b>${pointed.name}</b>, score ${short(pointed.score)}, stays; ${result.boxes.filter((each) => each.by === at).length} boxes are removed for it.`
      : `${kept.length} of ${result.boxes.length} boxes stay.${result.suppresses ? "" : " This network suppresses nothing: it takes the peaks of its maps."}`}</p>
    <div class="scene"><${Painted} pixels=${pixels} paint=${paint} refer=${canvas} size=${size} />
      <svg ref=${drawing} viewBox=${`0 0 ${width} ${height}`} width=${size} height=${(size * height) / width} role="group" aria-label="boxes" onPointerLeave=${() => setAt(null)}>
        ${shown.toReversed().map((each) => { const [left, top, right, bottom] = each.box; return html`<rect key=${each.place} data-box=${each.place} tabindex="0" role="img"
          aria-label=${`${each.name}, score ${short(each.score)}, ${each.kept ? "kept" : "removed"}`}
          class=${`box ${each.kept ? "kept" : "removed"}${each.place === at ? " at" : ""}${pointed && !pointed.kept && each.place === pointed.by ? " guilty" : ""}`}
          x=${left} y=${top} width=${Math.max(0, right - left)} height=${Math.max(0, bottom - top)} stroke=${colourOf(names, each.name)} vector-effect="non-scaling-stroke"
          onPointerEnter=${() => setAt(each.place)} onFocus=${() => setAt(each.place)} />`; })}</svg></div>
    <div class="thresholds">${slider("score", result.score, "score above")} ${result.suppresses && slider("overlap", result.overlap, "overlap above")}
      <label class="tick"><input type="checkbox" checked=${all} onChange=${(event) => setAll(event.currentTarget.checked)} /> show what is removed</label></div>
    <ul class="names">${names.map((name) => html`<li key=${name}><span class="dot" style=${{ background: colourOf(names, name) }}></span>${name}: ${kept.filter((each) => each.name === name).length}</li>`)}</ul>
    <${Exports} name="objects" svg=${() => drawing.current} canvas=${() => canvas.current} json=${() => result} /></div>`;
}

function Classes({ result, pixels, map }) {
  const canvas = useRef(null);
  const [strength, setStrength] = useState(0.6);
  const [, height, width] = pixels.header.shape;
  const [, rows, columns] = map.header.shape;
  const paint = (data) => {
    if (rows !== height || columns !== width) return;
    for (let place = 0; place < rows * columns; place += 1) if (map.data[place] > 0) mix(data, place, rgb(COLOURS[(map.data[place] - 1) % COLOURS.length]), strength);
  };
  return html`<div class="boxes"><${Painted} pixels=${pixels} paint=${paint} refer=${canvas} size=${Math.min(560, Math.max(320, width))} />
    <label class="slider"><span>colours</span><input type="range" min="0" max="1" step="0.05" value=${strength} aria-label="strength of the colours" onInput=${(event) => setStrength(Number(event.currentTarget.value))} /></label>
    <ul class="names">${result.classes.map((each) => html`<li key=${each.class} data-class=${each.class}><span class="dot" style=${{ background: each.class ? COLOURS[(each.class - 1) % COLOURS.length] : "transparent" }}></span>${each.name}: ${(100 * each.share).toFixed(1)} %</li>`)}</ul>
    <${Exports} name="classes" canvas=${() => canvas.current} json=${() => result} /></div>`;
}

function Found({ result, address }) {
  const part = result.kind === "classes" ? "map" : result.masks ? "masks" : null;
  const { value, error } = useLoaded(async (signal) => [
    await getNumbers(`pixels/${encodeURIComponent(result.picture)}`, {}, { signal }),
    part ? await getNumbers(`jobs/${result.id}/result`, { part }, { signal }) : null,
  ], [result.id]);
  if (error) return html`<${Note} error=${error} />`;
  if (!value) return html`<p class="quiet" aria-busy="true">Loading the picture</p>`;
  const [pixels, more] = value;
  return result.kind === "classes" ? html`<${Classes} result=${result} pixels=${pixels} map=${more} />` : html`<${Boxes} result=${result} pixels=${pixels} masks=${more} address=${address} />`;
}

export default function View({ address, store }) {
  const { subject } = store.get();
  const picture = store.picture(address);
  const finds = ["detection", "instance", "semantic"].includes(subject.task);
  const { score, overlap } = address.query;
  const running = useJob(finds ? { path: "objects", query: { picture: picture.id, score, overlap } } : null);
  return html`<div class="objects"><${Help}>${help}<//>
    ${!finds && html`<${Note}>This network finds no objects. Start the studio with one that does: striate studio ssdlite320_mobilenet_v3_large<//>`}
    <${Progress} running=${running} />
    ${running.result && html`<${Found} key=${running.result.id} result=${running.result} address=${address} /><${Call} code=${running.result.call} />`}</div>`;
}
