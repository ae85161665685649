// Training, live: curves, who is taken for whom, and how filters and maps become what they are.

import { html, useEffect, useRef, useState } from "/static/vendor/preact-htm.js";
import { changed, go } from "/static/lib/address.js";
import { getJson, getNumbers } from "/static/lib/api.js";
import { extent, scaleOf } from "/static/lib/colours.js";
import { Progress, useJob } from "/static/lib/jobs.js";
import { useLatest } from "/static/lib/latest.js";
import { Legend, MapView, short } from "/static/lib/maps.js";
import { Call, Exports, Help, Note } from "/static/lib/parts.js";
import { pictured } from "/static/lib/save.js";
import { sheet } from "/static/lib/sheet.js";
import { Confusion, Curves } from "/static/views/training_charts.js";

sheet("training");

export const title = "training";
export const help = "A run while it trains. It keeps its last checkpoint only, so the slider holds the checkpoints that this studio has seen; move it to see how filters and maps came about.";

const PAUSE = 1200;

function useRun() {
  const [state, setState] = useState({ run: null, error: null });
  useEffect(() => {
    let current = true;
    let timer;
    const look = async () => {
      try {
        const run = await getJson("training");
        if (!current) return;
        setState({ run, error: null });
        if (run.run && !run.finished) timer = setTimeout(look, PAUSE);
        // A run that has just ended has one more to come: its final weights.
        else if (run.run && !run.snapshots.some((each) => each.final)) timer = setTimeout(look, PAUSE);
      } catch (error) {
        if (!current) return;
        setState((before) => ({ ...before, error }));
        timer = setTimeout(look, 3 * PAUSE);
      }
    };
    look();
    return () => { current = false; clearTimeout(timer); };
  }, []);
  return state;
}

const named = (snapshot) => (snapshot.final ? "the finished network" : `after ${snapshot.epoch} epoch${snapshot.epoch === 1 ? "" : "s"}${snapshot.step ? ` and ${snapshot.step} steps` : ""}`);

function Slider({ run, place, onMove, live }) {
  const { snapshots } = run;
  if (run.finished && snapshots.length === 1) {
    return html`<p class="quiet">This run is finished: <output data-snapshot=${snapshots[0].number}>${named(snapshots[0])}</output> is all that is left of it. While a run trains, every checkpoint is kept here.</p>`;
  }
  return html`<div class="timeline">
    <button aria-pressed=${live} onClick=${() => onMove(live ? place : null)}>${run.finished ? "the newest" : "follow"}</button>
    <input type="range" min="0" max=${Math.max(0, snapshots.length - 1)} value=${place} aria-label="checkpoint"
      aria-valuetext=${named(snapshots[place])} onInput=${(event) => onMove(Number(event.currentTarget.value))} />
    <output data-snapshot=${snapshots[place].number}>${named(snapshots[place])}, ${snapshots.length} seen</output></div>`;
}

function Kernels({ run, number, address }) {
  const { query } = address;
  const layer = run.convolutions.some((each) => each.name === query.filters) ? query.filters : run.convolutions[0]?.name;
  const { value, error } = useLatest(async (key) => {
    const [at, name] = JSON.parse(key);
    return getNumbers("training/kernels", { at, layer: name });
  }, layer ? JSON.stringify([number, layer]) : null);
  if (!layer) return null;
  const { header, data } = value ?? {};
  const [count, channels, height, width] = header?.shape ?? [];
  const scale = data && scaleOf(...extent(data));
  const size = count <= 16 ? 84 : 48;
  return html`<section class="panel kernels-panel" data-at=${header?.number ?? ""}><h2>filters of <select value=${layer} aria-label="layer of the filters" onChange=${(event) => go(changed(address, { filters: event.currentTarget.value }), { replace: true })}>
      ${run.convolutions.map((each) => html`<option key=${each.name} value=${each.name}>${each.name}</option>`)}</select></h2>
    ${error && html`<${Note} error=${error} />`}
    ${data && html`<p class="quiet">${channels > 1 ? `the first of ${channels} input channels` : ""} <${Legend} scale=${scale} /></p>
      <div class="tiles">${Array.from({ length: count }, (_, place) => html`<${MapView} key=${place} data=${data} from=${place * channels * height * width}
        height=${height} width=${width} scale=${scale} size=${size} label=${`kernel ${place}`} />`)}</div>
      <${Call} code=${header.call} />
      <${Exports} name=${`filters of ${layer}`} canvas=${() => pictured(document.querySelector(".kernels-panel .tiles"))} json=${() => ({ ...header, kernels: Array.from(data) })} />`}</section>`;
}

