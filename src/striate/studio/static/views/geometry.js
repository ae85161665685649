// Geometry at hand: windows in a row, which position sees which, and the formulas with numbers put in.
// The server computes with striate.geometry; this page looks the pairs up and draws.

import { html, useEffect, useMemo, useRef, useState } from "/static/vendor/preact-htm.js";
import { getJson } from "/static/lib/api.js";
import { changed, go } from "/static/lib/address.js";
import { short } from "/static/lib/maps.js";
import { Call, Exports, Help, Note } from "/static/lib/parts.js";
import { sheet } from "/static/lib/sheet.js";
import { useLoaded } from "/static/lib/store.js";
import { Grids, KernelGrid, reached, Stretched } from "/static/views/geometry_grids.js";

sheet("geometry");

export const title = "geometry";
export const help = "Which inputs a window sees, how large its output is, and what that costs. Point at an output to light its taps, at an input to light the outputs that see it.";

const DEFAULTS = { kernel: 3, stride: 1, padding: "0", dilation: 1, out: 1, groups: 1, extra: 0 };
const WORDS = ["valid", "same", "full"];

// "conv kernel=3 padding=same" as {kind, kernel, ...}; what is left out has its default.
function read(line) {
  const [kind, ...words] = line.trim().split(/\s+/);
  const layer = { kind: kind || "conv", ...DEFAULTS, ceil_mode: false };
  for (const word of words) {
    const [name, value] = word.split("=");
    if (name === "ceil_mode") layer.ceil_mode = true;
    else if (name === "padding") layer.padding = value ?? "0";
    else if (name in DEFAULTS) layer[name] = whole(value, DEFAULTS[name]);
  }
  return layer;
}

function write(layer) {
  const words = Object.entries(DEFAULTS).filter(([name, value]) => String(layer[name]) !== String(value))
    .map(([name]) => `${name}=${layer[name]}`);
  return [layer.kind, ...words, ...(layer.ceil_mode ? ["ceil_mode"] : [])].join(" ");
}

function Slider({ name, value, low = 1, high, onInput, note = "" }) {
  const set = (event) => {
    const chosen = Math.round(Number(event.currentTarget.value));
    if (Number.isFinite(chosen) && event.currentTarget.value !== "") onInput(chosen);
  };
  return html`<label class="slider"><span>${name}</span>
    <input type="range" min=${low} max=${Math.max(high, value)} value=${value} onInput=${set} aria-label=${name} />
    <input type="number" min=${low} value=${value} onChange=${set} aria-label=${`${name}, as a number`} />
    ${note && html`<small class="quiet">${note}</small>`}</label>`;
}

function LayerControls({ layer, told, onChange }) {
  const set = (name) => (value) => onChange({ ...layer, [name]: value });
  const cells = Number(layer.padding);
  const pools = layer.kind === "max" || layer.kind === "avg";
  return html`<fieldset class="controls"><legend>window</legend>
    <label class="slider"><span>kind</span><select value=${layer.kind} aria-label="kind"
      onChange=${(event) => onChange({ ...layer, kind: event.currentTarget.value, extra: 0, ceil_mode: false })}>
      <option value="conv">convolution</option><option value="transposed">transposed convolution</option>
      <option value="max">max pooling</option><option value="avg">average pooling</option></select></label>
    <${Slider} name="kernel" value=${layer.kernel} high=${15} onInput=${set("kernel")} />
    <${Slider} name="stride" value=${layer.stride} high=${8} onInput=${set("stride")} />
    <${Slider} name="padding" value=${Number.isFinite(cells) ? cells : told?.padding?.[1] ?? 0} low=${0} high=${12}
      onInput=${(value) => set("padding")(String(value))}
      note=${told && !Number.isFinite(cells) ? `${told.padding[0]} before, ${told.padding[1]} after` : ""} />
    <div class="words" role="group" aria-label="padding in a word">${WORDS.map((each) => html`<button key=${each}
      aria-pressed=${layer.padding === each || (each === "valid" && layer.padding === "0")}
      onClick=${() => set("padding")(each === "valid" ? "0" : each)}>${each}</button>`)}</div>
    <${Slider} name="dilation" value=${layer.dilation} high=${6} onInput=${set("dilation")} />
    ${!pools && html`<${Slider} name="output channels" value=${layer.out} high=${256} onInput=${set("out")} />
      <${Slider} name="groups" value=${layer.groups} high=${16} onInput=${set("groups")} />`}
    ${layer.kind === "transposed" && html`<${Slider} name="output padding" low=${0} value=${layer.extra} high=${7} onInput=${set("extra")} />`}
    ${pools && html`<label class="tick"><input type="checkbox" checked=${layer.ceil_mode}
      onChange=${(event) => set("ceil_mode")(event.currentTarget.checked)} /> round the output size up</label>`}
  </fieldset>`;
}

