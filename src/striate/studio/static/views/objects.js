// Objects: boxes that a detector keeps, those that suppression removes and why, what each position says, masks, classes.

import { html, useMemo, useState } from "/static/vendor/preact-htm.js";
import { changed, go } from "/static/lib/address.js";
import { getNumbers } from "/static/lib/api.js";
import { Progress, useJob } from "/static/lib/jobs.js";
import { short } from "/static/lib/maps.js";
import { Call, Help, Note } from "/static/lib/parts.js";
import { sheet } from "/static/lib/sheet.js";
import { useLoaded } from "/static/lib/store.js";
import { Positions } from "/static/views/objects_positions.js";
import { COLOURS, mix, rgb, Scene, Suppressed } from "/static/views/objects_scene.js";

sheet("objects");

export const title = "objects";
export const help = "What the network finds on the picture. Solid boxes stay; dashed ones are removed, since a surer box of the same class covers them: point at one to see which.";

const WORDS = { anchors: "anchors", squares: "positions", heat: "heat map" };
const namesOf = (list) => [...new Set(list.map((each) => each.name))].sort();

function Slider({ name, value, words, address }) {
  return html`<label class="slider"><span>${words}</span><input type="range" min="0" max="1" step="0.01" value=${value ?? 0} aria-label=${words}
    onChange=${(event) => go(changed(address, { [name]: event.currentTarget.value, box: "" }), { replace: true })} /><output>${short(value)}</output></label>`;
}

function Removed({ address }) {
  return html`<label class="tick"><input type="checkbox" checked=${address.query.removed !== "0"}
    onChange=${(event) => go(changed(address, { removed: event.currentTarget.checked ? "" : "0" }), { replace: true })} /> show what is removed</label>`;
}

function Boxes({ result, pixels, masks, address }) {
  const [at, setAt] = useState(address.query.box && result.boxes[address.query.box] ? Number(address.query.box) : null);
  const [, height, width] = pixels.header.shape;
  const paint = useMemo(() => masks && ((data) => {
    const [count, rows, columns] = masks.header.shape;
    for (let mask = 0; mask < count && rows === height && columns === width; mask += 1) {
      const colour = rgb(COLOURS[mask % COLOURS.length]);
      for (let place = 0; place < rows * columns; place += 1) if (masks.data[mask * rows * columns + place] > 0.5) mix(data, place, colour, 0.55);
    }
  }), [masks]);
  const point = (place) => { setAt(place); if (place !== null) history.replaceState(null, "", changed(address, { box: place })); };
  return html`<${Suppressed} list=${result.boxes} overlap=${result.overlap} names=${namesOf(result.boxes)} pixels=${pixels} paint=${paint} address=${address} at=${at} setAt=${point}
    all=${address.query.removed !== "0"} what="boxes" name="objects" json=${() => result}>
    ${!result.suppresses && html`<p class="quiet">This network suppresses nothing: it takes the peaks of its heat map.</p>`}
    ${masks && html`<p class="quiet">The first ${result.masks} objects have masks: where the probability is above one half.</p>`}
    <${Slider} name="score" value=${result.score} words="score above" address=${address} />
    ${result.suppresses && html`<${Slider} name="overlap" value=${result.overlap} words="overlap above" address=${address} /><${Removed} address=${address} />`}
  <//>`;
}

function Proposed({ result, pixels, address }) {
  const { boxes, overlap, count, most } = result.proposals;
  const [at, setAt] = useState(null);
  return html`<${Suppressed} list=${boxes} overlap=${overlap} limit=${most} names=${namesOf(boxes)} pixels=${pixels} address=${address} at=${at} setAt=${setAt}
    all=${address.query.removed !== "0"} what="proposals" name="proposals" json=${() => result.proposals}>
    <p class="quiet">The first stage proposes boxes that may hold an object of any class. These are the likeliest ${boxes.length} of ${count.toLocaleString("en")}. The second stage looks at those that stay.</p>
    <${Removed} address=${address} /><//>`;
}

function Classes({ result, pixels, map }) {
  const [strength, setStrength] = useState(0.6);
  const [, height, width] = pixels.header.shape;
  const [, rows, columns] = map.header.shape;
  // By the order in the list, so that the classes that cover most have colours of their own.
  const shown = result.classes.map((each) => each.class).filter((each) => each > 0);
  const colourOf = (number) => COLOURS[Math.max(0, shown.indexOf(number)) % COLOURS.length];
  const paint = useMemo(() => (data) => {
    if (rows !== height || columns !== width) return;
    for (let place = 0; place < rows * columns; place += 1) if (map.data[place] > 0) mix(data, place, rgb(colourOf(map.data[place])), strength);
  }, [map, strength]);
  return html`<div class="beside-scene"><${Scene} pixels=${pixels} paint=${paint} boxes=${[]} name="classes" json=${() => ({ ...result, map: Array.from(map.data) })} />
    <div class="says-boxes"><label class="slider"><span>colours</span><input type="range" min="0" max="1" step="0.05" value=${strength} aria-label="strength of the colours" onInput=${(event) => setStrength(Number(event.currentTarget.value))} /></label>
    <ul class="names">${result.classes.map((each) => html`<li key=${each.class} data-class=${each.class}><span class="dot" style=${{ background: each.class ? colourOf(each.class) : "transparent" }}></span>${each.name}: ${(100 * each.share).toFixed(1)} %</li>`)}</ul></div></div>`;
}

// The stages on the way to the boxes; an address names one.
function Stages({ result, stage, address }) {
  const stages = [["", "what is found"], ...(result.proposals ? [["proposals", "proposals"]] : []), ...(result.references ? [["positions", WORDS[result.references]]] : [])];
  if (stages.length < 2) return null;
  return html`<div class="words stages" role="tablist" aria-label="stage">${stages.map(([name, words]) => html`<button key=${name} role="tab" aria-selected=${stage === name} aria-pressed=${stage === name}
    onClick=${() => go(changed(address, { stage: name, box: "", level: "", at: "" }))}>${words}</button>`)}</div>`;
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
  if (result.kind === "classes") return html`<${Classes} result=${result} pixels=${pixels} map=${more} />`;
  const asked = address.query.stage ?? "";
  const stage = asked === "proposals" && result.proposals ? asked : asked === "positions" && result.references ? asked : "";
  const View = { "": Boxes, proposals: Proposed, positions: Positions }[stage];
  return html`<${Stages} result=${result} stage=${stage} address=${address} /><${View} key=${stage} result=${result} pixels=${pixels} masks=${more} address=${address} />`;
}

export default function View({ address, store }) {
  const { subject } = store.get();
  const picture = store.picture(address);
  const finds = ["detection", "instance", "semantic"].includes(subject.task);
  const { score, overlap } = address.query;
  const running = useJob(finds ? { path: "objects", query: { picture: picture.id, score, overlap } } : null);
  return html`<div class="objects"><${Help}>${subject.task === "semantic" ? "The likeliest class of each pixel." : help}<//>
    ${!finds && html`<${Note}>This network finds no objects. Start the studio with one that does: striate studio ssdlite320_mobilenet_v3_large<//>`}
    <${Progress} running=${running} />
    ${running.result && html`<${Found} key=${running.result.id} result=${running.result} address=${address} /><${Call} code=${running.result.call} />`}</div>`;
}