function Maps({ run, number, address, picture }) {
  const { query } = address;
  const { value, error } = useLatest(async (key) => {
    const [at, id, layer] = JSON.parse(key);
    return getNumbers("training/maps", { at, picture: id, layer });
  }, JSON.stringify([number, picture.id, query.maps ?? ""]));
  const { header, data } = value ?? {};
  const [count, height, width] = header?.shape ?? [];
  const scale = data && scaleOf(...extent(data));
  const best = header?.says.map((share, place) => [share, place]).sort((one, other) => other[0] - one[0]).slice(0, 4) ?? [];
  const name = (place) => run.classes[place] ?? `class ${place}`;
  return html`<section class="panel maps-panel" data-at=${header?.number ?? ""}><h2>maps of ${picture.name} at ${header && html`<select value=${header?.layer ?? ""} aria-label="layer of the maps" onChange=${(event) => go(changed(address, { maps: event.currentTarget.value }), { replace: true })}>
      ${(header?.layers ?? []).map((each) => html`<option key=${each} value=${each}>${each}</option>`)}</select>`}</h2>
    ${error && html`<${Note} error=${error} />`}
    ${!data && !error && html`<p class="quiet" aria-busy="true">The network of this checkpoint runs on the picture</p>`}
    ${data && html`<p class="quiet">${header.channels > count ? `the first ${count} of ${header.channels}` : ""} <${Legend} scale=${scale} />
      ${best.length ? ` the network says ${best.map(([share, place]) => `${name(place)} ${(100 * share).toFixed(1)} %`).join(", ")}` : ""}</p>
      <div class="tiles">${Array.from({ length: count }, (_, place) => html`<${MapView} key=${place} data=${data} from=${place * height * width}
        height=${height} width=${width} scale=${scale} size=${Math.max(56, Math.min(112, height * 4))} label=${`map ${place}`} />`)}</div>
      <${Call} code=${header.call} />
      <${Exports} name="maps" canvas=${() => pictured(document.querySelector(".maps-panel .tiles"))} json=${() => ({ ...header, maps: Array.from(data) })} />`}</section>`;
}

function Mistakes({ snapshot, run, live }) {
  // While the run goes on, a measurement is finished before the next checkpoint is measured.
  const [number, setNumber] = useState(snapshot.number);
  const running = useJob(run.task === "classification" ? { path: "training/confusion", query: { at: number } } : null);
  const busy = ["waiting", "running"].includes(running.job?.state);
  useEffect(() => { if (!live || !busy) setNumber(snapshot.number); }, [snapshot.number, busy, live]);
  const drawing = useRef(null);
  if (run.task !== "classification") return null;
  const { result } = running;
  return html`<section class="panel mistakes" data-at=${result?.number ?? ""}><h2>who is taken for whom</h2>
    <${Progress} running=${running} />
    ${result && html`<p class="quiet">${(100 * result.accuracy).toFixed(2)} % of ${result.n} held-out pictures are right${result.final ? "" : ` ${named(result)}`}; a row is what a picture is, a column what the network says.</p>
      <${Confusion} result=${result} refer=${drawing} />
      <${Call} code=${result.call} />
      <${Exports} name="confusion" svg=${() => drawing.current} json=${() => result} />`}</section>`;
}

export default function View({ address, store }) {
  const { run, error } = useRun();
  const picture = store.picture(address);
  const curves = useRef(null);
  if (error && !run) return html`<${Help}>${help}<//><${Note} error=${error} />`;
  if (!run) return html`<p class="quiet" aria-busy="true">Reading the run</p>`;
  if (!run.run) return html`<${Help}>${help}<//><${Note}>This studio shows no run. Start it with a run's folder: striate studio runs/demo<//>`;
  const wanted = address.query.at === undefined ? -1 : run.snapshots.findIndex((each) => each.number === Number(address.query.at));
  const live = wanted < 0;
  const place = live ? run.snapshots.length - 1 : wanted;
  const snapshot = run.snapshots[place];
  const move = (to) => go(changed(address, { at: to === null ? "" : run.snapshots[to].number }), { replace: true });
  const last = run.history[run.history.length - 1];
  return html`<div class="training" data-finished=${run.finished ? "1" : "0"} data-epochs=${run.history.length}>
    <${Help}>${help}<//>
    ${error && html`<${Note} error=${error} />`}
    <p class="standing"><b>${run.model}</b> on ${run.data}: ${run.finished ? "finished" : "not finished"}, ${run.history.length} of ${run.epochs} epochs${last ? `, ${short(last.images_per_second)} images a second` : ""}.</p>
    ${run.history.length ? html`<${Curves} history=${run.history} epochs=${run.epochs} at=${snapshot?.epoch} refer=${curves} />
      <${Exports} name="curves" svg=${() => curves.current} json=${() => run.history} />` : html`<p class="quiet">The first epoch isn't over yet.</p>`}
    ${snapshot ? html`<${Slider} run=${run} place=${place} onMove=${move} live=${live} />
      <div class="panels"><${Kernels} run=${run} number=${snapshot.number} address=${address} />
        ${picture.size && html`<${Maps} run=${run} number=${snapshot.number} address=${address} picture=${picture} />`}
        <${Mistakes} snapshot=${snapshot} run=${run} live=${live} /></div>` : html`<p class="quiet">No checkpoint yet.</p>`}
  </div>`;
}
