// The results of the view "why", each drawn from the numbers that the server sent.

import { html, useEffect, useLayoutEffect, useRef, useState } from "/static/vendor/preact-htm.js";
import { format, go } from "/static/lib/address.js";
import { getBlob, getNumbers, postJson } from "/static/lib/api.js";
import { colour, extent, scaleOf } from "/static/lib/colours.js";
import { Legend, MapView, short } from "/static/lib/maps.js";
import { Exports, Note } from "/static/lib/parts.js";
import { pictured } from "/static/lib/save.js";
import { imageOf, Pixels } from "/static/lib/pixels.js";
import { useLoaded } from "/static/lib/store.js";

// A method's name for people.
export const words = (name) => name.replaceAll("_", " ").replace("grad cam", "Grad-CAM").replace(/^cam$/, "CAM").replace(/ cam$/, "-CAM");

const part = (id, name, signal) => getNumbers(`jobs/${id}/result`, { part: name }, { signal });

export function Result(props) {
  const kind = { map: EvidenceMap, filters: Filters, patches: Patches, maximize: Maximised, figure: Figure }[props.result.kind];
  return html`<${kind} ...${props} />`;
}

function useParts(id, names, more) {
  return useLoaded(async (signal) => {
    const found = await Promise.all([...names.map((name) => part(id, name, signal)), ...(more ? [more(signal)] : [])]);
    return found;
  }, [id]);
}

function Notes({ notes }) {
  return notes?.length ? html`<ul class="notes">${notes.map((each) => html`<li key=${each}>${each}</li>`)}</ul>` : null;
}

// A map over the picture: the stronger the evidence, the less of the picture shows through.
function Overlay({ pixels, map, scale, strength, refer, size }) {
  const own = useRef(null);
  const canvas = refer ?? own;
  const [channels, height, width] = pixels.header.shape;
  useLayoutEffect(() => {
    const image = imageOf(pixels.data, 0, channels, height, width);
    const most = Math.max(Math.abs(scale.low), Math.abs(scale.high)) || 1;
    for (let place = 0; place < height * width; place += 1) {
      const value = map.data[place];
      const share = strength * Math.min(1, Math.sqrt(Math.abs(value) / most));
      const over = colour(value, scale);
      for (let each = 0; each < 3; each += 1) {
        const grey = (image.data[4 * place] + image.data[4 * place + 1] + image.data[4 * place + 2]) / 3;
        const under = scale.kind === "diverging" ? 0.5 * image.data[4 * place + each] + 0.25 * grey + 32 : image.data[4 * place + each];
        image.data[4 * place + each] = (1 - share) * under + share * over[each];
      }
    }
    canvas.current.width = width;
    canvas.current.height = height;
    canvas.current.getContext("2d").putImageData(image, 0, 0);
  }, [pixels, map, strength, scale.low, scale.high]);
  return html`<canvas class="pixels" ref=${canvas} role="img" aria-label="the map over the picture"
    style=${{ width: `${size}px`, height: `${(size * height) / width}px` }}></canvas>`;
}

function EvidenceMap({ result }) {
  const [strength, setStrength] = useState(0.8);
  const over = useRef(null);
  const { value, error } = useParts(result.id, ["map"], (signal) => getNumbers(`pixels/${encodeURIComponent(result.picture)}`, {}, { signal }));
  if (error) return html`<${Note} error=${error} />`;
  if (!value) return html`<p class="quiet" aria-busy="true">Loading the map</p>`;
  const [map, pixels] = value;
  const [, height, width] = map.header.shape;
  const scale = result.signed ? scaleOf(result.low, result.high) : scaleOf(Math.min(0, result.low), result.high);
  const size = Math.min(340, Math.max(224, width));
  const guess = result.predictions[0] ?? [];
  return html`<div class="evidence">
    <h2>${words(result.method)} for <b>${result.target[0]}</b>${result.layer ? html` at <code>${result.layer}</code>` : ""}</h2>
    <div class="row">
      <figure><${Pixels} data=${pixels.data} shape=${pixels.header.shape} size=${size} label="the picture" /><figcaption>the picture</figcaption></figure>
      <figure><${MapView} data=${map.data} height=${height} width=${width} scale=${scale} size=${size} label="evidence" /><figcaption>${result.quantity}</figcaption></figure>
      <figure><${Overlay} pixels=${pixels} map=${map} scale=${scale} strength=${strength} refer=${over} size=${size} /><figcaption>over the picture
        <input type="range" min="0" max="1" step="0.05" value=${strength} aria-label="strength of the map" onInput=${(event) => setStrength(Number(event.currentTarget.value))} /></figcaption></figure>
    </div>
    <p><${Legend} scale=${scale} /> ${result.detail === "regions" ? "Neighbouring pixels share numbers." : "Each pixel has its own number."}</p>
    <p class="quiet">score ${short(result.scores[0])}${guess.length ? ` · the network says ${guess.slice(0, 3).map((each) => `${each.name} ${(100 * each.probability).toFixed(1)} %`).join(", ")}` : ""}
      ${Object.entries(result.measures).map(([name, numbers]) => ` · ${name} ${short(numbers[0])}`)}</p>
    <${Notes} notes=${result.notes} />
    <${Exports} name=${result.method} canvas=${() => over.current} json=${() => ({ ...result, map: Array.from(map.data) })} />
  </div>`;
}

