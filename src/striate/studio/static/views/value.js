// One value, followed back: the window that it came from lit on every channel, the arithmetic beside it, and the walk on.

import { html, useEffect, useState } from "/static/vendor/preact-htm.js";
import { changed, format, go } from "/static/lib/address.js";
import { getJson, getNumbers } from "/static/lib/api.js";
import { MapView, many } from "/static/lib/maps.js";
import { Call, Exports, Note } from "/static/lib/parts.js";
import { pictured } from "/static/lib/save.js";
import { placeOf } from "/static/lib/places.js";
import { sheet } from "/static/lib/sheet.js";
import { useLoaded } from "/static/lib/store.js";
import { Arithmetic, digits } from "/static/views/value_terms.js";
import { Seen } from "/static/views/value_seen.js";

export const title = "One value";
export const help = "How this number came about. Click an operand to walk back to it, down to the pixels; arrow keys move over the map, Page up and Page down change the channel, Enter walks to the first operand, Backspace goes back.";

sheet("value");

const MOST_CRUMBS = 24;

// The walk in the address: "12@0,3,4,5~9@0,1,2,2".
function walked(text) {
  return (text ?? "").split("~").filter(Boolean).map((each) => {
    const [value, place] = each.split("@");
    return { value, place: place ?? "" };
  });
}

function written(walk) {
  return walk.slice(-MOST_CRUMBS).map((each) => `${each.value}@${each.place}`).join("~");
}

export function placeText(place) {
  return Array.isArray(place) ? place.join(",") : place;
}

export default function Value({ address, store }) {
  const [value, at = ""] = address.parts;
  const { query } = address;
  const picture = store.picture(address)?.id;
  const { value: found, error, loading } = useLoaded(
    (signal) => value === undefined ? Promise.resolve(null)
      : getJson(`value/${encodeURIComponent(value)}`, { picture, at, training: query.training, group: query.group }, { signal }),
    [value, at, picture, query.training, query.group],
  );
  const walk = walked(query.walk);
  const walkTo = (next, place) => go(format("value", [next, placeText(place)], {
    picture: query.picture, training: query.training, walk: written([...walk, { value, place: at }]),
  }));
  const moveTo = (place) => go(changed(address, { group: null }, [value, placeText(place)]), { replace: true });
  useKeys(found, walk, query, walkTo, moveTo);
  if (value === undefined) return html`<p class="help">Choose a number in <a href="#/numbers">Numbers</a>, or click one of a map in the network.</p>`;
  if (error) return html`<div><${Crumbs} walk=${walk} query=${query} /><${Note} error=${error} /></div>`;
  if (!found) return html`<p class="quiet" aria-busy="true">Following the value back</p>`;
  return html`<div class="value" aria-busy=${loading} data-value=${found.value} data-place=${found.place.join(",")}>
    <${Crumbs} walk=${walk} query=${query} here=${found} />
    <div class="sides">
      <section class="story">
    <h1><span>${found.name}</span> <span class="number">[${found.place.join(", ")}]</span> = <output class="number result">${digits(found.number)}</output></h1>
    <p class="help">${help}</p>
        <p class="made"><b>${found.title}</b> ${found.words}</p>
        ${found.pixel !== undefined && html`<p class="facts">The pixel is <b class="number pixel">${found.pixel}</b> of 255; the network sees it scaled.</p>`}
        ${found.formula && html`<p class="formula"><code>${found.formula}</code></p>`}
        <${Arithmetic} found=${found} address=${address} walkTo=${walkTo} />
        <${Check} check=${found.check} />
        <${Facts} facts=${found.facts} />
        <p class="bar"><${Exports} name=${`value-${found.value}-${found.place.join("-")}`} json=${() => found}
            svg=${found.kind === "maximum" || found.terms?.partial.length ? () => document.querySelector(".value svg.drawing") : null}
            canvas=${() => pictured(document.querySelector(".value .where"))} />
          <a href=${format("numbers", [found.value], { picture: query.picture })}>the whole tensor</a>
          <a href=${format("gradients", [], { of: found.value, place: found.place.join(","), picture: query.picture, training: query.training })}>how it moves with everything before it</a></p>
        <${Call} code=${found.call} />
      </section>
      <section class="where">
        <${Attention} found=${found} walkTo=${walkTo} />
        <${Windows} found=${found} picture=${picture} query=${query} walkTo=${walkTo} />
        <${Own} found=${found} picture=${picture} query=${query} moveTo=${moveTo} />
        <${Seen} value=${found.value} at=${found.place.join(",")} picture=${picture} training=${query.training} key=${`${found.value}@${found.place}`} />
      </section>
    </div>
  </div>`;
}

