// The network as a graph: boxes open and close, every node has its shape, its costs, what it sees, and small maps.

import { html, render, useEffect, useLayoutEffect, useMemo, useRef, useState } from "/static/vendor/preact-htm.js";
import { changed, format, go } from "/static/lib/address.js";
import { getJson, getNumbers } from "/static/lib/api.js";
import { bytes, many } from "/static/lib/maps.js";
import { Call, Exports, Note } from "/static/lib/parts.js";
import { useLoaded } from "/static/lib/store.js";
import { Drawing, drawMaps, Graph } from "/static/views/network_drawing.js";
import { Details } from "/static/views/network_details.js";
import { Search } from "/static/views/network_search.js";

export const title = "Network";
export const help = "Every operator that ran, in the boxes of the layers that called it. Open a box with +; click a node for its figures, twice for its numbers.";

const STEPS = [0.06, 0.1, 0.16, 0.25, 0.35, 0.5, 0.65, 0.8, 1, 1.25, 1.6, 2];
const LEAST = 0.5; // below, text is too small to read on a first view

function useWidth(element) {
  const [width, setWidth] = useState(null);
  useLayoutEffect(() => {
    const measure = () => setWidth(Math.max(300, Math.floor((element.current.clientWidth - 40) / 50) * 50));
    measure();
    const watch = new ResizeObserver(measure);
    watch.observe(element.current);
    return () => watch.disconnect();
  }, []);
  return width;
}

export default function Network({ address }) {
  const stage = useRef(null);
  const width = useWidth(stage);
  const [scale, setScale] = useState(1);
  const held = useRef(null);
  const picture = address.query.picture;
  const { value: data, error, loading } = useLoaded(
    (signal) => (width ? getJson("network", { picture, open: address.query.open, width }, { signal }) : new Promise(() => {})),
    [picture, address.query.open, width],
  );
  const { value: fields } = useLoaded((signal) => getJson("network/fields", { picture }, { signal }), [picture, Boolean(data)]);
  const maps = useMaps(data, picture);
  const selected = data?.nodes.find((each) => each.id === address.query.node) ?? null;

  // Of a first view all that fits is shown, as long as it can be read.
  useEffect(() => {
    if (!data || held.current) return;
    const fits = Math.min(1, (stage.current.clientWidth - 30) / data.width);
    setScale(fits >= 1 ? 1 : Math.max(LEAST, fits));
  }, [data]);

  useLayoutEffect(() => keepPlace(stage.current, held, data, scale), [data, scale]);
  useEffect(() => reveal(stage.current, selected, scale), [selected?.id, data]);

  const select = (id) => go(changed(address, { node: id }), { replace: true });
  const toggle = (id, opening) => {
    const now = data.open.filter((each) => each !== id && (opening || !each.startsWith(`${id}.`)));
    if (opening) now.push(id);
    held.current = place(stage.current, data, id, scale);
    go(changed(address, { open: now.length ? now.join(",") : "-" }));
  };
  const numbers = (node) => node.values.length && go(format("numbers", [node.values[0]], { picture }));
  const onKey = (event) => keys(event, { data, selected, select, toggle, numbers, zoom });
  const zoom = (step) => setScale((now) => {
    if (step === 0) return Math.max(STEPS[0], Math.min(1, (stage.current.clientWidth - 30) / data.width, (stage.current.clientHeight - 10) / data.height));
    const at = STEPS.findIndex((each) => each >= now - 1e-6);
    return STEPS[Math.max(0, Math.min(STEPS.length - 1, (at < 0 ? STEPS.length - 1 : at) + step))];
  });

  return html`<div class="network" onKeyDown=${onKey}>
    <div class="bar">
      <${Search} picture=${picture} onFound=${(found) => go(changed(address, {
        node: found.id, open: [...new Set([...(data?.open ?? []), ...found.open])].join(",") || "-",
      }))} />
      <span class="group" role="group" aria-label="zoom">
        <button onClick=${() => zoom(-1)} aria-label="smaller">−</button>
        <button onClick=${() => zoom(0)}>all</button>
        <button onClick=${() => setScale(1)}>${Math.round(scale * 100)} %</button>
        <button onClick=${() => zoom(1)} aria-label="larger">+</button>
      </span>
      <button onClick=${() => go(changed(address, { open: null, node: null }))}>first view</button>
      ${data && html`<${Totals} totals=${data.totals} note=${fields?.note} />`}
      ${data && html`<${Exports} name="network" json=${() => ({ ...data, fields: fields?.fields })}
        svg=${() => whole(data, fields?.fields)} pictures=${() => smallMaps(data, maps)} />`}
    </div>
    ${error && html`<${Note} error=${error} />`}
    <div class="split">
      <div class="stage" ref=${stage} tabindex="0" aria-label="the network's graph; arrows follow tensors, Enter opens a box"
        aria-busy=${loading}>
        ${data && html`<${Drawing} data=${data} scale=${scale} stage=${stage} maps=${maps} fields=${fields?.fields}
          selected=${selected} onSelect=${select} onToggle=${toggle} onNumbers=${numbers} />`}
        ${!data && !error && html`<p class="quiet">The network runs on the picture</p>`}
      </div>
      <${Details} node=${selected} data=${data} field=${fields?.fields?.[selected?.values[0]]}
        address=${address} onSelect=${select} onToggle=${toggle} />
    </div>
    ${data && html`<${Call} code=${data.call} />`}
  </div>`;
}