const minus = (text) => text.replaceAll("-", "−");

function Formulas({ told }) {
  return html`<table class="formulas"><caption>${told.name}, with its numbers put in</caption><tbody>
    ${told.formulas.map((each) => html`<tr key=${each.name} data-formula=${each.name}>
      <th scope="row">${each.name}</th>
      <td><span class="symbols">${minus(each.symbols)}</span>
        <span class="worked">= ${minus(each.numbers)} = <b>${each.value.toLocaleString("en")}</b></span>
        ${each.note && html`<small class="quiet">${each.note}</small>`}</td></tr>`)}
  </tbody></table>`;
}

// The sum that makes one number, from numbers that the server sent.
function Terms({ worked, layer, stage, at, dims, view }) {
  const flat = (place, size) => place.reduce((total, each) => total * size + each, 0);
  const places = (pairs) => (dims === 1 ? pairs[0].map((each) => [each]) : pairs[0].flatMap((y) => pairs[1].map((x) => [y, x])));
  const inside = (size) => ([place]) => place >= 0 && place < size;
  const tell = (left, terms, total) => html`<p class="terms"><b>${left}</b> = ${terms.length ? terms.join(" + ") : "nothing but padding"} = <b class="total">${short(total)}</b></p>`;
  const bracket = (value) => (value < 0 ? `(${minus(short(value))})` : short(value));
  if (view === "forward" && stage === 1) {
    const seen = at.map((place) => layer.sees[place].filter(inside(layer.size)));
    const taps = places(seen.map((pairs) => pairs.map((_, number) => number)));
    const terms = taps.map((numbers) => {
      const place = numbers.map((number, axis) => seen[axis][number][0]);
      const tap = numbers.map((number, axis) => seen[axis][number][1]);
      const value = worked.x[flat(place, layer.size)];
      return worked.w ? `${bracket(value)}·${bracket(worked.w[flat(worked.flipped ? tap.map((t) => layer.kernel - 1 - t) : tap, layer.kernel)])}` : bracket(value);
    });
    const result = worked.y[flat(at, layer.outputs)];
    const name = `y(${at.join(", ")})`;
    if (layer.kind === "max") return html`<p class="terms"><b>${name}</b> = max(${terms.join(", ")}) = <b class="total">${short(result)}</b></p>`;
    if (layer.kind === "avg") return html`<p class="terms"><b>${name}</b> = (${terms.join(" + ")}) / cells = <b class="total">${short(result)}</b></p>`;
    return tell(name, terms, result);
  }
  if (view === "input" && stage === 0) {
    const seen = at.map((place) => layer.seen_by[place]);
    const terms = places(seen.map((pairs) => pairs.map((_, number) => number))).map((numbers) => {
      const out = numbers.map((number, axis) => seen[axis][number][0]);
      const tap = numbers.map((number, axis) => seen[axis][number][1]);
      const above = worked.g[flat(out, layer.outputs)];
      if (worked.w) return `${bracket(above)}·${bracket(worked.w[flat(worked.flipped ? tap.map((t) => layer.kernel - 1 - t) : tap, layer.kernel)])}`;
      if (layer.kind === "max") return worked.winners[flat(out, layer.outputs)] === flat(at, layer.size) ? bracket(above) : null;
      return `${bracket(above)} / cells`;
    }).filter((each) => each !== null);
    const result = worked.dx[flat(at, layer.size)];
    if (!terms.length) return html`<p class="terms"><b>dx(${at.join(", ")})</b> = <b class="total">${short(result)}</b>: it wins in no window</p>`;
    return tell(`dx(${at.join(", ")})`, terms, result);
  }
  return null;
}

const VIEWS = [["forward", "output"], ["input", "gradient to the input"], ["kernel", "gradient to the kernel"]];

