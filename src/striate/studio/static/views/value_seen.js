// What a value sees of the picture: its receptive field, and how much each pixel of that counts.

import { html, useEffect, useRef } from "/static/vendor/preact-htm.js";
import { getNumbers } from "/static/lib/api.js";
import { extent, scaleOf } from "/static/lib/colours.js";
import { Legend, MapView, frame, many } from "/static/lib/maps.js";
import { Note } from "/static/lib/parts.js";
import { useLoaded } from "/static/lib/store.js";

const SIDE = 240;

export function Seen({ value, at, picture, training }) {
  const { value: got, error } = useLoaded(
    (signal) => Promise.all([
      getNumbers(`value/${value}/field`, { picture, at, training }, { signal }),
      getNumbers(`pixels/${encodeURIComponent(picture)}`, {}, { signal }).catch(() => null),
    ]),
    [value, at, picture, training],
  );
  // Needs a gradient, which takes longer than all else that a click shows.
  const { value: strength, error: failed } = useLoaded(
    (signal) => getNumbers(`value/${value}/strength`, { picture, at, training }, { signal }), [value, at, picture, training],
  );
  if (error) return html`<h2>On the picture</h2><${Note} error=${error} />`;
  if (!got) return html`<h2>On the picture</h2><p class="quiet" aria-busy="true">Looking for what the number sees</p>`;
  const [{ header, data }, pixels] = got;
  const [, height, width] = header.shape;
  const whole = header.seen === header.of;
  const box = header.box ?? [];
  return html`<h2>On the picture</h2>
    <div class="seen">
      ${header.known && html`<figure><${Lit} mask=${data} height=${height} width=${width} pixels=${pixels} box=${box} />
        <figcaption>${header.seen === 0 ? "It depends on no pixel." : html`Receptive field: <b class="seen-count">${many(header.seen)}</b> of ${many(header.of)} positions${whole ? ", the whole picture" : box.length === 2 ? `, rows ${box[0].join(" to ")}, columns ${box[1].join(" to ")}` : ""}.`}</figcaption></figure>`}
      ${strength ? html`<${Counts} header=${strength.header} data=${strength.data} />`
        : !failed && html`<figure><div class="awaited" style=${`width: ${SIDE}px; aspect-ratio: ${width} / ${height}`}></div>
        <figcaption class="quiet" aria-busy="true">How much each position counts: the gradient comes back</figcaption></figure>`}
    </div>
    ${failed && html`<${Note} error=${failed} />`}
    ${[...header.notes, ...(strength?.header.notes ?? [])].map((each) => html`<p class="quiet" key=${each}>${each}</p>`)}`;
}

function Counts({ header, data }) {
  if (!header.counts) return null;
  const [, height, width] = header.shape;
  return html`<figure><${MapView} data=${data} height=${height} width=${width} size=${SIDE} label="how much each pixel counts" />
    <figcaption>How much each position counts: the gradient's size. <${Legend} scale=${scaleOf(...extent(data, 0, data.length))} width=${80} />${header.total === 0 ? " It is zero everywhere: the number doesn't move with any pixel." : ""}</figcaption></figure>`;
}

// The picture, dimmed where the value doesn't see it.
function Lit({ mask, height, width, pixels, box }) {
  const canvas = useRef(null);
  const factor = Math.max(1, Math.floor(SIDE / Math.max(height, width)));
  useEffect(() => {
    const element = canvas.current;
    const image = new ImageData(width, height);
    const fits = pixels && pixels.header.shape[1] === height && pixels.header.shape[2] === width;
    const colours = fits ? pixels.header.shape[0] : 0;
    for (let place = 0; place < height * width; place += 1) {
      for (let part = 0; part < 3; part += 1) {
        const level = fits ? pixels.data[(colours >= 3 ? part : 0) * height * width + place] : 200;
        image.data[4 * place + part] = mask[place] ? level : 0.22 * level + [70, 84, 98][part];
      }
      image.data[4 * place + 3] = 255;
    }
    const small = document.createElement("canvas");
    small.width = width;
    small.height = height;
    small.getContext("2d").putImageData(image, 0, 0);
    element.width = width * factor;
    element.height = height * factor;
    const draw = element.getContext("2d");
    draw.imageSmoothingEnabled = false;
    draw.drawImage(small, 0, 0, element.width, element.height);
    if (box.length === 2) frame(draw, box[0][0], box[1][0], box[0][1] - box[0][0] + 1, box[1][1] - box[1][0] + 1, factor);
  }, [mask, pixels, factor]);
  return html`<canvas class="pixels" ref=${canvas} role="img" aria-label="the picture, lit where the number sees it"></canvas>`;
}
