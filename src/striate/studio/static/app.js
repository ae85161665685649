// The page's shell: the subject's name, the tabs, the picture that is looked at, and the view that the address names.

import { html, render, useEffect, useState, useErrorBoundary } from "/static/vendor/preact-htm.js";
import { format, go, parse } from "/static/lib/address.js";
import { ApiError, GONE } from "/static/lib/api.js";
import { store, useStore } from "/static/lib/store.js";
import { Note, PixelPicture } from "/static/lib/parts.js";
import { views } from "/static/views/index.js";

const loaded = new Map();

function useAddress() {
  const [address, setAddress] = useState(() => parse(location.hash));
  useEffect(() => {
    const follow = () => setAddress(parse(location.hash));
    window.addEventListener("hashchange", follow);
    return () => window.removeEventListener("hashchange", follow);
  }, []);
  return address;
}

function useModule(view) {
  const [found, setFound] = useState({ name: null });
  useEffect(() => {
    let current = true;
    if (!view) return undefined;
    if (!loaded.has(view.name)) loaded.set(view.name, view.load());
    loaded.get(view.name).then(
      (module) => current && setFound({ name: view.name, module }),
      (error) => {
        loaded.delete(view.name);
        console.warn(error);
        if (current) setFound({ name: view.name, error: new ApiError(GONE, 0) });
      },
    );
    return () => { current = false; };
  }, [view?.name]);
  return found.name === view?.name ? found : {};
}

const THEMES = ["auto", "light", "dark"];

function Theme() {
  const [theme, setTheme] = useState(() => localStorage.getItem("striate-theme") ?? "auto");
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    localStorage.setItem("striate-theme", theme);
    window.dispatchEvent(new Event("striate-theme"));
  }, [theme]);
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  return html`<button class="plain" title=${`Colours: ${theme}; next ${next}`} aria-label=${`colours: ${theme}`}
    onClick=${() => setTheme(next)}>${{ auto: "◐", light: "☀", dark: "☾" }[theme]}</button>`;
}

function Pictures({ address }) {
  const { pictures } = store.get();
  const chosen = store.picture(address);
  if (pictures.length < 2) return null;
  return html`<div class="strip" role="listbox" aria-label="picture">
    ${pictures.slice(0, 24).map((each) => html`<button key=${each.id} role="option" title=${each.name}
        aria-label=${each.name} aria-selected=${each.id === (chosen?.of ?? chosen?.id)}
        onClick=${() => go(format(address.view, address.parts, { ...address.query, picture: each.id }))}>
      ${each.size ? html`<${PixelPicture} id=${each.id} />` : each.name}
    </button>`)}
  </div>`;
}

function View({ module, address }) {
  const [error, reset] = useErrorBoundary();
  useEffect(() => { if (error) reset(); }, [location.hash]);
  if (error) {
    console.error(error);
    return html`<${Note} error=${error} />`;
  }
  return html`<${module.default} address=${address} store=${store} />`;
}

function App() {
  const address = useAddress();
  const state = useStore();
  const [error, setError] = useState(null);
  const [starting, setStarting] = useState("");
  useEffect(() => {
    window.addEventListener("striate-starting", (event) => setStarting(event.detail));
    store.refresh().catch(setError);
  }, []);
  const known = views.filter((each) => !state.subject || state.subject.views.includes(each.name));
  const view = known.find((each) => each.name === address.view) ?? known[0];
  const { module, error: broken } = useModule(view);
  useEffect(() => {
    if (state.subject) document.title = `${module?.title ?? "studio"} · ${state.subject.name} · striate`;
  }, [state.subject, module]);
  const tabs = known.filter((each) => each.name === view?.name || (!each.hidden && (!each.when || (state.subject && each.when(state.subject)))));
  const keep = address.query.picture ? { picture: address.query.picture } : {};
  return html`
    <header>
      <a class="name" href="#/">
        <b>${state.subject?.name ?? "striate"}</b>
        <small>${state.subject ? state.subject.weights : "studio"}</small>
      </a>
      <nav aria-label="views">
        ${tabs.map((each) => html`<a key=${each.name} href=${format(each.name, [], keep)}
          aria-current=${each.name === view?.name ? "page" : null}>${each.label}</a>`)}
      </nav>
      <${Pictures} address=${address} />
      <${Theme} />
    </header>
    <main>
      ${error || broken ? html`<${Note} error=${error ?? broken} />`
        : !state.subject || !view ? html`<p class="waiting" role="status" aria-busy="true">${starting ? `The studio is ${starting}.` : "Loading"}</p>`
        : !module ? html`<p class="quiet" aria-busy="true">Loading ${view.label}</p>`
        : html`<${View} key=${view.name} module=${module} address=${address} />`}
    </main>`;
}

// What a click on a node or a number leads to is fetched before it is needed.
setTimeout(() => {
  for (const view of views) {
    if (!["numbers", "value"].includes(view.name) || loaded.has(view.name)) continue;
    const module = view.load();
    module.catch(() => loaded.delete(view.name)); // asked for again when it is needed
    loaded.set(view.name, module);
  }
}, 1500);

render(html`<${App} />`, document.getElementById("app"));
