// Why the network says what it says: maps of evidence, filters, patches, and pictures that excite a channel most.

import { html, useState } from "/static/vendor/preact-htm.js";
import { changed, go } from "/static/lib/address.js";
import { getJson } from "/static/lib/api.js";
import { Progress, useJob } from "/static/lib/jobs.js";
import { Call, Help, Note } from "/static/lib/parts.js";
import { sheet } from "/static/lib/sheet.js";
import { useLoaded } from "/static/lib/store.js";
import { Result, words } from "/static/views/why_results.js";

sheet("why");

export const title = "why";
export const help = "Which places speak for a class, what each filter looks for, and what excites a channel most. Everything is computed in the background and can be cancelled.";

const KINDS = [
  ["map", "evidence on the picture"], ["filters", "filters and spectra"], ["top_patches", "patches that excite a channel"],
  ["maximize", "a channel's maximising picture"], ["more", "more views"],
];


// The question for the server that the address asks.
function asked(address, options, picture) {
  const { query } = address;
  const kind = query.show ?? "map";
  const whole = (text) => (text === undefined || text === "" ? undefined : Number(text));
  if (kind === "map") {
    const method = query.method ?? "grad_cam";
    const known = options.methods.find((each) => each.name === method);
    return { method, picture, target: whole(query.target), layer: known?.layer ? query.layer : undefined };
  }
  if (kind === "filters") return options.convolutions.length ? { method: kind, layer: convolution(options, query.layer) } : null;
  const layer = place(options, query.layer);
  if (kind === "top_patches") return layer ? { method: kind, layer, channel: whole(query.channel) ?? 0, picture } : null;
  if (kind === "maximize") {
    const common = { method: kind, steps: whole(query.steps) ?? 128, seed: whole(query.seed) ?? 0 };
    if (query.of === "class" && options.classes.length) return { ...common, target: whole(query.target) ?? options.says[0]?.class ?? 0 };
    return layer ? { ...common, layer, channel: whole(query.channel) ?? 0 } : null;
  }
  const view = options.views.find((each) => each.name === query.view) ?? options.views.find((each) => !each.drawn);
  const takes = (name) => view.takes.includes(name);
  return { method: view.name, picture, layer: takes("layer") ? query.layer : undefined, channel: takes("channel") ? whole(query.channel) : undefined,
    target: takes("target") ? whole(query.target) : undefined };
}

const convolution = (options, name) => (options.convolutions.find((each) => each.name === name) ?? options.convolutions[0])?.name;
const place = (options, name) => (options.layers.find((each) => each.name === name) ?? options.layers.find((each) => each.channels > 1) ?? options.layers[0])?.name;

function Choice({ label, value, onChange, children }) {
  return html`<label class="slider choice"><span>${label}</span><select value=${value ?? ""} aria-label=${label} onChange=${(event) => onChange(event.currentTarget.value)}>${children}</select></label>`;
}

