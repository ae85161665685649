// A pad to draw on: 28x28 in grey, white on black as digits are; colour at the network's size.

import { html, useEffect, useRef, useState } from "/static/vendor/preact-htm.js";
import { Note } from "/static/lib/parts.js";

export function Pad({ shape, onDrawn }) {
  const colour = shape[0] === 3;
  const [height, width] = colour ? shape.slice(1) : [28, 28];
  const canvas = useRef(null);
  const last = useRef(null);
  const sending = useRef({ running: false, again: false });
  const [ink, setInk] = useState("#d62728");
  const [brush, setBrush] = useState(colour ? Math.max(2, Math.round(width / 18)) : 2.4);
  const [error, setError] = useState(null);

  const clear = () => {
    const draw = canvas.current.getContext("2d", { willReadFrequently: true });
    draw.fillStyle = colour ? "#ffffff" : "#000000";
    draw.fillRect(0, 0, width, height);
  };
  useEffect(clear, [height, width, colour]);

  // One drawing on its way at a time; the last state always gets there.
  const send = async () => {
    const own = sending.current;
    if (own.running) { own.again = true; return; }
    own.running = true;
    do {
      own.again = false;
      const { data } = canvas.current.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, width, height);
      const channels = colour ? 3 : 1;
      const bytes = new Uint8Array(channels * height * width);
      for (let place = 0; place < height * width; place += 1) {
        for (let each = 0; each < channels; each += 1) bytes[each * height * width + place] = data[4 * place + each];
      }
      try {
        await onDrawn(bytes, [channels, height, width]);
        setError(null);
      } catch (failure) {
        setError(failure);
      }
    } while (own.again);
    own.running = false;
  };

  const at = (event) => {
    const box = canvas.current.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  };
  const stroke = (event) => {
    if (!last.current) return;
    const draw = canvas.current.getContext("2d", { willReadFrequently: true });
    const to = at(event);
    draw.strokeStyle = colour ? ink : "#ffffff";
    draw.lineWidth = brush;
    draw.lineCap = "round";
    draw.lineJoin = "round";
    draw.beginPath();
    draw.moveTo(...last.current);
    draw.lineTo(to[0] + 0.01, to[1]);
    draw.stroke();
    last.current = to;
    send();
  };
  return html`<div class="pad">
    <canvas ref=${canvas} width=${width} height=${height} class="pixels paper" role="img" aria-label="drawing pad"
      onPointerDown=${(event) => { event.currentTarget.setPointerCapture?.(event.pointerId); last.current = at(event); stroke(event); }}
      onPointerMove=${stroke} onPointerUp=${() => { last.current = null; }} onPointerCancel=${() => { last.current = null; }}></canvas>
    <div class="tools">
      ${colour && html`<label>colour <input type="color" value=${ink} onInput=${(event) => setInk(event.currentTarget.value)} /></label>`}
      <label class="slider"><span>brush</span><input type="range" aria-label="brush" min="1" max=${colour ? Math.round(width / 5) : 6} step=${colour ? 1 : 0.2} value=${brush}
        onInput=${(event) => setBrush(Number(event.currentTarget.value))} /><output>${brush}</output></label>
      <button onClick=${() => { clear(); send(); }}>clear</button>
      ${error && html`<${Note} error=${error} />`}
    </div></div>`;
}
