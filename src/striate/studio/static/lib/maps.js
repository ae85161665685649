// Maps of numbers as pictures on a canvas, one number a pixel, enlarged by whole factors without smoothing.

import { html, useEffect, useLayoutEffect, useRef } from "/static/vendor/preact-htm.js";
import { colour, extent, isBright, scaleOf } from "/static/lib/colours.js";

// The map data[from ... from + height * width] as an ImageData.
export function picture(data, height, width, scale, from = 0) {
  const image = new ImageData(width, height);
  for (let place = 0; place < height * width; place += 1) {
    const [red, green, blue] = colour(data[from + place], scale);
    image.data[4 * place] = red;
    image.data[4 * place + 1] = green;
    image.data[4 * place + 2] = blue;
    image.data[4 * place + 3] = 255;
  }
  return image;
}

// A number as short as it stays true to four digits.
export function short(value) {
  if (value === null || value === undefined) return "";
  if (!Number.isFinite(value)) return String(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(2).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

// Large counts: 4.1 G, 25.6 M, 1.2 k.
export function many(value) {
  if (value === null || value === undefined) return "?";
  for (const [unit, size] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (value >= size) return `${(value / size).toPrecision(3)} ${unit}`;
  }
  return String(value);
}

// Bytes: 480 B, 18.8 kB, 2.41 MB.
export function bytes(value) {
  const text = many(value);
  return text.includes(" ") ? `${text}B` : `${text} B`;
}

// One map. `size` is the longer side in pixels of the page; with 24 pixels a number the numbers themselves are written.
// `onPick` is called with (y, x) of a click; `marked` lists boxes [y, x, height, width] that are framed.
export function MapView({ data, height, width, from = 0, scale, size = 96, label = "", marked = [], onPick, selected, factor }) {
  const canvas = useRef(null);
  const enlarged = factor ?? Math.max(1, Math.floor(size / Math.max(height, width)));
  const numbers = enlarged >= 26;
  useLayoutEffect(() => {
    const element = canvas.current;
    if (!element) return;
    const used = scale ?? scaleOf(...extent(data, from, from + height * width));
    const small = document.createElement("canvas");
    small.width = width;
    small.height = height;
    small.getContext("2d").putImageData(picture(data, height, width, used, from), 0, 0);
    const fine = numbers ? Math.ceil(window.devicePixelRatio || 1) : 1;
    element.width = width * enlarged * fine;
    element.height = height * enlarged * fine;
    const draw = element.getContext("2d");
    draw.imageSmoothingEnabled = false;
    draw.scale(fine, fine);
    draw.drawImage(small, 0, 0, width * enlarged, height * enlarged);
    if (numbers) write(draw, data, height, width, from, used, enlarged);
    for (const [y, x, rows, columns] of marked) frame(draw, y, x, rows, columns, enlarged);
    if (selected) frame(draw, selected[0], selected[1], 1, 1, enlarged);
  }, [data, height, width, from, scale?.kind, scale?.low, scale?.high, enlarged, JSON.stringify(marked), selected?.join()]);
  const place = (event) => {
    const box = canvas.current.getBoundingClientRect();
    const at = (offset, length, count) => Math.max(0, Math.min(count - 1, Math.floor((offset / length) * count)));
    return [at(event.clientY - box.top, box.height, height), at(event.clientX - box.left, box.width, width)];
  };
  const ratio = Math.max(height, width) * enlarged > size && !factor ? size / (Math.max(height, width) * enlarged) : 1;
  return html`<canvas class=${onPick ? "map pick" : "map"} ref=${canvas} role="img" aria-label=${label}
    style=${{ width: `${width * enlarged * ratio}px`, height: `${height * enlarged * ratio}px` }}
    onClick=${onPick && ((event) => onPick(...place(event), event))}
    onPointerMove=${(event) => { const [y, x] = place(event); canvas.current.title = `${label} (${y}, ${x}): ${short(data[from + y * width + x])}`; }}
  ></canvas>`;
}

function write(draw, data, height, width, from, scale, factor) {
  draw.font = `${Math.min(13, factor / 3)}px ui-monospace, monospace`;
  draw.textAlign = "center";
  draw.textBaseline = "middle";
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const value = data[from + y * width + x];
      draw.fillStyle = isBright(colour(value, scale)) ? "#000" : "#fff";
      draw.fillText(value === 0 ? "0" : Number(value.toPrecision(3)).toString(), (x + 0.5) * factor, (y + 0.5) * factor, factor - 2);
    }
  }
}

// A frame that is seen on every colour: black around white.
export function frame(draw, y, x, rows, columns, factor) {
  const box = [x * factor, y * factor, columns * factor, rows * factor];
  draw.lineWidth = 3;
  draw.strokeStyle = "#000";
  draw.strokeRect(...box);
  draw.lineWidth = 1.5;
  draw.strokeStyle = "#fff";
  draw.strokeRect(...box);
}

// The scale's colours with its ends.
export function Legend({ scale, width = 120 }) {
  const canvas = useRef(null);
  useEffect(() => {
    const draw = canvas.current.getContext("2d");
    const data = Float32Array.from({ length: width }, (_, x) => scale.low + (x / (width - 1)) * (scale.high - scale.low));
    const image = picture(data, 1, width, scale);
    for (let y = 0; y < 10; y += 1) draw.putImageData(image, 0, y);
  }, [scale.kind, scale.low, scale.high, width]);
  return html`<span class="legend"><span>${short(scale.low)}</span>
    <canvas ref=${canvas} width=${width} height="10" role="img" aria-label=${`colours from ${short(scale.low)} to ${short(scale.high)}`}></canvas>
    <span>${short(scale.high)}</span></span>`;
}