// Kernels in the order of their similarity, each with its spectrum.
function Filters({ result }) {
  const grid = useRef(null);
  const { value, error } = useParts(result.id, ["kernels", "patterns", "responses"]);
  if (error) return html`<${Note} error=${error} />`;
  if (!value) return html`<p class="quiet" aria-busy="true">Loading the filters</p>`;
  const [kernels, patterns, responses] = value;
  const [, channels, height, width] = kernels.header.shape;
  const [, rows, columns] = responses.header.shape;
  const plane = height * width;
  const scale = scaleOf(...extent(patterns.data));
  const coloured = channels === 3;
  const size = result.filters.length <= 24 ? 128 : 64;
  const orientation = (each) => (each.orientation === null ? "no direction" : `${((each.orientation * 180) / Math.PI).toFixed(0)}°`);
  return html`<div class="filters">
    <h2>${result.filters.length}${result.filters.length < result.total ? ` of ${result.total}` : ""} kernels of <code>${result.layer}</code>, like beside like</h2>
    <p class="quiet">${coloured ? "Each kernel in colour, grey is zero" : channels === 1 ? "Each kernel" : `Each kernel's pattern: of all patterns times one weight for each of ${channels} channels the nearest to it`};
      beside it the spectrum, low frequencies in the middle. ${!coloured ? html`<${Legend} scale=${scale} />` : ""}</p>
    <div class="kernels" ref=${grid}>${result.order.map((place) => {
      const each = result.filters[place];
      const words = `${each.frequency ? `${short(each.frequency)} cycles a pixel, ${orientation(each)}` : "passes the mean best"}; norm ${short(each.norm)}${each.bandwidth ? `; ${short(each.bandwidth)} octaves wide` : ""}`;
      return html`<figure key=${each.index} title=${`kernel ${each.index}: ${words}`}><div class="pair">
        ${coloured ? html`<${Pixels} data=${tinted(kernels.data, place * 3 * plane, 3 * plane)} shape=${[3, height, width]} size=${size} label=${`kernel ${each.index}`} />`
          : html`<${MapView} data=${patterns.data} from=${place * plane} height=${height} width=${width} scale=${scale} size=${size} label=${`kernel ${each.index}`} />`}
        <${MapView} data=${responses.data} from=${place * rows * columns} height=${rows} width=${columns} size=${size} label=${`spectrum of kernel ${each.index}`} />
        </div><figcaption>${each.index} · ${each.frequency ? `${each.frequency.toFixed(2)} c/px ${orientation(each)}` : "mean"}</figcaption></figure>`;
    })}</div>
    <${Exports} name=${`filters of ${result.layer}`} canvas=${() => pictured(grid.current)} json=${() => ({ ...result, kernels: Array.from(kernels.data), shape: kernels.header.shape })} />
  </div>`;
}

// Weights as colours about grey, as strong as the largest of this kernel allows.
function tinted(data, from, count) {
  const most = Math.max(...data.subarray(from, from + count).map(Math.abs)) || 1;
  return data.slice(from, from + count).map((value) => 127.5 + (127.5 * value) / most);
}

function Patches({ result, address, store }) {
  const grid = useRef(null);
  const { value, error } = useParts(result.id, ["patches", "images"]);
  if (error) return html`<${Note} error=${error} />`;
  if (!value) return html`<p class="quiet" aria-busy="true">Loading the patches</p>`;
  const [patches, images] = value;
  const shape = patches.header.shape.slice(1);
  const whole = images.header.shape.slice(1);
  const count = shape.reduce((one, other) => one * other);
  const size = whole.reduce((one, other) => one * other);
  const open = async (number) => {
    const made = await postJson("pictures/sample", {}, { params: { number } });
    await store.refresh();
    go(format("numbers", [], { picture: made.id }));
  };
  return html`<div class="patches">
    <h2>What excites channel ${result.channel} of <code>${result.layer}</code> most, of ${result.images} pictures (${result.of})</h2>
    <p class="quiet">Each patch is all that the position sees, ${shape[1]}×${shape[2]} pixels; striped is outside of the picture. Beside it the whole picture; a click opens it.</p>
    <div class="kernels" ref=${grid}>${result.patches.map((each, place) => html`<figure key=${place}><div class="pair">
      <${Patch} data=${patches.data} from=${place * count} shape=${shape} label=${`patch ${place + 1}`} />
      <button class="open" onClick=${() => open(each.image)} aria-label=${`open picture ${each.image}`}><${Framed} data=${images.data} from=${place * size} shape=${whole} patch=${each} /></button></div>
      <figcaption>${short(each.activation)}${each.label !== null ? ` · ${each.label}` : ""}</figcaption></figure>`)}</div>
    <${Exports} name="patches" canvas=${() => pictured(grid.current)} json=${() => result} />
  </div>`;
}

function Patch({ data, from, shape, label }) {
  const canvas = useRef(null);
  const [channels, height, width] = shape;
  useLayoutEffect(() => {
    canvas.current.width = width;
    canvas.current.height = height;
    const image = imageOf(data, from, channels, height, width);
    for (let place = 0; place < height * width; place += 1) {
      if (!Number.isNaN(data[from + place])) continue;
      const shade = (Math.floor(place / width) + (place % width)) % 4 < 2 ? 120 : 150;
      image.data.set([shade, shade, shade, 255], 4 * place);
    }
    canvas.current.getContext("2d").putImageData(image, 0, 0);
  }, [data, from]);
  const factor = 96 / Math.max(height, width);
  return html`<canvas class="pixels" ref=${canvas} role="img" aria-label=${label} style=${{ width: `${width * factor}px`, height: `${height * factor}px` }}></canvas>`;
}

// A picture with the patch framed.
function Framed({ data, from, shape, patch }) {
  const [, height, width] = shape;
  const factor = 96 / Math.max(height, width);
  const box = { left: patch.left, top: patch.top, width: patch.size[1], height: patch.size[0] };
  return html`<span class="framed"><${Pixels} data=${data} from=${from} shape=${shape} size=${96} label=${`picture ${patch.image}`} />
    <svg viewBox=${`0 0 ${width} ${height}`} width=${width * factor} height=${height * factor} aria-hidden="true"><rect x=${box.left} y=${box.top} width=${box.width} height=${box.height} vector-effect="non-scaling-stroke" /></svg></span>`;
}

function Maximised({ result }) {
  const { value, error } = useParts(result.id, ["pictures"]);
  const row = useRef(null);
  if (error) return html`<${Note} error=${error} />`;
  if (!value) return html`<p class="quiet" aria-busy="true">Loading the pictures</p>`;
  const [{ data, header }] = value;
  const [count, ...shape] = header.shape;
  const size = shape.reduce((one, other) => one * other);
  const [low, high] = extent(Float32Array.from(result.history.flat()));
  const line = (place) => result.history.map((each, step) => `${(step / Math.max(1, result.history.length - 1)) * 300},${100 - ((each[place] - low) / (high - low || 1)) * 96}`).join(" ");
  return html`<div class="maximised">
    <h2>What maximises ${result.what}</h2>
    <p class="quiet">Gradient ascent from noise on the waves of a picture. It shows what the network answers to, which need not look like anything.</p>
    <div class="row" ref=${row}>${result.seeds.map((seed, place) => html`<figure key=${seed}><${Pixels} data=${data} from=${place * size} shape=${shape} size=${256} label=${`picture from seed ${seed}`} />
      <figcaption>seed ${seed}: from ${short(result.started[place])} to <b>${short(result.reached[place])}</b></figcaption></figure>`)}
      <figure><svg class="climb" viewBox="-52 -8 358 124" width="358" height="124" role="img" aria-label="what is maximised, step by step">
        <text x="-4" y="8" text-anchor="end">${short(high)}</text><text x="-4" y="104" text-anchor="end">${short(low)}</text>
        <path d="M0,0V100H300" />${Array.from({ length: count }, (_, place) => html`<polyline key=${place} class=${`seed${place}`} points=${line(place)} />`)}</svg>
        <figcaption>step by step, ${result.history.length} steps</figcaption></figure></div>
    <${Exports} name="maximised" canvas=${() => row.current.querySelector("canvas")} svg=${() => row.current.querySelector("svg")} json=${() => result} />
  </div>`;
}

// What only the library draws.
function Figure({ result }) {
  const canvas = useRef(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    let current = true;
    getBlob(`jobs/${result.id}/figure`).then(createImageBitmap).then((image) => {
      if (!current) return;
      canvas.current.width = image.width;
      canvas.current.height = image.height;
      canvas.current.getContext("2d").drawImage(image, 0, 0);
      canvas.current.dataset.ready = "1";
    }).catch((failure) => current && setError(failure));
    return () => { current = false; };
  }, [result.id]);
  return html`<div>${error && html`<${Note} error=${error} />`}<canvas class="figure" ref=${canvas} role="img" aria-label=${result.about}></canvas>
    <p><${Exports} name="figure" canvas=${() => canvas.current} json=${() => result.data} /></p></div>`;
}
