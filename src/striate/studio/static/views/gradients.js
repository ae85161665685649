// The graph backwards: gradients of a loss or an output by layers, parameters, single weights; a step of descent by hand.

import { html, useState } from "/static/vendor/preact-htm.js";
import { changed, format, go } from "/static/lib/address.js";
import { getJson } from "/static/lib/api.js";
import { Call, Exports, Note } from "/static/lib/parts.js";
import { sheet } from "/static/lib/sheet.js";
import { useLoaded } from "/static/lib/store.js";
import { Maps } from "/static/views/gradients_maps.js";
import { digits } from "/static/views/value_terms.js";

export const title = "Gradients";
export const help = "How the chosen number moves when any other number moves a little, from the output back to the picture. Click a layer or a parameter for its gradient's maps.";

sheet("value");
sheet("gradients");

export default function GradientsView({ address, store }) {
  const { query } = address;
  const picture = store.picture(address)?.id;
  const asked = { picture, training: query.training, of: query.of, label: query.label, place: query.place };
  const { value: found, error, loading } = useLoaded(
    (signal) => getJson("gradients", asked, { signal }), [picture, query.training, query.of, query.label, query.place],
  );
  const { classes } = store.get().subject;
  if (error) return html`<div class="gradients"><${Note} error=${error} />
    ${(query.of || query.label || query.place) && html`<p><a href=${format("gradients", [], { picture: query.picture })}>the network's output instead</a></p>`}</div>`;
  if (!found) return html`<p class="quiet" aria-busy="true">The network runs, and back</p>`;
  const chosen = address.parts[0] ?? String((found.layers[0] ?? found.parameters[0])?.value ?? "");
  const choose = (value) => go(changed(address, { at: null, edge: null, first: null }, [value]));
  return html`<div class="gradients" aria-busy=${loading} data-number=${digits(found.number)}>
    <p class="help">${help}</p>
    <${Target} found=${found} address=${address} classes=${classes} />
    <div class="sides">
      <section>
        <${Layers} layers=${found.layers} chosen=${chosen} choose=${choose} />
        <${Parameters} parameters=${found.parameters} chosen=${chosen} choose=${choose} />
        <${Descent} found=${found} asked=${asked} classes=${classes} address=${address} />
        <p class="bar"><${Exports} name="gradients" svg=${() => document.querySelector(".gradients svg.drawing")} json=${() => found} /></p>
        <${Call} code=${found.call} />
      </section>
      <section>${chosen !== "" && html`<${Maps} key=${chosen} value=${chosen} address=${address} asked=${asked} />`}</section>
    </div>
  </div>`;
}

// A size for people: numbers that are NaN or infinite come as words.
const power = (value, places) => (typeof value === "number" ? value.toExponential(places) : value);

function named(classes, place) {
  const name = classes[place];
  return name && name !== String(place) ? `${place} ${name}` : String(place);
}

function Target({ found, address, classes }) {
  const { target } = found;
  const set = (change) => go(changed(address, { at: null, ...change }));
  const count = found.shape[1];
  const row = target.place[0] ?? 0;
  return html`<div class="bar target">
    <b>gradients of</b>
    ${found.losses ? html`<label><select aria-label="what is differentiated" value=${target.label === null ? "number" : "loss"}
        onChange=${(event) => event.target.value === "loss" ? set({ label: target.place[1] ?? 0, place: row || null }) : set({ label: null, place: `${row},${target.label ?? 0}` })}>
        <option value="number" selected=${target.label === null}>an output's number</option><option value="loss" selected=${target.label !== null}>loss: cross entropy</option></select></label>
      <label>class <select class="label" value=${target.label ?? target.place[1]} onChange=${(event) => target.label === null
        ? set({ place: `${row},${event.target.value}`, of: address.query.of ?? target.value }) : set({ label: event.target.value, of: address.query.of ?? target.value })}>
        ${Array.from({ length: Math.min(count, 1000) }, (_, place) => html`<option value=${place} selected=${place === (target.label ?? target.place[1])}>${named(classes, place)}</option>`)}</select></label>`
      : html`<span>${found.name} [<input class="place" aria-label="place" value=${target.place.join(",")} onChange=${(event) => set({ of: target.value, place: event.target.value.replaceAll(" ", "") })} />]</span>`}
    ${found.outputs.length > 1 && html`<label>of <select value=${target.value} onChange=${(event) => set({ of: event.target.value, place: null, label: null })}>
      ${found.outputs.map((each) => html`<option value=${each.value} selected=${each.value === target.value}>${each.name} ${each.shape.join("×")}</option>`)}</select></label>`}
    <span>${target.label === null ? html`<a href=${format("value", [target.value, target.place.join(",")], { picture: address.query.picture })}>${found.name} [${target.place.join(", ")}]</a>` : "loss"} = <output class="number result">${digits(found.number)}</output></span>
  </div>`;
}

