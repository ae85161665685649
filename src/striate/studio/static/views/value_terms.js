// The arithmetic of one value: windows with their weights, partial sums by channel, rows of softmax, steps of a formula.

import { html, useState } from "/static/vendor/preact-htm.js";
import { changed, go } from "/static/lib/address.js";
import { colour, isBright, scaleOf } from "/static/lib/colours.js";

const CELL = 58;
const SHOWN = 12;

// Six digits, as all numbers of this page are written.
export function digits(value) {
  if (typeof value === "boolean" || typeof value === "string" || value === null || value === undefined) return String(value ?? "");
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) return value.toExponential(5).replace("e+", "e");
  return String(Number(value.toPrecision(6)));
}

export function Arithmetic({ found, address, walkTo }) {
  if (found.kind === "sum") return html`<${Sum} found=${found} address=${address} walkTo=${walkTo} />`;
  if (found.kind === "maximum") return html`<${Maximum} found=${found} walkTo=${walkTo} />`;
  if (found.kind === "softmax") return html`<${Row} found=${found} walkTo=${walkTo} />`;
  return html`${found.steps.length > 0 && html`<${Steps} steps=${found.steps} />`}<${Hops} found=${found} walkTo=${walkTo} />`;
}

function Steps({ steps }) {
  return html`<table class="steps"><tbody>${steps.map((each) => html`<tr key=${each.name}><th>${each.name}</th><td>${each.formula}</td><td class="number">${digits(each.number)}</td></tr>`)}</tbody></table>`;
}

// Operands, each a button that walks to it.
export function Hops({ found, walkTo }) {
  if (!found.hops.length) return null;
  const most = Math.max(...found.hops.map((each) => Math.abs(each.contribution ?? 0)), 1e-300);
  const shares = found.hops.some((each) => each.contribution !== null);
  return html`<table class="hops"><thead><tr><th></th><th>operand</th><th>place</th><th>number</th>${shares && html`<th>adds</th><th></th>`}</tr></thead>
    <tbody>${found.hops.map((each, rank) => html`<tr key=${rank}><th>${each.name}</th>
      <td>${found.operands[each.value]?.name}</td>
      <td><button class="hop" data-value=${each.value} data-place=${each.place.join(",")} onClick=${() => walkTo(each.value, each.place)}
        aria-label=${`walk to ${found.operands[each.value]?.name} at ${each.place.join(", ")}`}>[${each.place.join(", ")}]</button></td>
      <td class="number">${digits(each.number)}</td>
      ${shares && html`<td class="number">${each.contribution === null ? "" : digits(each.contribution)}</td><td><${Bar} value=${each.contribution ?? 0} most=${most} /></td>`}</tr>`)}</tbody></table>`;
}

function Bar({ value, most }) {
  const length = Math.min(60, (60 * Math.abs(value)) / most);
  return html`<svg class="bar-of" width="124" height="14" aria-hidden="true"><line x1="62" y1="0" x2="62" y2="14" class="axis" />
    <rect x=${value < 0 ? 62 - length : 62} y="3" width=${length} height="8" class=${value < 0 ? "below" : "above"} /></svg>`;
}

// Terms by group: [{group, sum, terms: [rows of the sent arrays]}].
function grouped(terms) {
  const rows = new Map();
  (terms.groups ?? []).forEach((group, row) => { rows.set(group, [...(rows.get(group) ?? []), row]); });
  return terms.partial.map((each) => ({ ...each, rows: rows.get(each.group) ?? [] }));
}

function Sum({ found, address, walkTo }) {
  const { facts } = found;
  const turned = Boolean(address.query.flip) && facts.flipped?.terms;
  const terms = turned || found.terms;
  const [all, setAll] = useState(false);
  const flip = Boolean(address.query.flip);
  const kernel = facts.kernel ?? [];
  const drawn = kernel.length >= 1 && kernel.length <= 2 && kernel.every((each) => each <= 11) && terms.strands.length === 2 && terms.partial.length;
  const scaled = terms.strands.length === 1 && terms.coefficients;
  const groups = grouped(terms);
  const complete = terms.shown === terms.count;
  const ordered = complete ? groups : [...groups].sort((a, b) => Math.abs(b.sum) - Math.abs(a.sum));
  const picked = terms.group;
  const listed = drawn ? (complete || picked !== null ? ordered.filter((each) => each.rows.length) : []) : [];
  return html`
    ${facts.flipped && html`<p class="bar"><label><input type="checkbox" checked=${flip} onChange=${() => go(changed(address, { flip: flip ? null : 1 }), { replace: true })} /> the true convolution, with the flipped kernel</label></p>
      ${flip && html`<p class="facts">${facts.flipped.words} With these weights it would give <b class="number flipped">${digits(facts.flipped.number)}</b> here.</p>`}`}
    ${drawn && html`<${Patches} terms=${terms} taps=${found.terms.strands[1].places} groups=${all ? listed : listed.slice(0, SHOWN)} kernel=${kernel} flip=${flip} walkTo=${walkTo} />`}
    ${listed.length > SHOWN && !all && html`<p><button onClick=${() => setAll(true)}>all ${listed.length} channels</button></p>`}
    ${!complete && groups.length > 0 && html`<${Partial} groups=${ordered} grouped=${terms.grouped} address=${address} picked=${picked} />`}
    ${!drawn && html`<${Listed} found=${found} walkTo=${walkTo} scaled=${scaled} />`}
    <p class="total number">Σ of ${terms.count} products${terms.padded ? ` (${terms.padded} taps on padding, which add 0)` : ""}${found.added.map((each) => html` + <button class="hop" data-value=${each.value} data-place=${each.place.join(",")} onClick=${() => walkTo(each.value, each.place)}>${each.name} = ${digits(each.contribution ?? each.number)}</button>`)}
      = <b>${digits(turned ? facts.flipped.number : found.check?.computed)}</b></p>`;
}

