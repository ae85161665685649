// Search for layers and operators by name or type.

import { html, useState } from "/static/vendor/preact-htm.js";
import { getJson } from "/static/lib/api.js";
import { useLoaded } from "/static/lib/store.js";

export function Search({ picture, onFound }) {
  const [words, setWords] = useState("");
  const [at, setAt] = useState(0);
  const [shown, setShown] = useState(false);
  const { value } = useLoaded(
    (signal) => (words.trim() ? getJson("network/search", { picture, q: words }, { signal }) : Promise.resolve({ found: [] })),
    [words, picture],
  );
  const found = value?.found ?? [];
  const take = (place) => {
    if (!found[place]) return;
    setAt(place);
    onFound(found[place]);
  };
  const onKeyDown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      setAt((now) => Math.max(0, Math.min(found.length - 1, now + step)));
    } else if (event.key === "Enter") {
      take(at);
      setShown(false);
    } else if (event.key === "Escape") {
      setShown(false);
    }
  };
  return html`<div class="search">
    <input type="search" placeholder="search, as conv or layer4" aria-label="search layers and operators" value=${words}
      onInput=${(event) => { setWords(event.target.value); setAt(0); setShown(true); }} onKeyDown=${onKeyDown}
      onFocus=${() => setShown(true)} onBlur=${() => setTimeout(() => setShown(false), 200)} />
    ${shown && words && html`<ul role="listbox">
      ${found.map((each, place) => html`<li key=${each.id + place} role="option" aria-selected=${place === at}
        onMouseDown=${() => take(place)}>${each.text}</li>`)}
      ${!found.length && html`<li class="quiet">nothing</li>`}</ul>`}
  </div>`;
}
