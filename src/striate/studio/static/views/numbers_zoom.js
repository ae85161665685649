// One channel at its full size, and a window of it in which every number is written.

import { html, useState } from "/static/vendor/preact-htm.js";
import { changed, format, go } from "/static/lib/address.js";
import { getNumbers } from "/static/lib/api.js";
import { scaleOf } from "/static/lib/colours.js";
import { Legend, MapView, short } from "/static/lib/maps.js";
import { Note } from "/static/lib/parts.js";
import { placeOf } from "/static/lib/places.js";
import { useLoaded } from "/static/lib/store.js";
import { both } from "/static/views/numbers.js";

const SIDE = 14; // numbers along a side of the window
const CELL = 44;

export function Zoom({ value, channel, header, shown, address }) {
  const { form, full, sample } = header;
  const { query } = address;
  const [y, x] = (query.at ?? "0,0").split(",").map((each) => Number(each) || 0);
  const rows = Math.min(SIDE, form.height);
  const columns = Math.min(SIDE, form.width);
  const top = Math.max(0, Math.min(form.height - rows, y - Math.floor(rows / 2)));
  const left = Math.max(0, Math.min(form.width - columns, x - Math.floor(columns / 2)));
  const small = form.height <= SIDE && form.width <= SIDE;
  const ask = (picture, more, signal) => getNumbers(`tensor/${encodeURIComponent(value)}`, {
    picture, form: query.form, sample: query.sample, training: query.training, channels: channel, ...more,
  }, { signal });
  const { value: whole, error } = useLoaded(
    (signal) => Promise.all(shown.map((picture) => ask(picture, { size: 512 }, signal))),
    [value, channel, shown.join(), query.form, query.sample, query.training],
  );
  const { value: window_ } = useLoaded(
    (signal) => Promise.all(shown.map((picture) => ask(picture, { at: [channel, top, left, rows, columns].join(",") }, signal))),
    [value, channel, top, left, shown.join(), query.form, query.sample, query.training],
  );
  const [cell, setCell] = useState([Math.min(y, form.height - 1) - top, Math.min(x, form.width - 1) - left]);
  if (error) return html`<${Note} error=${error} />`;
  if (!whole || !window_) return html`<p class="quiet" aria-busy="true">Loading</p>`;
  const scale = scaleOf(...both(query.shared ? whole.map((each) => each.header.extent) : whole.map((each) => each.header.channels[0])));
  const step = (by) => go(changed(address, { zoom: Math.max(0, Math.min(form.channels - 1, channel + by)) }), { replace: true });
  const move = (toY, toX) => go(changed(address, { at: `${toY},${toX}` }), { replace: true });
  const open = (place, row, column) => {
    const at = placeOf(form, full, sample, channel, top + row, left + column);
    if (at) go(format("value", [value, at.join(",")], { picture: shown[place], training: query.training }));
  };
  const onKeyDown = (event) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (by) {
      event.preventDefault();
      const row = cell[0] + by[0];
      const column = cell[1] + by[1];
      if (row >= 0 && column >= 0 && row < rows && column < columns) setCell([row, column]);
      else move(Math.max(0, Math.min(form.height - 1, top + row + by[0] * (rows >> 1))), Math.max(0, Math.min(form.width - 1, left + column + by[1] * (columns >> 1))));
    } else if (event.key === "Enter") {
      open(0, ...cell);
    }
  };
  const chosen = window_[0].data[cell[0] * columns + cell[1]];
  return html`<div class="zoom" onKeyDown=${onKeyDown}>
    <div class="bar">
      <button onClick=${() => go(changed(address, { zoom: null, at: null }))}>all channels</button>
      <span class="group"><button aria-label="channel before" onClick=${() => step(-1)}>‹</button>
        <button disabled>channel ${channel}</button><button aria-label="next channel" onClick=${() => step(1)}>›</button></span>
      <${Legend} scale=${scale} />
      ${!small && html`<span class="quiet">click the map to move the window, a number to follow it back</span>`}
    </div>
    ${shown.map((picture, place) => html`<div class="pair" key=${picture}>
      ${!small && html`<${MapView} data=${whole[place].data} height=${whole[place].header.shape[1]} width=${whole[place].header.shape[2]} scale=${scale}
        size=${512} factor=${Math.max(1, Math.floor(512 / Math.max(...whole[place].header.shape.slice(1))))} label=${`channel ${channel}`}
        marked=${[[top, left, rows, columns].map((each) => each / whole[place].header.factor)]}
        onPick=${(row, column) => move(row * whole[place].header.factor, column * whole[place].header.factor)} />`}
      <div tabindex="0" aria-label=${`numbers of channel ${channel}; arrows choose one, Enter follows it back`}>
        <${MapView} data=${window_[place].data} height=${rows} width=${columns} scale=${scale} factor=${CELL} label=${`channel ${channel} from ${top}, ${left}`}
          selected=${cell} onPick=${(row, column) => { setCell([row, column]); open(place, row, column); }} />
        <p class="number">(${top + cell[0]}, ${left + cell[1]}): ${place === 0 ? short(chosen) : short(window_[place].data[cell[0] * columns + cell[1]])}</p>
      </div>
    </div>`)}
  </div>`;
}