function Settings({ address, options, ask }) {
  const { query } = address;
  const kind = query.show ?? "map";
  const set = (change) => go(changed(address, change), { replace: true });
  const target = (none) => options.classes.length > 0 && html`<${Choice} label="class" value=${query.target ?? ""} onChange=${(value) => set({ target: value })}>
    <option value="">${none}</option>
    ${options.classes.map((each) => html`<option key=${each.number} value=${each.number}>${each.name}</option>`)}<//>`;
  const layers = (none) => html`<${Choice} label="layer" value=${query.layer ?? (none ? "" : ask?.layer)} onChange=${(value) => set({ layer: value, channel: "" })}>
    ${none && html`<option value="">${none}</option>`}
    ${options.layers.map((each) => html`<option key=${each.name} value=${each.name}>${each.name} (${each.channels}×${each.size.join("×")})</option>`)}<//>`;
  const channels = () => {
    const most = (options.layers.find((each) => each.name === (ask?.layer ?? query.layer))?.channels ?? 1) - 1;
    const value = ask?.channel ?? 0;
    const change = (event) => set({ channel: Math.max(0, Math.min(most, Math.round(Number(event.currentTarget.value)))) });
    return html`<label class="slider"><span>channel</span><input type="range" min="0" max=${most} value=${value} aria-label="channel" onChange=${change} />
      <input type="number" min="0" max=${most} value=${value} aria-label="channel, as a number" onChange=${change} /></label>`;
  };
  if (kind === "map") {
    const known = options.methods.find((each) => each.name === ask.method);
    return html`<${Choice} label="method" value=${ask.method} onChange=${(value) => set({ method: value })}>
      ${options.methods.map((each) => html`<option key=${each.name} value=${each.name}>${words(each.name)}</option>`)}<//>
      ${target("the predicted one")} ${known?.layer && layers("the last with places")}<p class="quiet">${known?.about}</p>`;
  }
  if (kind === "filters") {
    return html`<${Choice} label="layer" value=${ask?.layer} onChange=${(value) => set({ layer: value })}>
      ${options.convolutions.map((each) => html`<option key=${each.name} value=${each.name}>${each.name} (${each.kernels} of ${each.size.join("×")})</option>`)}<//>`;
  }
  if (kind === "top_patches") return html`${layers()} ${channels()}`;
  if (kind === "maximize") {
    const ofClass = query.of === "class";
    return html`<div class="words" role="group" aria-label="what is maximised"><button aria-pressed=${!ofClass} onClick=${() => set({ of: "" })}>a channel</button>
      ${options.classes.length > 0 && html`<button aria-pressed=${ofClass} onClick=${() => set({ of: "class" })}>a class</button>`}</div>
      ${ofClass ? target("the predicted one") : html`${layers()} ${channels()}`}
      <label class="slider"><span>steps</span><input type="range" min="16" max="512" step="16" value=${ask?.steps} aria-label="steps" onChange=${(event) => set({ steps: event.currentTarget.value })} /><output>${ask?.steps}</output></label>
      <button onClick=${() => set({ seed: (ask?.seed ?? 0) + 2 })}>other beginnings</button>`;
  }
  const view = options.views.find((each) => each.name === ask.method);
  return html`<${Choice} label="view" value=${ask.method} onChange=${(value) => set({ view: value })}>
    ${options.views.filter((each) => !each.drawn).map((each) => html`<option key=${each.name} value=${each.name}>${words(each.name)}</option>`)}<//>
    ${view.takes.includes("target") && target("the nearest other")} ${view.takes.includes("layer") && layers("the method's own")}<p class="quiet">${view.about}</p>`;
}

export default function View({ address, store }) {
  const picture = store.picture(address);
  const { value: options, error } = useLoaded((signal) => getJson("why", { picture: picture.id }, { signal }), [picture.id]);
  const kind = address.query.show ?? "map";
  const ask = options ? asked(address, options, picture.id) : null;
  const running = useJob(ask);
  const [shown, setShown] = useState(null);
  const { result } = running;
  const fits = result && ask && JSON.parse(result.asked).method === ask.method;
  if (error) return html`<${Help}>${help}<//><${Note} error=${error} />`;
  if (!options) return html`<p class="quiet" aria-busy="true">The network looks at the picture</p>`;
  return html`<div class="why">
    <${Help}>${help}<//>
    <aside>
      <div class="kinds" role="tablist" aria-label="what is shown">${KINDS.map(([name, label]) => html`<button key=${name} role="tab" aria-selected=${kind === name}
        onClick=${() => go(changed(address, { show: name === "map" ? "" : name, layer: "", channel: "", view: "" }))}>${label}</button>`)}</div>
      <fieldset class="controls"><legend>${KINDS.find(([name]) => name === kind)?.[1]}</legend><${Settings} address=${address} options=${options} ask=${ask ?? {}} /></fieldset>
    </aside>
    <section class="answer" data-current=${fits && result.asked === running.key ? "1" : "0"}>
      ${!ask && html`<${Note}>This network has no layer for that.<//>`}
      <${Progress} running=${running} />
      ${fits && html`<${Result} key=${result.id} result=${result} address=${address} store=${store} options=${options} onReady=${setShown} />
        <${Call} code=${result.call} />`}
    </section>
  </div>`;
}
