// The figures of one node, beside the graph.

import { html } from "/static/vendor/preact-htm.js";
import { changed, format, go } from "/static/lib/address.js";
import { bytes } from "/static/lib/maps.js";
import { sizes } from "/static/lib/svg.js";
import { sees } from "/static/views/network_drawing.js";

const FAMILIES = [
  ["conv", "convolution"], ["pool", "pooling"], ["norm", "normalisation"], ["act", "activation"], ["dense", "matrix product"],
  ["attention", "attention"], ["join", "sum, concatenation"], ["move", "moves numbers"], ["box", "layers, opens with +"],
];

// What is beside the graph as long as no node is chosen.
function Legend() {
  return html`<aside class="details" aria-label="legend">
    <p>Every operator that ran, from left to right and row by row, in the boxes of the layers that called it. Each node
      has the shape of its result, what it costs, how much of the picture it sees, and some of its maps.</p>
    <p>Click a node for all its figures, twice for its numbers. Open a box with +.</p>
    <ul class="families">${FAMILIES.map(([name, text]) => html`<li class=${name}>${text}</li>`)}</ul>
    <p class="quiet">Keys: arrows follow the tensors, Enter opens a box or the numbers, Backspace closes the box around a node,
      / searches, + − 0 change the size.</p>
  </aside>`;
}

export function Details({ node, data, field, address, onSelect, onToggle }) {
  if (!node) return html`<${Legend} />`;
  const picture = address.query.picture;
  const name = (id) => data.nodes.find((each) => each.id === id)?.name ?? id;
  const ends = (from, to) => data.edges.filter((each) => each[from] === node.id).map((each) => ({ id: each[to], shape: each.shape, value: each.value }));
  const rows = [
    ["type", node.type], ["window", node.about], ["inside", node.parts], ["shape", node.shape.join("×")],
    ["parameters", node.parameters ? node.parameters.toLocaleString("en") : ""],
    ["MACs", node.macs ? node.macs.toLocaleString("en") : ""],
    ["FLOPs", node.flops ? node.flops.toLocaleString("en") : ""],
    ["memory written", node.bytes ? bytes(node.bytes) : ""],
    ["operators", node.operators > 1 ? node.operators : ""],
    ["receptive field", field ? [sees(field), field.stride.every((each) => each) ? `every ${field.stride.join("×")}` : ""].filter(Boolean).join(", ") : ""],
    ["", field?.note],
  ].filter(([, value]) => value !== "" && value !== undefined && value !== null);
  return html`<aside class="details" aria-label=${`figures of ${node.name}`}>
    <h2>${node.kind === "box" ? node.id : node.name}
      <button class="plain" aria-label="close the figures" onClick=${() => go(changed(address, { node: null }), { replace: true })}>×</button></h2>
    <dl>${rows.map(([label, value]) => html`<dt>${label}</dt><dd>${value}</dd>`)}</dl>
    <p class="actions">
      ${node.values.length > 0 && html`<a class="button" href=${format("numbers", [node.values[0]], { picture })}>numbers</a>`}
      ${node.opens && html`<button onClick=${() => onToggle(node.id, true)}>open</button>`}
    </p>
    <${Ends} label="from" ends=${ends("target", "source")} name=${name} onSelect=${onSelect} picture=${picture} />
    <${Ends} label="to" ends=${ends("source", "target")} name=${name} onSelect=${onSelect} picture=${picture} />
  </aside>`;
}

function Ends({ label, ends, name, onSelect }) {
  if (!ends.length) return null;
  return html`<h3>${label}</h3><ul>${ends.slice(0, 30).map((each) => html`<li key=${each.id + each.value}>
    <button class="link" onClick=${() => onSelect(each.id)}>${name(each.id)}</button>
    <span class="quiet"> ${sizes(each.shape)}</span></li>`)}</ul>`;
}