function Worked({ told, worked, dims, address, lit, setLit }) {
  const view = address.query.show ?? "forward";
  const views = worked.w ? VIEWS : VIEWS.slice(0, 2);
  const set = (query) => go(changed(address, query), { replace: true });
  const field = (name, words) => html`<label class="numbers"><span>${words}</span>
    <input type="text" value=${worked[name].map((each) => short(each)).join(", ")} aria-label=${words}
      onChange=${(event) => set({ [name]: event.currentTarget.value.split(/[\s,;]+/).filter(Boolean).join(",") })} /></label>`;
  return html`<section class="worked-numbers" aria-label="numbers">
    <div class="words" role="group" aria-label="what is worked out">${views.map(([name, words]) => html`<button key=${name}
      aria-pressed=${view === name} onClick=${() => set({ show: name })}>${words}</button>`)}
      ${worked.w && html`<label class="tick"><input type="checkbox" checked=${address.query.flipped === "1"}
        onChange=${(event) => set({ flipped: event.currentTarget.checked ? "1" : "" })} /> true convolution (the kernel runs backwards)</label>`}</div>
    ${lit && html`<${Terms} worked=${worked} layer=${told} stage=${lit.stage} at=${lit.at} dims=${dims} view=${view} />`}
    ${worked.w && html`<${KernelGrid} numbers=${view === "kernel" ? worked.dw : worked.w} size=${told.kernel} dims=${dims}
      label=${view === "kernel" ? "gradient to the kernel" : "kernel"} tap=${lit?.tap}
      onTap=${(tap) => setLit(tap && { tap, stage: -1, at: tap })} />`}
    ${view === "kernel" && html`<p class="terms">${lit?.tap
      ? html`<b>dw(${lit.tap.join(", ")})</b> = the sum over all ${told.outputs ** dims} places of gradient · input under this tap
        = <b class="total">${short(worked.dw[lit.tap.reduce((total, each) => total * told.kernel + each, 0)])}</b>`
      : "Point at a cell of the kernel to light the inputs that it meets at all places."}</p>`}
    ${field("x", "input x, row by row")} ${worked.w && field("w", "kernel w")} ${field("g", "gradient from above g")}
  </section>`;
}

function Presets({ presets, onChoose, chosen }) {
  return html`<label class="preset">example <select value=${chosen ?? ""} onChange=${(event) => onChoose(presets.find((each) => each.name === event.currentTarget.value))}>
    <option value="">choose one</option>
    ${presets.map((each) => html`<option key=${each.name} value=${each.name}>${each.title}</option>`)}</select></label>`;
}

// A whole number of the address, or the default where somebody typed something else.
const whole = (text, otherwise) => (/^\d{1,9}$/.test(text ?? "") ? Number(text) : otherwise);

function settingOf(address) {
  const { query } = address;
  return {
    size: whole(query.size, 9), channels: whole(query.channels, 1), dims: whole(query.dims, 2),
    layers: (query.layers || "conv kernel=3").split(";").map(read),
  };
}

