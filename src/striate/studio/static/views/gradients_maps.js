// One value's gradient as maps beside the value's own, by edge of the graph; one weight's as the sum over its places.

import { html } from "/static/vendor/preact-htm.js";
import { changed, format, go } from "/static/lib/address.js";
import { getJson, getNumbers } from "/static/lib/api.js";
import { extent, scaleOf } from "/static/lib/colours.js";
import { Legend, MapView, many } from "/static/lib/maps.js";
import { Call, Exports, Note } from "/static/lib/parts.js";
import { placeOf } from "/static/lib/places.js";
import { pictured } from "/static/lib/save.js";
import { useLoaded } from "/static/lib/store.js";
import { digits } from "/static/views/value_terms.js";

const PAGE = 24;

export function Maps({ value, address, asked }) {
  const { query } = address;
  const first = Number(query.first ?? 0);
  const { value: got, error } = useLoaded(
    (signal) => getNumbers(`gradients/${encodeURIComponent(value)}/maps`, { ...asked, first, count: PAGE, size: 112, edge: query.edge, sample: query.sample }, { signal }),
    [value, ...Object.values(asked), first, query.edge, query.sample],
  );
  if (error) return html`<${Note} error=${error} />`;
  if (!got) return html`<p class="quiet" aria-busy="true">Gradients come back</p>`;
  const { header, data } = got;
  const [, count, rows, columns] = header.shape;
  const size = count * rows * columns;
  const scale = scaleOf(...extent(data, 0, size));
  const parameter = header.kind === "parameter";
  const sample = Number(query.sample ?? 0);
  const pick = (channel, y, x) => {
    const at = placeOf(header.form, header.shape_of_value, sample, first + channel, y * header.factor, x * header.factor);
    if (!at) return;
    if (parameter) go(changed(address, { at: at.join(",") }, [value]), { replace: true });
    else go(format("value", [value, at.join(",")], { picture: query.picture, training: query.training }));
  };
  const wide = count === 1 ? 224 : 112;
  const factor = rows * columns <= 9 ? 26 : header.form.name === "vector" ? Math.max(8, Math.min(26, Math.floor(560 / columns))) : undefined;
  return html`<h2>${header.name} <span class="quiet">${header.shape_of_value.join("×")}</span></h2>
    <p class="facts">Gradient: norm <b class="number norm">${digits(header.norm)}</b>, root mean square ${digits(header.rms)}, largest ${digits(header.largest)}, ${(100 * header.zeros).toFixed(1)} % zeros.${" "}
      <${Legend} scale=${scale} /></p>
    <${Edges} header=${header} address=${address} value=${value} />
    ${header.edges.some((each) => each.operator.includes("max_pool")) && html`<p class="facts">Max pooling sends each number of the gradient to the place that won its window, and nothing to the others.</p>`}
    <p class="facts">${parameter ? "Each filter's gradient; click one weight for the places that share it." : "Left the gradient, right the numbers themselves; click one to follow it back."}</p>
    ${header.form.samples > 1 && html`<p><label>${parameter ? "input channel" : "number"} <input type="number" min="0" max=${header.form.samples - 1} value=${sample} onChange=${(event) => go(changed(address, { sample: event.target.value || null }), { replace: true })} /> of ${header.form.samples}</label></p>`}
    <div class="windows grads">${Array.from({ length: count }, (_, channel) => html`<figure key=${channel}><div class="row">
      <${MapView} data=${data} height=${rows} width=${columns} from=${channel * rows * columns} scale=${scale} size=${wide} factor=${factor} label=${`gradient, channel ${first + channel}`} onPick=${(y, x) => pick(channel, y, x)} />
      <${MapView} data=${data} height=${rows} width=${columns} from=${size + channel * rows * columns} size=${wide} factor=${factor} label=${`numbers, channel ${first + channel}`} onPick=${(y, x) => pick(channel, y, x)} /></div>
      <figcaption class="quiet">${first + channel}</figcaption></figure>`)}</div>
    ${header.form.channels > PAGE && html`<p class="bar"><button disabled=${!first} onClick=${() => go(changed(address, { first: Math.max(0, first - PAGE) || null }, [value]), { replace: true })}>before</button>
      <button disabled=${first + PAGE >= header.form.channels} onClick=${() => go(changed(address, { first: first + PAGE }, [value]), { replace: true })}>next</button>
      <span class="quiet">${first} to ${Math.min(first + PAGE, header.form.channels) - 1} of ${header.form.channels}</span></p>`}
    <p class="bar"><${Exports} name=${`gradient of ${header.name}`} canvas=${() => pictured(document.querySelector(".grads"))} json=${() => ({ ...header, numbers: Array.from(data) })} /></p>
    ${parameter && html`<${Weight} value=${value} header=${header} address=${address} asked=${asked} />`}`;
}

// Where the gradient comes from: one edge for each operator that uses the value.
function Edges({ header, address, value }) {
  const { edge } = address.query;
  if (!header.edges.length) return null;
  const set = (operation) => go(changed(address, { edge: operation }, [value]), { replace: true });
  return html`<p class="bar edges"><span>It comes back ${header.edges.length > 1 ? `along ${header.edges.length} edges, whose gradients add up` : "from"}:</span>
    ${header.edges.length > 1 && html`<button aria-pressed=${edge === undefined} onClick=${() => set(null)}>their sum</button>`}
    ${header.edges.map((each) => html`<button key=${each.operation} aria-pressed=${edge === String(each.operation)} disabled=${each.norm === null} onClick=${() => set(each.operation)}>
      ${each.layer || each.operator} <span class="quiet">${each.norm === null ? "none" : digits(each.norm)}</span></button>`)}</p>`;
}

function Weight({ value, header, address, asked }) {
  const { at } = address.query;
  const { value: told, error } = useLoaded(
    (signal) => at ? getJson(`gradients/${encodeURIComponent(value)}/weight`, { ...asked, at }, { signal }) : Promise.resolve(null),
    [value, at, ...Object.values(asked)],
  );
  if (error) return html`<${Note} error=${error} />`;
  if (!told) return null;
  return html`<div class="weight" data-total=${digits(told.total)} data-gradient=${digits(told.gradient)}>
    <h2>One weight: ${told.name} [${told.place.join(", ")}] = <span class="number">${digits(told.number)}</span></h2>
    <p>Its gradient is the sum over all places that share it: <b class="number">${digits(told.total)}</b>; autograd says <b class="number">${digits(told.gradient)}</b>.</p>
    ${told.uses.map((use) => html`<section key=${use.operation}><p class="facts">${use.name}: <b>${many(use.count)}</b> places, together ${digits(use.sum)}. <code>${use.formula}</code></p>
      <table class="parameters"><thead><tr><th>place</th><th>∂L/∂y there</th><th>times</th><th>adds</th></tr></thead><tbody>
      ${use.largest.slice(0, 16).map((each) => html`<tr key=${each.place.join()}><td><a href=${format("value", [use.result, each.place.join(",")], { picture: address.query.picture, training: address.query.training })}>[${each.place.join(", ")}]</a></td>
        <td class="number">${digits(each.upstream)}</td><td class="number">${digits(each.factor)}</td><td class="number">${digits(each.product)}</td></tr>`)}</tbody></table>
      ${use.count > 16 && html`<p class="quiet">The largest 16 of ${use.count}.</p>`}</section>`)}
    ${told.others !== 0 && html`<p class="facts">Other operators add ${digits(told.others)}, whose places this page doesn't list.</p>`}
    <p class="bar"><${Exports} name="weight" json=${() => told} /></p><${Call} code=${told.call} /></div>`;
}
