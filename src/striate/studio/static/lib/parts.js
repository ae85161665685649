// Small parts that every view uses: notes, the help line, exports, the call of the library, a picture's pixels.

import { html, useEffect, useRef, useState } from "/static/vendor/preact-htm.js";
import { getNumbers } from "/static/lib/api.js";
import { saveJson, savePng, saveSvg } from "/static/lib/save.js";

// An error or a remark, in one line.
export function Note({ error, children }) {
  if (error?.name === "AbortError") return null;
  return html`<p class=${error ? "note wrong" : "note"} role=${error ? "alert" : "status"}>
    ${error ? error.message ?? String(error) : children}</p>`;
}

// One or two sentences that say what is seen.
export function Help({ children }) {
  return html`<p class="help">${children}</p>`;
}

// Python of the library that gives the same numbers, as the server sent it.
export function Call({ code }) {
  const [copied, setCopied] = useState(false);
  if (!code) return null;
  const copy = () => navigator.clipboard?.writeText(code).then(() => setCopied(true), () => {});
  return html`<details class="call"><summary>show me the call</summary>
    <pre><code>${code}</code></pre>
    <button onClick=${copy}>${copied ? "copied" : "copy"}</button></details>`;
}

// Buttons that save what is shown. `svg` and `canvas` give the element, `pictures` the canvases that belong to the SVG,
// `json` gives the data.
export function Exports({ name, svg, pictures, canvas, json }) {
  return html`<span class="exports" role="group" aria-label="save">
    ${svg && html`<button onClick=${() => saveSvg(svg(), name, pictures?.())}>SVG</button>`}
    ${canvas && html`<button onClick=${() => savePng(canvas(), name)}>PNG</button>`}
    ${json && html`<button onClick=${() => saveJson(json(), name)}>JSON</button>`}
  </span>`;
}

const pixels = new Map();

function pixelsOf(id) {
  if (!pixels.has(id)) {
    pixels.set(id, getNumbers(`pixels/${encodeURIComponent(id)}`).catch((error) => { pixels.delete(id); throw error; }));
    if (pixels.size > 100) pixels.delete(pixels.keys().next().value);
  }
  return pixels.get(id);
}

// A picture as the network sees it, before its pixels are scaled; `seen` is called with {header, data} once it is there.
export function PixelPicture({ id, label = "", seen, ...more }) {
  const canvas = useRef(null);
  useEffect(() => {
    let current = true;
    pixelsOf(id).then(({ header, data }) => {
      if (!current || !canvas.current) return;
      const [channels, height, width] = header.shape;
      canvas.current.width = width;
      canvas.current.height = height;
      const image = new ImageData(width, height);
      for (let place = 0; place < height * width; place += 1) {
        for (let colour = 0; colour < 3; colour += 1) {
          image.data[place * 4 + colour] = data[(channels >= 3 ? colour : 0) * height * width + place];
        }
        image.data[place * 4 + 3] = 255;
      }
      canvas.current.getContext("2d").putImageData(image, 0, 0);
      seen?.({ header, data });
    }, () => {});
    return () => { current = false; };
  }, [id]);
  return html`<canvas class="pixels" ref=${canvas} role="img" aria-label=${label} ...${more}></canvas>`;
}