function Partial({ groups, grouped: what, address, picked }) {
  const most = Math.max(...groups.map((each) => Math.abs(each.sum)), 1e-300);
  return html`<p class="facts">Too many terms to write out: the sums by ${what}, the largest first. A click shows one ${what}'s window.</p>
    <div class="partial"><table><tbody>${groups.slice(0, 64).map((each) => html`<tr key=${each.group}>
      <td><button aria-pressed=${each.group === picked} onClick=${() => go(changed(address, { group: each.group === picked ? null : each.group }), { replace: true })}>${what} ${each.group}</button></td>
      <td class="number">${digits(each.sum)}</td><td><${Bar} value=${each.sum} most=${most} /></td></tr>`)}</tbody></table></div>`;
}

function Listed({ found, walkTo, scaled }) {
  const { terms } = found;
  const [x, w] = terms.strands;
  const order = terms.products.map((_, row) => row);
  if (order.length > 40) order.sort((a, b) => Math.abs(terms.products[b]) - Math.abs(terms.products[a]));
  const shown = order.slice(0, 40);
  const most = Math.max(...terms.products.map(Math.abs), 1e-300);
  return html`<table class="hops terms"><thead><tr><th>${x.name} at</th><th>${x.name}</th>${w ? html`<th>${w.name}</th>` : scaled && html`<th>factor</th>`}<th>product</th><th></th></tr></thead>
    <tbody>${shown.map((row) => html`<tr key=${row}>
      <td><button class="hop" data-value=${x.value} data-place=${x.places[row].join(",")} onClick=${() => walkTo(x.value, x.places[row])}>[${x.places[row].join(", ")}]</button></td>
      <td class="number">${digits(x.numbers[row])}</td>
      ${w ? html`<td class="number"><button class="plain-number" onClick=${() => walkTo(w.value, w.places[row])}>${digits(w.numbers[row])}</button></td>` : scaled && html`<td class="number">${digits(terms.coefficients[row])}</td>`}
      <td class="number product">${digits(terms.products[row])}</td><td><${Bar} value=${terms.products[row]} most=${most} /></td></tr>`)}</tbody></table>
    ${terms.count > shown.length && html`<p class="quiet">The largest ${shown.length} of ${terms.count} terms.</p>`}`;
}

// Where a term stands in the kernel: [row, column].
function tap(place) {
  return place.length >= 4 ? [place[place.length - 2], place[place.length - 1]] : [0, place[place.length - 1]];
}

// For each channel the window, the weights on it, and the products, as an SVG that can be saved.
function Patches({ terms, taps, groups, kernel, flip, walkTo }) {
  const [x, w] = terms.strands;
  const [rows, columns] = kernel.length === 2 ? kernel : [1, kernel[0]];
  const cell = Math.max(34, Math.min(CELL, Math.floor(215 / columns)));
  const wide = columns * cell;
  const gap = 28;
  const height = rows * cell + 26;
  const scale = { x: scaleOf(...span(x.numbers)), w: scaleOf(...span(w.numbers)), p: scaleOf(...span(terms.products)) };
  const block = (left, group, numbers, colours, kind) => group.rows.map((row) => {
    const [down, right] = tap(taps[row]);
    const target = kind === "w" ? w : x;
    const walk = () => walkTo(target.value, target.places[row]);
    return html`<${Cell} key=${`${kind}${row}`} kind=${kind} x=${left + right * cell} y=${20 + down * cell} size=${cell} value=${numbers[row]} scale=${colours}
      target=${target} place=${target.places[row]} walk=${kind === "p" ? null : walk} />`;
  });
  const pad = (left) => Array.from({ length: rows * columns }, (_, spot) => html`<rect key=${`${left}${spot}`} class="pad" x=${left + (spot % columns) * cell} y=${20 + Math.floor(spot / columns) * cell} width=${cell} height=${cell} />`);
  const second = wide + gap;
  const third = 2 * (wide + gap);
  const full = 3 * wide + 2 * gap + 122;
  return html`<div class="patches"><svg class="drawing" role="group" aria-label="windows, weights and products by channel" width=${full} height=${groups.length * height + 4} viewBox=${`0 0 ${full} ${groups.length * height + 4}`}>
    ${groups.map((group, rank) => html`<g key=${group.group} transform=${`translate(0 ${rank * height})`}>
      <text class="label" x="0" y="14">${terms.grouped} ${group.group}</text>
      ${rank === 0 && html`<text class="label" x=${second} y="14">${flip ? "weights, flipped" : "weights"}</text><text class="label" x=${third} y="14">products</text>`}
      ${pad(0)}${block(0, group, x.numbers, scale.x, "x")}
      <text class="sign" x=${wide + gap / 2} y=${20 + (rows * cell) / 2}>×</text>
      ${pad(second)}${block(second, group, w.numbers, scale.w, "w")}
      <text class="sign" x=${second + wide + gap / 2} y=${20 + (rows * cell) / 2}>=</text>
      ${pad(third)}${block(third, group, terms.products, scale.p, "p")}
      <text class="sum" x=${third + wide + 12} y=${20 + (rows * cell) / 2}>Σ ${digits(group.sum)}</text></g>`)}
  </svg></div>`;
}

