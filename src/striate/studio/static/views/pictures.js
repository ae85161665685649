// Pictures: your own, drawn ones, those of the data set; moved by hand, while the network's maps follow.

import { html, useEffect, useRef, useState } from "/static/vendor/preact-htm.js";
import { changed, go } from "/static/lib/address.js";
import { getJson, getNumbers, postBytes, postJson, remove } from "/static/lib/api.js";
import { extent, scaleOf } from "/static/lib/colours.js";
import { useLatest } from "/static/lib/latest.js";
import { Legend, MapView, short } from "/static/lib/maps.js";
import { parted, STILL, written } from "/static/lib/moves.js";
import { Call, Exports, Help, Note, PixelPicture } from "/static/lib/parts.js";
import { Pixels } from "/static/lib/pixels.js";
import { pictured } from "/static/lib/save.js";
import { sheet } from "/static/lib/sheet.js";
import { useLoaded } from "/static/lib/store.js";
import { Pad } from "/static/views/pictures_pad.js";

sheet("pictures");

export const title = "pictures";
export const help = "Move a picture by hand and see which maps follow. Where a layer is equivariant, its maps of the moved picture are its maps of the picture, moved as well.";

async function choose(store, address, picture, replace = false) {
  await store.refresh();
  go(changed(address, { picture: picture.id }), { replace });
}

function Upload({ store, address }) {
  const [over, setOver] = useState(false);
  const [error, setError] = useState(null);
  const send = async (files) => {
    setError(null);
    try {
      for (const file of [...files].slice(0, 8)) {
        await choose(store, address, await postBytes("pictures", file, { params: { name: file.name } }));
      }
    } catch (failure) {
      setError(failure);
    }
  };
  return html`<div class=${over ? "drop over" : "drop"}
    onDragOver=${(event) => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)}
    onDrop=${(event) => { event.preventDefault(); setOver(false); send(event.dataTransfer.files); }}>
    <label>Drop picture files here, or <input type="file" accept="image/*" multiple aria-label="picture files"
      onChange=${(event) => { send(event.currentTarget.files); }} /></label>
    ${error && html`<${Note} error=${error} />`}</div>`;
}

function Gallery({ store, address }) {
  const [first, setFirst] = useState(0);
  const { value, error } = useLoaded((signal) => getNumbers("gallery", { first }, { signal }), [first]);
  if (error) return html`<${Note} error=${error} />`;
  if (!value) return html`<p class="quiet" aria-busy="true">Loading the data set</p>`;
  const { header, data } = value;
  const [count, ...shape] = header.shape;
  const take = async (number) => choose(store, address, await postJson("pictures/sample", {}, { params: { number } }));
  return html`<div class="gallery"><p class="quiet">${header.name}: ${header.first + 1} to ${header.first + count} of ${header.total}
    <button disabled=${!first} onClick=${() => setFirst(Math.max(0, first - header.page))}>before</button>
    <button disabled=${first + count >= header.total} onClick=${() => setFirst(first + header.page)}>next</button></p>
    <div class="thumbs">${Array.from({ length: count }, (_, place) => html`<button key=${first + place} title=${header.labels.length ? `class ${header.labels[place]}` : ""}
      aria-label=${`picture ${first + place}`} onClick=${() => take(first + place)}>
      <${Pixels} data=${data} from=${place * shape[0] * shape[1] * shape[2]} shape=${shape} size=${38} /></button>`)}</div></div>`;
}

