// Pixels from 0 to 255, (C, H, W) in a row, as pictures on a canvas.

import { html, useLayoutEffect, useRef } from "/static/vendor/preact-htm.js";

export function imageOf(data, from, channels, height, width) {
  const image = new ImageData(width, height);
  const plane = height * width;
  for (let place = 0; place < plane; place += 1) {
    for (let colour = 0; colour < 3; colour += 1) {
      image.data[4 * place + colour] = data[from + (channels >= 3 ? colour : 0) * plane + place];
    }
    image.data[4 * place + 3] = 255;
  }
  return image;
}

export function Pixels({ data, from = 0, shape, label = "", size = 48, ...more }) {
  const canvas = useRef(null);
  const [channels, height, width] = shape;
  useLayoutEffect(() => {
    canvas.current.width = width;
    canvas.current.height = height;
    canvas.current.getContext("2d").putImageData(imageOf(data, from, channels, height, width), 0, 0);
  }, [data, from, channels, height, width]);
  const factor = size / Math.max(height, width);
  return html`<canvas class="pixels" ref=${canvas} role="img" aria-label=${label}
    style=${{ width: `${width * factor}px`, height: `${height * factor}px` }} ...${more}></canvas>`;
}