export default function View({ address }) {
  const { query } = address;
  const setting = settingOf(address);
  const place = Math.min(whole(query.layer, 0), setting.layers.length - 1);
  const [lit, setLit] = useState(null);
  const [playing, setPlaying] = useState(false);
  const drawing = useRef(null);
  const known = useLoaded((signal) => getJson("geometry/presets", {}, { signal }), []);
  const asked = {
    size: setting.size, channels: setting.channels, dims: setting.dims, layers: setting.layers.map(write).join(";"),
    numbers: query.numbers, flipped: query.flipped, x: query.x, w: query.w, g: query.g,
  };
  const { value, error } = useLoaded((signal) => getJson("geometry", asked, { signal }), [JSON.stringify(asked)]);
  const last = useRef(null);
  if (value) last.current = value;
  const told = value ?? last.current;
  const sets = useMemo(() => (told && lit && lit.stage >= 0 ? reached(told.layers, lit) : null), [told, JSON.stringify(lit)]);
  const preset = known.value?.presets.find((each) => each.name === query.example);

  // Whatever changes the sizes makes numbers that were typed for others useless.
  const set = (change, forget = true) => go(changed(address, {
    ...(forget ? { x: "", w: "", g: "", example: "", at: "" } : {}), ...change,
  }), { replace: true });
  const setLayers = (layers, change = {}) => set({ layers: layers.map(write).join(";"), ...change });
  const choose = (chosen) => chosen && (setLit(null), go(changed({ ...address, query: {} }, {
    picture: query.picture, example: chosen.name, size: chosen.size, channels: chosen.channels, dims: chosen.dims,
    layers: chosen.layers.map((line) => write(read(line))).join(";"), numbers: chosen.x.length ? "1" : "",
    x: chosen.x.join(","), w: chosen.w.join(","), g: chosen.g.join(","), flipped: chosen.flipped ? "1" : "",
  })));

  useEffect(() => {
    if (!playing || !told) return undefined;
    const stage = place + 1;
    const { outputs } = told.layers[place];
    let number = 0;
    const step = () => {
      const at = told.dims === 1 ? [number % outputs] : [Math.floor(number / outputs) % outputs, number % outputs];
      setLit({ stage, at });
      number = (number + 1) % outputs ** told.dims;
    };
    step();
    const timer = setInterval(step, 450);
    return () => clearInterval(timer);
  }, [playing, told, place]);

  const layer = setting.layers[place];
  const single = setting.layers.length === 1 && setting.channels === 1 && layer.out === 1 && setting.size <= 14;
  const worked = told?.worked && { ...told.worked, flipped: query.flipped === "1" };
  return html`<div class="geometry">
    <${Help}>${help}<//>
    <aside>
      ${known.value && html`<${Presets} presets=${known.value.presets} chosen=${query.example} onChoose=${choose} />`}
      ${preset && html`<p class="story">${preset.text}</p>`}
      <fieldset class="controls"><legend>input</legend>
        <${Slider} name="input size" value=${setting.size} high=${32} onInput=${(size) => set({ size })} />
        <${Slider} name="input channels" value=${setting.channels} high=${64} onInput=${(channels) => set({ channels })} />
        <div class="words" role="group" aria-label="axes">${[[1, "a row"], [2, "a square"]].map(([dims, words]) => html`<button key=${dims}
          aria-pressed=${setting.dims === dims} onClick=${() => set({ dims })}>${words}</button>`)}</div>
      </fieldset>
      <div class="chips" role="tablist" aria-label="layers">
        ${setting.layers.map((each, number) => html`<button key=${number} role="tab" aria-selected=${number === place}
          onClick=${() => set({ layer: number }, false)}>${number + 1}. ${each.kind} ${each.kernel}${each.stride > 1 ? ` / ${each.stride}` : ""}</button>`)}
        <button title="add a layer behind the last" onClick=${() => setLayers([...setting.layers, read("conv kernel=3")], { layer: setting.layers.length, numbers: "" })}>+ layer</button>
        ${setting.layers.length > 1 && html`<button title="remove this layer"
          onClick=${() => setLayers(setting.layers.filter((_, number) => number !== place), { layer: Math.max(0, place - 1) })}>remove</button>`}
      </div>
      <${LayerControls} layer=${layer} told=${value?.layers[place]}
        onChange=${(made) => setLayers(setting.layers.map((each, number) => (number === place ? made : each)))} />
      <div class="words">
        <button aria-pressed=${playing} onClick=${() => setPlaying(!playing)}>${playing ? "stop" : "slide the window"}</button>
        ${single && html`<button aria-pressed=${query.numbers === "1"} onClick=${() => set({ numbers: query.numbers === "1" ? "" : "1" }, false)}>numbers</button>`}
      </div>
    </aside>
    <section class="drawing">
      ${error && html`<${Note} error=${error} />`}
      ${told && !error && html`
        <div class="facts"><div><${Grids} told=${told} sets=${sets} lit=${lit} setLit=${setLit} refer=${drawing} worked=${worked}
          show=${query.show ?? "forward"} selected=${place} />
        ${worked && html`<${Worked} told=${told.layers[0]} worked=${worked} dims=${told.dims} address=${address} lit=${lit} setLit=${setLit} />`}
        </div><${Formulas} told=${told.layers[place]} /></div>
        ${told.layers[place].stretched && told.layers[place].stretched.cells.length <= 80 && html`
          <${Stretched} told=${told.layers[place]} lit=${lit} stage=${place} />`}
        <p class="quiet">In all: ${told.total.parameters.toLocaleString("en")} parameters, ${told.total.macs.toLocaleString("en")} MACs.</p>
        <${Call} code=${worked ? `${told.call}\n# the numbers\n${worked.call}` : told.call} />
        <${Exports} name="geometry" svg=${() => drawing.current} json=${() => told} />`}
    </section>
  </div>`;
}