function Cell({ kind, x, y, size, value, scale, target, place, walk }) {
  const fill = colour(Number(value), scale); // NaN and infinities come as words
  const text = size >= 50 || typeof value === "string" ? digits(value) : String(Number(value.toPrecision(3)));
  const press = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); walk(); } };
  return html`<g class=${walk ? `cell ${kind} walk` : `cell ${kind}`} role=${walk ? "button" : null} tabindex=${walk ? 0 : null} onClick=${walk} onKeyDown=${walk && press}
    data-value=${target.value} data-place=${place.join(",")} data-number=${digits(value)} aria-label=${`${target.name} at ${place.join(", ")}: ${digits(value)}`}>
    <title>${target.name}[${place.join(", ")}] = ${digits(value)}</title>
    <rect x=${x} y=${y} width=${size} height=${size} fill=${`rgb(${Math.round(fill[0])},${Math.round(fill[1])},${Math.round(fill[2])})`} />
    <text x=${x + size / 2} y=${y + size / 2} fill=${isBright(fill) ? "#000" : "#fff"} textLength=${text.length * 6.8 > size - 8 ? size - 8 : null} lengthAdjust="spacingAndGlyphs">${text}</text></g>`;
}

function span(numbers) {
  const kept = numbers.filter((each) => Number.isFinite(each));
  return kept.length ? [Math.min(...kept), Math.max(...kept)] : [0, 0];
}

// A window of which one number wins.
function Maximum({ found, walkTo }) {
  const { window: seen } = found;
  const kernel = found.facts.kernel ?? [];
  const [rows, columns] = kernel.length === 2 ? kernel : [1, kernel[0] ?? seen.count];
  if (!kernel.length || rows * columns !== seen.numbers.length || columns > 14) {
    return html`<${Hops} found=${found} walkTo=${walkTo} /><p class="quiet">The largest of ${seen.count} numbers.</p>`;
  }
  const scale = scaleOf(...span(seen.numbers.map(Number)));
  return html`<div class="patches"><svg class="drawing" role="group" aria-label="the window" width=${columns * CELL + 8} height=${rows * CELL + 28} viewBox=${`-4 0 ${columns * CELL + 8} ${rows * CELL + 28}`}>
    ${seen.numbers.map((value, row) => html`<${Cell} key=${row} kind="x" x=${(row % columns) * CELL} y=${20 + Math.floor(row / columns) * CELL} size=${CELL} value=${value} scale=${scale} target=${seen} place=${seen.places[row]} walk=${() => walkTo(seen.value, seen.places[row])} />`)}
    ${found.ties.filter((row) => row !== found.winner).map((row) => html`<rect key=${`t${row}`} class="tie" x=${(row % columns) * CELL + 3} y=${23 + Math.floor(row / columns) * CELL} width=${CELL - 6} height=${CELL - 6} />`)}
    <rect class="winner" x=${(found.winner % columns) * CELL + 2} y=${22 + Math.floor(found.winner / columns) * CELL} width=${CELL - 4} height=${CELL - 4} />
  </svg></div>
  <${Hops} found=${found} walkTo=${walkTo} />`;
}

// A row of softmax: bars, and on a grid where the row belongs to tokens of the picture.
function Row({ found, walkTo }) {
  const weights = found.facts.weights ?? [];
  const most = Math.max(...weights, 1e-300);
  const order = weights.map((_, row) => row).sort((a, b) => weights[b] - weights[a]).slice(0, 12);
  if (found.winner !== null && !order.includes(found.winner)) order.push(found.winner);
  return html`<${Steps} steps=${found.steps} />
    <table class="hops"><thead><tr><th>x at</th><th>x</th><th>weight</th><th></th></tr></thead><tbody>${order.filter((row) => row < found.window.places.length).map((row) => html`<tr key=${row} class=${row === found.winner ? "own" : ""}>
      <td><button class="hop" data-value=${found.window.value} data-place=${found.window.places[row].join(",")} onClick=${() => walkTo(found.window.value, found.window.places[row])}>[${found.window.places[row].join(", ")}]</button></td>
      <td class="number">${digits(found.window.numbers[row])}</td><td class="number">${digits(weights[row])}</td><td><${Bar} value=${weights[row]} most=${most} /></td></tr>`)}</tbody></table>`;
}
