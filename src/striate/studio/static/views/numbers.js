// Every tensor's maps: colours by sign, own or shared scale, several pictures side by side, single values by zooming.

import { html, useMemo, useState } from "/static/vendor/preact-htm.js";
import { changed, format, go } from "/static/lib/address.js";
import { getNumbers } from "/static/lib/api.js";
import { scaleOf } from "/static/lib/colours.js";
import { Legend, MapView, many, short } from "/static/lib/maps.js";
import { Call, Exports, Note, PixelPicture } from "/static/lib/parts.js";
import { pictured } from "/static/lib/save.js";
import { placeOf } from "/static/lib/places.js";
import { useLoaded } from "/static/lib/store.js";
import { List } from "/static/views/numbers_list.js";
import { Zoom } from "/static/views/numbers_zoom.js";

export const title = "Numbers";
export const help = "Each small picture is one channel of this tensor. Click a number to see how it came about, or a channel's name to zoom into it.";

const PAGE = 64;
const SIZES = [64, 96, 144, 224, 320];
const FORMS = {
  maps: "maps (N, C, H, W)", maps_last: "maps (N, H, W, C)", filters: "filters, first axis as channels", tokens: "tokens on their grid",
  volume: "slices of a volume", rows: "last two axes as a map", vector: "a vector in rows",
};

export default function Numbers({ address, store }) {
  const { pictures } = store.get();
  const main = store.picture(address);
  const value = address.parts[0];
  const beside = (address.query.with ?? "").split(",").filter((id) => id && id !== main?.id && pictures.some((each) => each.id === id));
  return html`<div class="numbers">
    <${List} address=${address} picture=${main?.id} chosen=${value} />
    <section>
      ${value === undefined ? html`<p class="help">Choose a tensor on the left, or click a node of the network twice.</p>`
        : html`<${Tensor} key=${value} value=${value} address=${address} shown=${[main?.id, ...beside]} store=${store} />`}
    </section>
  </div>`;
}

function Tensor({ value, address, shown, store }) {
  const { query } = address;
  const [pages, setPages] = useState(1);
  const size = SIZES.includes(Number(query.size)) ? Number(query.size) : 96;
  const zoom = query.zoom === undefined ? null : Number(query.zoom);
  const { value: found, error, loading } = useLoaded(
    (signal) => Promise.all(shown.map((picture) => getNumbers(`tensor/${encodeURIComponent(value)}`, {
      picture, form: query.form, sample: query.sample, training: query.training, size, single: 560, channels: `0-${PAGE * pages - 1}`,
    }, { signal }))),
    [value, shown.join(), query.form, query.sample, query.training, size, pages],
  );
  if (error) return html`<${Note} error=${error} />`;
  if (!found) return html`<p class="quiet" aria-busy="true">The network runs on the picture</p>`;
  const header = found[0].header;
  const set = (change) => go(changed(address, change), { replace: true });
  return html`<div aria-busy=${loading}>
    <${Head} header=${header} address=${address} />
    <p class="help">${help}</p>
    <${Controls} header=${header} query=${query} set=${set} size=${size} shown=${shown} store=${store} found=${found} />
    ${zoom !== null ? html`<${Zoom} value=${value} channel=${zoom} header=${header} shown=${shown} address=${address} />`
      : html`<${Grid} found=${found} shown=${shown} query=${query} size=${size} value=${value} set=${set} address=${address} />`}
    ${zoom === null && header.form.channels > found[0].header.channels.length && html`<p>
      <button onClick=${() => setPages(pages + 1)}>more channels</button>
      <span class="quiet"> ${found[0].header.channels.length} of ${header.form.channels}</span></p>`}
    <${Classes} header=${header} data=${found[0].data} classes=${store.get().subject.classes} value=${value} picture=${shown[0]} />
    <${Call} code=${header.call} />
  </div>`;
}

function Head({ header, address }) {
  const { statistics: known } = header;
  const link = (each) => html`<a href=${format("numbers", [each.value], { picture: address.query.picture, with: address.query.with })}>${each.name}</a>
    <span class="quiet"> ${each.shape.join("×")}</span>`;
  const node = header.node && format("network", [], { node: header.node.id, picture: address.query.picture, open: header.node.open.join(",") || null });
  return html`
    <h1>${header.name} <span class="quiet">${header.full.join("×") || "a number"} · ${header.dtype} · ${header.kind}</span></h1>
    <p class="facts">
      ${known.count === 0 ? "no numbers" : html`least ${short(known.min)} · largest ${short(known.max)} · mean ${short(known.mean)} ·
      deviation ${short(known.std)} · ${(100 * (known.zeros ?? 0)).toFixed(1)} % zeros · ${many(known.count)} numbers`}
      ${known.not_finite > 0 && html` · <b class="wrong">${known.not_finite} not finite</b>`}</p>
    <p class="facts">
      ${header.made && html`made by <b>${header.made.operator.replace("aten.", "")}</b> from
        ${header.made.inputs.map((each, place) => html`${place ? ", " : " "}${link(each)}`)}. `}
      ${header.uses.length > 0 && html`Used for ${header.uses.map((each, place) => html`${place ? ", " : ""}${link(each)}`)}. `}
      ${node && html`<a href=${node}>in the network</a>`}</p>`;
}

