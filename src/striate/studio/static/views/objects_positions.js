// What a detector says at every position: a level's scores over the picture, and the reference boxes of one position.

import { html, useMemo } from "/static/vendor/preact-htm.js";
import { changed, go } from "/static/lib/address.js";
import { getJson, getNumbers } from "/static/lib/api.js";
import { colour, extent, scaleOf } from "/static/lib/colours.js";
import { Legend, short } from "/static/lib/maps.js";
import { Note } from "/static/lib/parts.js";
import { useLoaded } from "/static/lib/store.js";
import { mix, Scene } from "/static/views/objects_scene.js";

const TELLS = {
  anchors: "Each position of a level has some anchors. The head scores every anchor and moves it to a box. Click a position to see its anchors, dashed, and the box of the likeliest one.",
  squares: "This network has no anchors. Each position of a level says how far it is from the four sides of its object. Click a position to see its square, dashed, and its box.",
  heat: "Each place has a score for each class, and a peak of the scores is an object. Click a place to see its box, and whether it is a peak.",
};

function Table({ said, kind }) {
  const order = said.boxes.map((each, place) => ({ ...each, place })).sort((a, b) => b.score - a.score);
  const text = (box) => `${Math.round(box[2] - box[0])}×${Math.round(box[3] - box[1])}`;
  return html`<table class="classes"><caption>${kind === "anchors" ? "anchors of this position, the likeliest first" : "this position"}</caption>
    <thead><tr><th>${kind === "anchors" ? "anchor" : "place"}</th><th>score</th><th>class</th><th>box</th></tr></thead>
    <tbody>${order.slice(0, 18).map((each) => html`<tr key=${each.place}><th scope="row">${text(each.reference)}</th><td class="number">${short(each.score)}</td><td>${each.name}</td><td>${text(each.box)}</td></tr>`)}</tbody></table>`;
}

export function Positions({ result, pixels, address }) {
  const level = Math.min(Number(address.query.level) || 0, result.levels.length - 1);
  const about = result.levels[level];
  const [rows, columns] = about.size;
  const given = (address.query.at ?? "").split(",").map(Number);
  const inside = given.length === 2 && given[0] >= 0 && given[0] < rows && given[1] >= 0 && given[1] < columns;
  const { value: heat, error } = useLoaded((signal) => getNumbers(`jobs/${result.id}/result`, { part: `heat${level}` }, { signal }), [result.id, level]);
  const ready = heat && heat.header.part === `heat${level}`;
  const most = ready ? heat.data.indexOf(heat.data.reduce((a, b) => Math.max(a, b), -Infinity)) : 0;
  const [row, column] = inside ? given : [Math.floor(most / columns), most % columns];
  const { value: said } = useLoaded(async (signal) => ready ? getJson(`objects/${result.id}/position`, { level, at: `${row},${column}` }, { signal }) : null, [result.id, level, row, column, ready]);
  const [low, high] = ready ? extent(heat.data) : [0, 1];
  const scale = scaleOf(low > high / 2 ? low : 0, high);
  const [, height, width] = pixels.header.shape;
  const paint = useMemo(() => ready && ((data) => {
    for (let y = 0; y < height; y += 1) for (let x = 0; x < width; x += 1) {
      const place = Math.min(rows - 1, Math.floor(y / about.cell[0])) * columns + Math.min(columns - 1, Math.floor(x / about.cell[1]));
      mix(data, y * width + x, colour(heat.data[place], scale), 0.62);
    }
  }), [heat, level, ready]);
  if (error) return html`<${Note} error=${error} />`;
  const set = (change) => go(changed(address, change), { replace: true });
  const current = said && said.level === level ? said : null;
  const best = current && current.boxes.reduce((a, b) => (b.score > a.score ? b : a));
  const boxes = !current ? [] : [
    ...current.boxes.map((each, place) => ({ key: `r${place}`, box: each.reference, colour: each === best ? "#ffffff" : "#cfd6dd", kind: "removed reference", label: `anchor ${place}` })),
    { key: "best", box: best.box, colour: "#d55e00", kind: "kept", label: `${best.name}, score ${short(best.score)}` },
  ];
  const peak = current && "higher" in current;
  return html`<div class="beside-scene"><${Scene} pixels=${pixels} paint=${paint || null} boxes=${boxes} name="positions" onPick=${(y, x) => set({ at: `${Math.min(rows - 1, Math.floor(y / about.cell[0]))},${Math.min(columns - 1, Math.floor(x / about.cell[1]))}` })}
      json=${() => ({ level, ...about, scores: Array.from(heat?.data ?? []), position: current })} />
    <div class="says-boxes"><p class="quiet">${TELLS[result.references]}</p>
      ${result.levels.length > 1 && html`<div class="words" role="group" aria-label="level">${result.levels.map((each, place) => html`<button key=${place} aria-pressed=${place === level}
        onClick=${() => set({ level: place, at: "" })}>${each.size.join("×")}</button>`)}</div>`}
      <p class="told" aria-live="polite">${rows}×${columns} positions, ${short(about.cell[0])} pixels apart${about.count > 1 ? `, ${about.count} anchors each: ${(rows * columns * about.count).toLocaleString("en")} boxes` : ""}.${" "}
        ${best && html`Position (${row}, ${column}): <b>${best.name}</b>, score <b>${short(best.score)}</b>.`}
        ${peak && (current.higher ? ` It is no peak: place (${current.higher.join(", ")}) beside it is surer.` : " It is a peak: no place beside it is surer.")}</p>
      <p>score of the likeliest <${Legend} scale=${scale} /></p>
      ${current && html`<${Table} said=${current} kind=${result.references} />`}</div></div>`;
}