// The picture as the network sees it, moved: drag to shift, or to put something in front.
function Stage({ id, of, moves, shape, onMove }) {
  const [mode, setMode] = useState("shift");
  const start = useRef(null);
  const frame = useRef(null);
  const [, height, width] = shape;
  const at = (event) => {
    const box = frame.current.getBoundingClientRect();
    return [((event.clientY - box.top) / box.height) * height, ((event.clientX - box.left) / box.width) * width];
  };
  const clamp = (value, most) => Math.max(0, Math.min(most, Math.round(value)));
  const down = (event) => {
    event.currentTarget.setPointerCapture?.(event.pointerId);
    start.current = { from: at(event), moves };
  };
  const move = (event) => {
    if (!start.current) return;
    const { from, moves: before } = start.current;
    const to = at(event);
    if (mode === "shift") {
      onMove({ ...before, down: before.down + Math.round(to[0] - from[0]), across: before.across + Math.round(to[1] - from[1]) });
    } else {
      const [top, bottom] = [Math.min(from[0], to[0]), Math.max(from[0], to[0])].map((value) => clamp(value, height));
      const [left, right] = [Math.min(from[1], to[1]), Math.max(from[1], to[1])].map((value) => clamp(value, width));
      onMove({ ...before, cover: bottom > top && right > left ? [top, left, bottom - top, right - left] : [0, 0, 0, 0] });
    }
  };
  const key = (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    onMove({ ...moves, down: moves.down + step[0], across: moves.across + step[1] });
  };
  const slide = (name, low, high, by, words) => html`<label class="slider"><span>${words}</span>
    <input type="range" min=${low} max=${high} step=${by} value=${moves[name]} aria-label=${words}
      onInput=${(event) => onMove({ ...moves, [name]: Number(event.currentTarget.value) })} />
    <output>${short(moves[name])}</output></label>`;
  const size = Math.min(340, Math.max(224, width));
  return html`<div class="hand">
    <div class="words" role="group" aria-label="what dragging does">
      <button aria-pressed=${mode === "shift"} onClick=${() => setMode("shift")}>drag to shift</button>
      <button aria-pressed=${mode === "cover"} onClick=${() => setMode("cover")}>drag to cover</button>
      <button disabled=${id === of} onClick=${() => onMove(STILL)}>put back</button></div>
    <div class=${`touchable ${mode}`} ref=${frame} tabindex="0" role="application" aria-label="the picture; arrow keys shift it"
      style=${{ width: `${size}px`, height: `${(size * height) / width}px` }}
      onPointerDown=${down} onPointerMove=${move} onPointerUp=${() => { start.current = null; }} onPointerCancel=${() => { start.current = null; }} onKeyDown=${key}>
      <${PixelPicture} id=${id} label="the picture as the network sees it" />
    </div>
    ${slide("across", -Math.ceil(width / 2), Math.ceil(width / 2), 1, "right")}
    ${slide("down", -Math.ceil(height / 2), Math.ceil(height / 2), 1, "down")}
    ${slide("turn", -180, 180, 1, "turn")}
    ${slide("noise", 0, 0.6, 0.02, "noise")}
    ${moves.noise > 0 && html`<button onClick=${() => onMove({ ...moves, seed: (moves.seed + 1) % 1000 })}>other noise</button>`}
  </div>`;
}

function Says({ said, label }) {
  if (!said?.length) return null;
  return html`<table class="says"><caption>${label}</caption><tbody>${said.map((each) => html`<tr key=${each.class}>
    <th scope="row">${each.name}</th><td><meter min="0" max="1" value=${each.probability}></meter></td>
    <td class="number">${(100 * each.probability).toFixed(1)} %</td></tr>`)}</tbody></table>`;
}