function Totals({ totals, note }) {
  return html`<span class="totals">${many(totals.parameters)} parameters · ${many(totals.macs)} MACs ·
    ${" "}${bytes(totals.peak)} of activations at once · ${totals.operators} operators${note ? html` · <span class="quiet">${note}</span>` : ""}</span>`;
}

// Small maps of all nodes that have some: by value {data, start, shape, low, high}.
function useMaps(data, picture) {
  const values = useMemo(() => [...new Set((data?.nodes ?? []).filter((each) => each.maps).map((each) => each.values[0]))].sort((a, b) => a - b), [data]);
  const { value } = useLoaded(
    (signal) => (values.length ? getNumbers("network/thumbnails", { picture, values: values.slice(0, 400).join(",") }, { signal }) : Promise.resolve(null)),
    [values, picture],
  );
  return useMemo(() => new Map((value?.header.maps ?? []).map((each) => [each.value, { ...each, data: value.data }])), [value]);
}

// Where something stands on the screen, so that it stays there when its box opens.
function place(stage, data, id, scale) {
  const found = [...data.nodes, ...data.boxes].find((each) => each.id === id);
  return found && { id, x: found.box[0] * scale - stage.scrollLeft, y: found.box[1] * scale - stage.scrollTop };
}

function keepPlace(stage, held, data, scale) {
  const kept = held.current;
  if (!kept || !data || !stage) return;
  const found = [...data.boxes, ...data.nodes].find((each) => each.id === kept.id);
  if (found) stage.scrollTo(found.box[0] * scale - kept.x, found.box[1] * scale - kept.y);
}

function reveal(stage, node, scale) {
  if (!node || !stage) return;
  const [x, y, width, height] = node.box.map((each) => each * scale);
  if (y < stage.scrollTop || y + height > stage.scrollTop + stage.clientHeight) stage.scrollTop = y - stage.clientHeight / 3;
  if (x < stage.scrollLeft || x + width > stage.scrollLeft + stage.clientWidth) stage.scrollLeft = x - stage.clientWidth / 3;
}

function keys(event, { data, selected, select, toggle, numbers, zoom }) {
  if (!data || ["INPUT", "SELECT", "BUTTON"].includes(event.target.tagName)) return;
  const act = {
    ArrowRight: () => selected && select(beside(data, selected, "source", "target")),
    ArrowLeft: () => selected && select(beside(data, selected, "target", "source")),
    ArrowDown: () => select(around(data, selected, 1)),
    ArrowUp: () => select(around(data, selected, -1)),
    Enter: () => selected && (selected.opens ? toggle(selected.id, true) : numbers(selected)),
    n: () => selected && numbers(selected),
    Backspace: () => selected && closing(data, selected, toggle),
    "/": () => document.querySelector(".search input")?.focus(),
    "+": () => zoom(1),
    "-": () => zoom(-1),
    "0": () => zoom(0),
  }[event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act();
}

function beside(data, node, from, to) {
  return data.edges.find((each) => each[from] === node.id)?.[to] ?? node.id;
}

function around(data, node, step) {
  const at = node ? data.nodes.findIndex((each) => each.id === node.id) + step : 0;
  return data.nodes[Math.max(0, Math.min(data.nodes.length - 1, at))].id;
}

function closing(data, node, toggle) {
  const around = data.boxes.filter(({ box: [x, y, width, height] }) =>
    node.box[0] >= x && node.box[1] >= y && node.box[0] <= x + width && node.box[1] <= y + height);
  const inner = around.sort((a, b) => a.box[2] * a.box[3] - b.box[2] * b.box[3])[0];
  if (inner) toggle(inner.id, false);
}

// The whole drawing, of which the page has only what is on screen, for a file.
function whole(data, fields) {
  const host = document.createElement("div");
  host.style.cssText = "position: absolute; left: -99999px; top: 0"; // styles are read from the page
  document.body.append(host);
  render(html`<${Graph} data=${data} scale=${1} part=${[-Infinity, -Infinity, Infinity, Infinity]} fields=${fields} />`, host);
  queueMicrotask(() => { render(null, host); host.remove(); });
  return host.firstElementChild;
}

// The small maps of all nodes, as pictures of the drawing.
function smallMaps(data, maps) {
  return data.nodes.filter((node) => maps.has(node.values[0])).map((node) => {
    const [x, y, width, height] = node.box;
    const canvas = document.createElement("canvas");
    canvas.width = width * 2;
    canvas.height = 72;
    drawMaps(canvas.getContext("2d"), maps.get(node.values[0]), 0, 0, width - 12, 36, 2);
    return { canvas, x: x + 8, y: y + height - 40, width, height: 36, over: true };
  });
}