// Root mean squares by layer on a logarithmic scale, in the order of the run.
function Layers({ layers, chosen, choose }) {
  const kept = layers.filter((each) => typeof each.rms === "number" && each.rms > 0);
  if (!layers.length) return html`<p class="quiet">No layer has a gradient.</p>`;
  const low = kept.length ? Math.floor(Math.log10(Math.min(...kept.map((each) => each.rms)))) : -1;
  const high = kept.length ? Math.ceil(Math.log10(Math.max(...kept.map((each) => each.rms)))) : 0;
  const span = Math.max(1, high - low);
  const wide = 420;
  const left = 190;
  const line = layers.length > 40 ? 15 : 20;
  const top = 22;
  const full = top + layers.length * line + 6;
  const at = (rms) => left + (wide * (Math.log10(rms) - low)) / span;
  const ticks = Array.from({ length: span + 1 }, (_, step) => low + step).filter((_, step) => step % Math.ceil((span + 1) / 8) === 0);
  return html`<h2>By layer <span class="quiet">root mean square of the gradient, picture first; each line is a factor of ten</span></h2>
    <div class="chart"><svg class="drawing" role="group" aria-label="gradients by layer" viewBox=${`0 0 ${left + wide + 90} ${full}`} width=${left + wide + 90} height=${full}>
      ${ticks.map((power) => html`<g key=${power}><line class="tick" x1=${at(10 ** power)} x2=${at(10 ** power)} y1=${top - 4} y2=${full} /><text class="quiet" x=${at(10 ** power)} y="12" text-anchor="middle">1e${power}</text></g>`)}
      ${layers.map((each, rank) => {
        const y = top + rank * line;
        const press = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(each.value); } };
        return html`<g key=${each.value} class=${String(each.value) === chosen ? "layer on" : "layer"} role="button" tabindex="0" data-value=${each.value} data-rms=${each.rms}
          aria-label=${`${each.name}: ${digits(each.rms)}`} onClick=${() => choose(each.value)} onKeyDown=${press}>
          <rect class="touch" x="0" y=${y} width=${left + wide + 90} height=${line} />
          <text x=${left - 8} y=${y + line / 2} text-anchor="end" dominant-baseline="central">${each.name.length > 28 ? `…${each.name.slice(-27)}` : each.name}</text>
          ${kept.includes(each) && html`<rect class="bar-rms" x=${left} y=${y + 3} width=${Math.max(2, at(each.rms) - left)} height=${line - 6} />`}
          <text x=${(kept.includes(each) ? Math.max(left + 2, at(each.rms)) : left) + 6} y=${y + line / 2} dominant-baseline="central" class="quiet">${each.rms === 0 ? "0" : power(each.rms, 1)}</text></g>`;
      })}</svg></div>`;
}

function Parameters({ parameters, chosen, choose }) {
  const [all, setAll] = useState(false);
  if (!parameters.length) return null;
  const shown = all ? parameters : parameters.slice(0, 16);
  return html`<h2>By parameter</h2><div class="partial"><table class="parameters"><thead><tr><th>parameter</th><th>shape</th><th>gradient</th><th>weight</th><th>share</th></tr></thead><tbody>
    ${shown.map((each) => html`<tr key=${each.value} class=${String(each.value) === chosen ? "own" : ""}>
      <td><button class="hop" data-value=${each.value} onClick=${() => choose(each.value)}>${each.name}</button></td><td class="quiet">${each.shape.join("×")}</td>
      <td class="number">${power(each.rms, 2)}</td><td class="number">${power(each.size, 2)}</td><td class="number">${each.size > 0 && each.rms >= 0 ? power(each.rms / each.size, 1) : ""}</td></tr>`)}</tbody></table></div>
    ${parameters.length > shown.length && html`<button onClick=${() => setAll(true)}>all ${parameters.length} parameters</button>`}
    <p class="quiet">Root mean squares; the share is the gradient's size beside the weight's.</p>`;
}

// Gradient descent by hand, on a copy of the weights.
function Descent({ found, asked, classes, address }) {
  const [rate, setRate] = useState(address.query.rate ?? "0.01");
  const steps = Math.min(50, Math.max(0, Math.floor(Number(address.query.steps)) || 0));
  const setSteps = (count) => go(changed(address, { steps: count || null, rate: count ? rate : null }), { replace: true });
  const usable = Number.isFinite(Number(rate)) && Number(rate) > 0 ? Number(rate) : 0.01;
  const { value: told, error, loading } = useLoaded(
    (signal) => steps ? getJson("gradients/step", { ...asked, rate: usable, steps }, { signal }) : Promise.resolve(null),
    [steps, usable, found.target.value, found.target.place.join(), found.target.label, asked.picture],
  );
  const scores = told?.scores ?? [];
  const last = scores[scores.length - 1] ?? [];
  const order = last.map((_, place) => place).sort((a, b) => Math.max(scores[0][b], last[b]) - Math.max(scores[0][a], last[a])).slice(0, 4);
  return html`<h2>Descent by hand <span class="quiet">on a copy of the weights: each one moves against its gradient</span></h2>
    <div class="bar descent" aria-busy=${loading}>
      <label>learning rate <input type="number" min="0" step="any" value=${rate} onChange=${(event) => { setRate(event.target.value); }} /></label>
      <button class="step" onClick=${() => setSteps(Math.min(50, steps + 1))}>one step</button>
      <button class="back" disabled=${!steps} onClick=${() => setSteps(Math.max(0, steps - 1))}>one step back</button>
      <button disabled=${!steps} onClick=${() => setSteps(0)}>all back</button>
      <span class="steps-done">${steps} step${steps === 1 ? "" : "s"}</span></div>
    ${error && html`<${Note} error=${error} />`}
    ${steps > 0 && told && html`<p class="number losses">${told.numbers.map(digits).join(" → ")}</p>
      <p class="facts">By its gradient alone the first step would change it by ${digits(told.expected)} (rate times the gradient's squared norm); it changed by ${digits(told.numbers[1] - told.numbers[0])}.</p>
      ${order.length > 0 && html`<table class="parameters"><thead><tr><th>class</th><th>before</th><th>after</th></tr></thead><tbody>${order.map((place) => html`<tr key=${place}><td>${named(classes, place)}</td><td class="number">${(100 * scores[0][place]).toFixed(1)} %</td><td class="number">${(100 * last[place]).toFixed(1)} %</td></tr>`)}</tbody></table>`}
      <p class="bar"><${Exports} name="descent" json=${() => told} /></p><${Call} code=${told.call} />`}`;
}