function Follow({ id, of, address, places }) {
  const wanted = Number(address.query.value ?? NaN);
  const chosen = places.find((each) => each.number === wanted) ?? places[0];
  const still = id === of;
  const asked = chosen ? `${still ? `${of}~` : id} ${chosen.number}` : null;
  const { value, error, busy } = useLatest(async (key) => {
    const [name, number] = key.split(" ");
    return { name, ...(await getNumbers(`follow/${encodeURIComponent(name)}`, { value: number })) };
  }, asked);
  if (!chosen) return html`<${Note}>No layer of this network puts out maps.<//>`;
  const pick = (number) => go(changed(address, { value: number }), { replace: true });
  const { header, data } = value ?? {};
  const shown = header?.number === chosen.number;
  const [, count, height, width] = header?.shape ?? [];
  const scale = shown ? scaleOf(...extent(data)) : null;
  const size = Math.max(72, Math.min(132, (height ?? 1) * 4));
  const rows = ["the picture's maps", "these, moved along", "the moved picture's maps"];
  const error_ = header?.error;
  return html`<section class="follow" data-ready=${value && value.name === asked?.split(" ")[0] && !busy ? "1" : "0"}>
    <label>layer <select value=${chosen.number} aria-label="layer" onChange=${(event) => pick(event.currentTarget.value)}>
      ${places.map((each) => html`<option key=${each.number} value=${each.number}>${each.name} (${each.channels}×${each.size.join("×")})</option>`)}</select></label>
    ${scale && html`<${Legend} scale=${scale} />`}
    ${error && html`<${Note} error=${error} />`}
    ${shown && html`
      <p class="verdict" data-error=${error_ ?? ""}>${still ? "Move the picture: its maps follow here." : error_ === null ? "Nothing of the maps is left inside."
        : html`The moved picture's maps differ from the moved maps by <b>${(100 * error_).toFixed(error_ < 0.01 ? 3 : 1)} %</b> of their norm${header.strides ? html`; positions lie ${short(header.strides[1])} pixel${header.strides[1] === 1 ? "" : "s"} apart, so a shift by ${header.strides[1] === 1 ? "whole pixels" : `multiples of ${short(header.strides[1])}`} can be followed exactly` : ""}.`}</p>
      <div class="compared">${rows.map((words, row) => html`<div key=${row} class="maprow"><span class="quiet">${words}</span>
        <div class="maps">${header.shown.map((channel, place) => html`<${MapView} key=${channel} data=${data} from=${(row * count + place) * height * width}
          height=${height} width=${width} scale=${scale} size=${size} label=${`${words}, channel ${channel}`} />`)}</div></div>`)}</div>
      <div class="both"><${Says} said=${header.says[0]} label="the picture" />${!still && html`<${Says} said=${header.says[1]} label="moved" />`}</div>
      <${Call} code=${header.call} />
      <${Exports} name=${`maps of ${chosen.name}`} canvas=${() => pictured(document.querySelector(".compared"))} json=${() => ({ ...header, maps: Array.from(data) })} />`}
  </section>`;
}

export default function View({ address, store }) {
  const state = store.get();
  const picture = store.picture(address);
  const { of, moves } = parted(picture?.id);
  const shape = state.subject.input_shape;
  const [adding, setAdding] = useState(null);
  const { value, error } = useLoaded((signal) => getJson(`places/${encodeURIComponent(of)}`, {}, { signal }), [of]);
  const move = (made) => go(changed(address, { picture: written({ of, moves: made }) }), { replace: true });
  const drawing = useRef(null);
  const send = async (bytes, [channels, height, width]) => {
    const made = await postBytes("pictures/drawing", bytes, { params: { channels, height, width, replaces: drawing.current } });
    drawing.current = made.id;
    await choose(store, address, made, true);
  };
  const added = state.pictures.find((each) => each.id === of)?.made;
  if (!shape) return html`<${Help}>${help}<//><${Note}>This network takes something else than one picture.<//>`;
  const tabs = [["files", "your picture"], ["draw", "draw"], ["gallery", "data set"]];
  return html`<div class="pictures-view">
    <${Help}>${help}<//>
    <div class="adding"><div class="words" role="tablist" aria-label="add a picture">${tabs.map(([name, words]) => html`<button key=${name} role="tab"
      aria-selected=${adding === name} aria-pressed=${adding === name} onClick=${() => setAdding(adding === name ? null : name)}>${words}</button>`)}
      ${added && html`<button onClick=${async () => { await remove(`pictures/${of}`); await store.refresh(); go(changed(address, { picture: "" }), { replace: true }); }}>forget this picture</button>`}</div>
      ${adding === "files" && html`<${Upload} store=${store} address=${address} />`}
      ${adding === "draw" && html`<${Pad} shape=${shape} onDrawn=${send} />`}
      ${adding === "gallery" && html`<${Gallery} store=${store} address=${address} />`}
    </div>
    <div class="stage-and-maps">
      <aside>
        <${Stage} id=${picture.id} of=${of} moves=${moves} shape=${shape} onMove=${move} />
        <figure class="source"><${SourcePicture} id=${of} /><figcaption class="quiet"><b>${picture.name}</b><br />as it came; the network sees ${state.subject.preprocessing}</figcaption></figure>
      </aside>
      ${error ? html`<${Note} error=${error} />` : value ? html`<${Follow} id=${picture.id} of=${of} address=${address} places=${value.places} />` : html`<p class="quiet" aria-busy="true">The network looks at the picture</p>`}
    </div>
  </div>`;
}

function SourcePicture({ id }) {
  const { value } = useLoaded((signal) => getNumbers(`pixels/${encodeURIComponent(id)}`, { what: "source" }, { signal }), [id]);
  return value && html`<${Pixels} data=${value.data} shape=${value.header.shape} size=${120} label="the picture as it came" />`;
}
