// All tensors of a run, in the order in which they came about.

import { html, useEffect, useRef, useState } from "/static/vendor/preact-htm.js";
import { format } from "/static/lib/address.js";
import { getJson } from "/static/lib/api.js";
import { Note } from "/static/lib/parts.js";
import { useLoaded } from "/static/lib/store.js";
import { sizes } from "/static/lib/svg.js";

const MOST = 400;
const KINDS = [["activation", "results"], ["parameter", "weights"], ["all", "all"]];

export function List({ address, picture, chosen }) {
  const [words, setWords] = useState("");
  const [kind, setKind] = useState("activation");
  const element = useRef(null);
  const { value, error } = useLoaded((signal) => getJson("tensors", { picture }, { signal }), [picture]);
  useEffect(() => {
    element.current?.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  }, [chosen, Boolean(value)]);
  const needle = words.toLowerCase();
  const kinds = { activation: ["activation", "input"], parameter: ["parameter", "buffer"] }[kind];
  const found = (value?.tensors ?? []).filter((each) => (String(each.value) === chosen || !kinds || (kinds.includes(each.kind) && !each.shape.includes(0)))
    && (!needle || each.name.toLowerCase().includes(needle)));
  // Of very many those around the chosen one.
  const from = Math.max(0, Math.min(found.length - MOST, found.findIndex((each) => String(each.value) === chosen) - MOST / 2));
  return html`<aside class="list" aria-label="tensors" ref=${element}>
    <input type="search" placeholder="filter" aria-label="filter tensors" value=${words} onInput=${(event) => setWords(event.target.value)} />
    <div class="group" role="group" aria-label="which tensors">${KINDS.map(([name, text]) => html`<button key=${name} aria-pressed=${kind === name}
      onClick=${() => setKind(name)}>${text}</button>`)}</div>
    ${error && html`<${Note} error=${error} />`}
    <ol>${found.slice(from, from + MOST).map((each) => html`<li key=${each.value}>
      <a class=${each.kind} aria-current=${String(each.value) === chosen ? "true" : null}
        href=${format("numbers", [each.value], { picture: address.query.picture, with: address.query.with, shared: address.query.shared, size: address.query.size })}>
        ${each.name}<span class="quiet"> ${sizes(each.shape)}</span></a></li>`)}</ol>
    ${found.length > MOST && html`<p class="quiet">and ${found.length - MOST} more: filter them</p>`}
  </aside>`;
}