function Crumbs({ walk, query, here }) {
  const kept = { picture: query.picture, training: query.training };
  return html`<nav class="crumbs" aria-label="walk"><ol>
    ${walk.map((each, rank) => html`<li key=${rank}><a href=${format("value", [each.value, each.place], { ...kept, walk: written(walk.slice(0, rank)) })}>
      ${each.value} [${each.place}]</a></li>`)}
    ${here && html`<li aria-current="step">${here.name} [${here.place.join(",")}]</li>`}</ol></nav>`;
}

function useKeys(found, walk, query, walkTo, moveTo) {
  useEffect(() => {
    const press = (event) => {
      if (!found || event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
      const last = found.shape.length - 1;
      const step = { ArrowRight: [last, 1], ArrowLeft: [last, -1], ArrowDown: [last - 1, 1], ArrowUp: [last - 1, -1],
        PageDown: [Math.min(1, last), 1], PageUp: [Math.min(1, last), -1] }[event.key];
      if (step && step[0] >= 0) {
        const place = [...found.place];
        place[step[0]] = Math.max(0, Math.min(found.shape[step[0]] - 1, place[step[0]] + step[1]));
        event.preventDefault();
        if (place.join() !== found.place.join()) moveTo(place);
      } else if (event.key === "Enter" && !event.target.closest("a, button, summary, canvas")) {
        const hop = found.hops.find((each) => found.operands[each.value]?.valueKind !== "parameter") ?? found.hops[0];
        if (hop) walkTo(hop.value, hop.place);
      } else if (event.key === "Backspace" && walk.length) {
        event.preventDefault();
        const before = walk[walk.length - 1];
        go(format("value", [before.value, before.place], { picture: query.picture, training: query.training, walk: written(walk.slice(0, -1)) }));
      }
    };
    window.addEventListener("keydown", press);
    return () => window.removeEventListener("keydown", press);
  }, [found, walk.length, query.picture]);
}

function Check({ check }) {
  if (!check) return null;
  const off = typeof check.computed === "number" && typeof check.recorded === "number" ? Math.abs(check.computed - check.recorded) : null;
  return html`<p class="check" data-holds=${String(check.holds)}>${check.holds ? "✓" : "✗"} Worked out again in 64 bits: <span class="number">${digits(check.computed)}</span>;
    the network's own number: <span class="number">${digits(check.recorded)}</span>${off ? html` (${off.toExponential(1)} apart, ${check.holds ? "which is rounding" : html`<b class="wrong">more than rounding</b>`})` : "."}</p>`;
}

function Facts({ facts }) {
  const told = [facts.sharing?.words, facts.dense?.words].filter(Boolean);
  return html`${told.map((each) => html`<p class="facts" key=${each}>${each}</p>`)}
    ${facts.geometry && html`<p class="facts">As one line: <code>${facts.geometry}</code></p>`}
    ${facts.parts && html`<p class="facts">${facts.parts.map((each, rank) => html`<span key=${rank} class=${rank === facts.part ? "part on" : "part"}>${each.shape.join("×")}</span>`)}</p>`}`;
}

// Boxes of a strand's places in a map of this form: [y, x, height, width] for each channel that is looked at.
export function boxes(axes, form, factor, sample) {
  if (!axes) return null;
  const range = (list) => [list[0], list[list.length - 1]];
  if (form.name === "maps" && axes.length === 4) {
    if (!axes[0].includes(sample)) return null;
    const [top, bottom] = range(axes[2]);
    const [left, right] = range(axes[3]);
    const cell = (low, high) => [Math.floor(low / factor), Math.max(1, Math.floor(high / factor) - Math.floor(low / factor) + 1)];
    const [y, height] = cell(top, bottom);
    const [x, width] = cell(left, right);
    return { box: [y, x, height, width], channels: new Set(axes[1]) };
  }
  if (form.name === "rows" && axes.length >= 2) {
    const [top, bottom] = range(axes[axes.length - 2]);
    const [left, right] = range(axes[axes.length - 1]);
    const y = Math.floor(top / factor);
    const x = Math.floor(left / factor);
    return { box: [y, x, Math.floor(bottom / factor) - y + 1, Math.floor(right / factor) - x + 1], channels: new Set([0]) };
  }
  return null;
}

// The window, lit on every channel of the operand that it lies on.
function Windows({ found, picture, query, walkTo }) {
  const strand = found.terms?.strands[0] ?? found.window;
  const hop = found.hops.find((each) => found.operands[each.value]?.valueKind !== "parameter") ?? found.hops[0];
  const operand = strand?.value ?? hop?.value;
  const [pages, setPages] = useState(1);
  const { value: got } = useLoaded(
    (signal) => operand === undefined ? Promise.resolve(null)
      : getNumbers(`tensor/${operand}`, { picture, training: query.training, size: 96, single: 300, form: found.operands[operand]?.shape.length === 3 ? "rows" : null, sample: sampleOf(found, operand, strand, hop), channels: `0-${24 * pages - 1}` }, { signal }),
    [operand, picture, query.training, found.place[0], pages],
  );
  if (!got || got.header.value !== operand || !got.header.shape[0]) return null;
  const { header, data } = got;
  const [count, rows, columns] = header.shape;
  const axes = strand?.axes ?? (hop && hop.place.map((each) => [each]));
  const lit = boxes(axes, header.form, header.factor, header.sample);
  const pick = (channel, y, x) => {
    const at = placeOf(header.form, header.full, header.sample, channel, y * header.factor, x * header.factor);
    if (at) walkTo(operand, at);
  };
  const seen = lit ? Array.from({ length: count }, (_, channel) => channel).filter((channel) => lit.channels.has(channel)) : [...Array(count).keys()];
  return html`<h2>${header.name} <span class="quiet">${header.full.join("×")}: ${strand ? "the window" : "where it comes from"}${lit ? `, ${lit.channels.size} channel${lit.channels.size > 1 ? "s" : ""}` : ""}</span></h2>
    <div class="windows">${seen.map((channel) => html`<figure key=${channel}>
      <${MapView} data=${data} height=${rows} width=${columns} from=${channel * rows * columns} size=${count === 1 ? 300 : 96} label=${`${header.name}, channel ${channel}`}
        marked=${lit ? [lit.box] : []} onPick=${(y, x) => pick(channel, y, x)} /><figcaption class="quiet">${channel}</figcaption></figure>`)}
      ${!seen.length && html`<p class="quiet">The window lies on channels ${[...lit.channels].slice(0, 4).join(", ")}.</p>`}</div>
    ${header.form.channels > count && html`<button onClick=${() => setPages(pages * 4)}>more of ${header.form.channels} channels</button>`}`;
}

function sampleOf(found, operand, strand, hop) {
  const first = strand?.axes?.[0]?.[0] ?? hop?.place?.[0] ?? 0;
  return [3, 4].includes(found.operands[operand]?.shape.length) ? first : 0;
}

// A row of attention on the picture's tokens; those before the grid (a class token) stand beside it.
function Attention({ found, walkTo }) {
  const told = found.facts.attention;
  if (!told) return null;
  const { row, grid, first } = told;
  const [height, width] = grid;
  const data = Float32Array.from(row.slice(first));
  const places = found.kind === "softmax" ? found.window : found.terms.strands[0];
  const pick = (y, x) => {
    const place = places.places[first + y * width + x];
    if (place && places.places.length === row.length) walkTo(places.value, place);
  };
  const most = row.indexOf(Math.max(...row));
  return html`<h2>Attention <span class="quiet">how much this token attends to each of ${row.length}</span></h2>
    <div class="own attention" data-tokens=${row.length}><${MapView} data=${data} height=${height} width=${width} size=${240} label="weight of each token, on the picture's grid" onPick=${pick} />
    <p class="facts">Each cell is a token, where it lies on the picture; the weights add up to 1. The largest, ${digits(row[most])}, is token ${most}'s.${first ? ` ${first} token${first > 1 ? "s" : ""} before the grid: ${row.slice(0, first).map(digits).join(", ")}.` : ""}</p></div>`;
}

// The map that the number stands in: another place of it has the same weights and another window.
function Own({ found, picture, query, moveTo }) {
  const channel = found.shape.length >= 4 ? found.place[1] : 0;
  const wanted = found.shape.length === 4;
  const { value: got } = useLoaded(
    (signal) => wanted ? getNumbers(`tensor/${found.value}`, { picture, training: query.training, size: 240, sample: found.place[0], form: "maps", channels: `${channel}-${channel}` }, { signal }) : Promise.resolve(null),
    [found.value, channel, found.place[0], picture, query.training],
  );
  if (!wanted || !got || got.header.value !== found.value || !got.header.shape[0]) return null;
  const { header, data } = got;
  const [, rows, columns] = header.shape;
  const at = [Math.floor(found.place[2] / header.factor), Math.floor(found.place[3] / header.factor)];
  const shared = found.facts.sharing;
  return html`<h2>This map, channel ${channel} of ${many(found.shape[1])}</h2>
    <div class="own"><${MapView} data=${data} height=${rows} width=${columns} size=${240} label=${`channel ${channel}`} selected=${at}
      marked=${shared ? [[0, 0, rows, columns]] : []} onPick=${(y, x) => moveTo([found.place[0], channel, y * header.factor, x * header.factor])} />
    ${shared && html`<p class="facts">The frame: all ${shared["a picture"] ?? shared.count} places of this map share the same weights. Click another one: the window moves, the weights stay.</p>`}</div>`;
}