function Controls({ header, query, set, size, shown, store, found }) {
  const shared = Boolean(query.shared);
  const { pictures } = store.get();
  const other = pictures.filter((each) => each.id !== shown[0]);
  const toggle = (id) => {
    const now = shown.slice(1);
    set({ with: (now.includes(id) ? now.filter((each) => each !== id) : [...now, id]).join(",") || null });
  };
  return html`<div class="bar">
    <span class="group" role="group" aria-label="scale of colours">
      <button aria-pressed=${!shared} onClick=${() => set({ shared: null })}>own scale</button>
      <button aria-pressed=${shared} onClick=${() => set({ shared: 1 })}>shared scale</button></span>
    ${shared && html`<${Legend} scale=${scaleOf(...both(found.map((each) => each.header.extent)))} />`}
    ${header.forms.length > 1 && html`<label>as <select value=${header.form.name} onChange=${(event) => set({ form: event.target.value, sample: null, zoom: null })}>
      ${header.forms.map((each) => html`<option value=${each.name} selected=${each.name === header.form.name}>${FORMS[each.name] ?? each.name}</option>`)}</select></label>`}
    ${header.form.samples > 1 && html`<label>number <input type="number" min="0" max=${header.form.samples - 1} value=${header.sample}
      onChange=${(event) => set({ sample: event.target.value || null })} /> of ${header.form.samples}</label>`}
    <label>size <select value=${size} onChange=${(event) => set({ size: event.target.value })}>
      ${SIZES.map((each) => html`<option value=${each} selected=${each === size}>${each}</option>`)}</select></label>
    ${other.length > 0 && html`<details class="beside"><summary>pictures side by side</summary><div class="strip">
      ${other.slice(0, 24).map((each) => html`<button key=${each.id} aria-pressed=${shown.includes(each.id)} title=${each.name}
        aria-label=${`beside: ${each.name}`} onClick=${() => toggle(each.id)}>${each.size ? html`<${PixelPicture} id=${each.id} />` : each.name}</button>`)}</div></details>`}
    <${Exports} name=${header.name} canvas=${() => pictured(document.querySelector(".maps"))}
      json=${() => ({ ...header, numbers: Array.from(found[0].data, (each) => (Number.isFinite(each) ? each : String(each))) })} />
    ${header.factor > 1 && html`<span class="quiet">each pixel is the mean of ${header.factor}×${header.factor} numbers</span>`}
    ${header.form.skipped > 0 && html`<span class="quiet">${header.form.skipped} token${header.form.skipped > 1 ? "s" : ""} before the grid left out: see them as rows</span>`}
  </div>`;
}

export function both(extents) {
  const kept = extents.filter(Boolean);
  return [Math.min(...kept.map((each) => each[0])), Math.max(...kept.map((each) => each[1]))];
}

function Grid({ found, shown, query, size, value, set, address }) {
  const header = found[0].header;
  const whole = useMemo(() => scaleOf(...both(found.map((each) => each.header.extent))), [found]);
  const [count, rows, columns] = header.shape;
  if (!count) return html`<p class="note">This tensor holds no numbers.</p>`;
  const side = header.form.channels === 1 ? Math.max(size, 560) : size;
  const pick = (channel, place, y, x) => {
    if (header.factor > 1) return set({ zoom: channel, at: `${y * header.factor},${x * header.factor}` });
    const at = placeOf(header.form, header.full, header.sample, channel, y, x);
    if (!at) return undefined;
    return go(format("value", [value, at.join(",")], { picture: shown[place], training: address.query.training }));
  };
  return html`<div class="maps">${Array.from({ length: count }, (_, channel) => {
    const own = scaleOf(...both(found.map((each) => each.header.channels[channel])));
    const scale = query.shared ? whole : own;
    return html`<figure key=${channel}>
      <div class="row">${found.map((each, place) => html`<${MapView} key=${shown[place]} data=${each.data} height=${rows} width=${columns}
        from=${channel * rows * columns} scale=${scale} size=${side} factor=${header.form.name === "vector" ? Math.max(4, Math.min(44, Math.floor(1100 / columns / found.length))) : undefined} label=${`channel ${channel}`} onPick=${(y, x) => pick(channel, place, y, x)} />`)}</div>
      <figcaption><button class="link" aria-label=${`zoom into channel ${channel}`} onClick=${() => go(changed(address, { zoom: channel }))}>${channel}</button>
        ${!query.shared && html` <span class="quiet">${short(own.low)} … ${short(own.high)}</span>`}</figcaption>
    </figure>`;
  })}</div>`;
}

// The largest numbers of a vector that has one for each class, with the classes' names.
function Classes({ header, data, classes, value, picture }) {
  const length = header.full.at(-1);
  if (header.form.name !== "vector" || !classes.length || length !== classes.length || header.full.length !== 2) return null;
  const order = Array.from({ length }, (_, place) => place).sort((a, b) => data[b] - data[a]).slice(0, 10);
  const most = Math.max(...order.map((each) => Math.abs(data[each])), 1e-30);
  return html`<table class="classes"><caption>the largest numbers, by class</caption><tbody>${order.map((each) => html`<tr key=${each}>
    <th><a href=${format("value", [value, `${header.sample},${each}`], { picture })}>${classes[each]}</a></th><td class="number">${short(data[each])}</td>
    <td><meter min="0" max=${most} value=${Math.max(0, data[each])} aria-hidden="true"></meter></td></tr>`)}</tbody></table>`;
}
