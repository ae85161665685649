// Curves over epochs, and the confusion matrix.

import { html, useEffect, useState } from "/static/vendor/preact-htm.js";
import { short } from "/static/lib/maps.js";

const [WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM] = [460, 230, 50, 26, 62, 30];

// Measures by name, each with its lines: {loss: {train: [[epoch, value]], test: ...}}.
function measures(history) {
  const found = {};
  for (const epoch of history) {
    for (const [key, value] of Object.entries(epoch)) {
      const [part, ...rest] = key.split("_");
      if (!["train", "test", "val"].includes(part) || !rest.length || typeof value !== "number") continue;
      ((found[rest.join("_")] ??= {})[part] ??= []).push([epoch.epoch, value]);
    }
    (found["learning rate"] ??= { rate: [] }).rate.push([epoch.epoch, epoch.learning_rate]);
  }
  return found;
}

function ticks(low, high) {
  const rough = (high - low || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + 1e-9 * step; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

function Chart({ name, lines, epochs, at, place, wide }) {
  const values = Object.values(lines).flat().map(([, value]) => value);
  const shares = name !== "learning rate" && !name.startsWith("loss") && values.every((value) => value >= 0 && value <= 1);
  const low = shares ? Math.min(...values) : 0;
  const high = shares ? 1 : Math.max(...values);
  const x = (epoch) => LEFT + ((epoch - 1) / Math.max(1, epochs - 1)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => TOP + (1 - (value - low) / (high - low || 1)) * (HEIGHT - TOP - BOTTOM);
  const ends = Object.entries(lines).map(([part, points]) => ({ part, points, end: y(points[points.length - 1][1]) })).sort((one, other) => one.end - other.end);
  ends.forEach((each, number) => { each.label = number ? Math.max(each.end, ends[number - 1].label + 15) : each.end; });
  return html`<g transform=${`translate(${(place % wide) * WIDTH},${Math.floor(place / wide) * (HEIGHT + 8)})`} data-measure=${name}>
    <text class="name" x=${LEFT} y="14">${name}</text>
    ${ticks(low, high).map((value) => html`<g key=${value}><path class="grid" d=${`M${LEFT},${y(value)}H${WIDTH - RIGHT}`} /><text class="tick" x=${LEFT - 6} y=${y(value) + 4} text-anchor="end">${short(value)}</text></g>`)}
    ${[1, ...ticks(1, epochs).filter((each) => Number.isInteger(each) && each > 1)].map((epoch) => html`<text key=${epoch} class="tick" x=${x(epoch)} y=${HEIGHT - 10} text-anchor="middle">${epoch}</text>`)}
    <text class="tick" x=${WIDTH - RIGHT + 12} y=${HEIGHT - 10}>epoch</text>
    ${at > 0 && html`<path class="now" d=${`M${x(at)},${TOP}V${HEIGHT - BOTTOM}`} />`}
    ${ends.map(({ part, points, label }) => html`<g key=${part} class=${part}><polyline points=${points.map(([epoch, value]) => `${x(epoch)},${y(value)}`).join(" ")} />
      ${points.length < 40 && points.map(([epoch, value]) => html`<circle key=${epoch} cx=${x(epoch)} cy=${y(value)} r="2.5"><title>epoch ${epoch}: ${short(value)}</title></circle>`)}
      <text x=${x(points[points.length - 1][0]) + 7} y=${label + 4}>${part === "rate" ? "" : part}</text></g>`)}
  </g>`;
}

// Charts beside each other: as many as stay large enough to be read.
function useColumns() {
  const fitting = () => Math.max(1, Math.min(3, Math.floor(window.innerWidth / 390)));
  const [columns, setColumns] = useState(fitting);
  useEffect(() => {
    const measure = () => setColumns(fitting());
    window.addEventListener("resize", measure);
    return () => window.removeEventListener("resize", measure);
  }, []);
  return columns;
}

export function Curves({ history, epochs, at, refer }) {
  const found = Object.entries(measures(history));
  const wide = useColumns();
  const rows = Math.ceil(found.length / wide);
  const columns = Math.min(wide, found.length);
  return html`<svg class="curves" ref=${refer} viewBox=${`0 0 ${columns * WIDTH} ${rows * (HEIGHT + 8)}`} role="img"
    aria-label=${`curves over ${history.length} epochs: ${found.map(([name]) => name).join(", ")}`}>
    ${found.map(([name, lines], place) => html`<${Chart} key=${name} name=${name} lines=${lines} epochs=${Math.max(epochs, history.length)} at=${at} place=${place} wide=${wide} />`)}</svg>`;
}

// Counts; the darker, the larger the share of the row. The diagonal is what is right.
export function Confusion({ result, refer }) {
  const count = result.classes.length;
  const cell = count <= 12 ? 36 : Math.max(6, Math.floor(430 / count));
  const lead = count <= 40 ? 70 : 10;
  const most = Math.max(1, ...result.confusion.flatMap((row, y) => row.filter((_, x) => x !== y)));
  return html`<svg class="confusion" ref=${refer} width=${lead + count * cell + 4} height=${lead + count * cell + 4} role="img" aria-label="confusion matrix">
    ${result.confusion.map((row, y) => {
      const total = row.reduce((one, other) => one + other, 0) || 1;
      return html`<g key=${y}>
        ${count <= 40 && html`<text x=${lead - 6} y=${lead + (y + 0.5) * cell + 4} text-anchor="end">${result.classes[y].slice(0, 9)}</text>
          <text transform=${`translate(${lead + (y + 0.5) * cell + 4},${lead - 6}) rotate(-60)`}>${result.classes[y].slice(0, 9)}</text>`}
        ${row.map((value, x) => html`<g key=${x} class=${x === y ? "right" : "wrong"}><rect x=${lead + x * cell} y=${lead + y * cell} width=${cell} height=${cell}
            fill-opacity=${x === y ? 0.12 + 0.6 * (value / total) : value ? 0.25 + 0.7 * (value / most) : 0} ><title>${result.classes[y]} taken for ${result.classes[x]}: ${value}</title></rect>
          ${cell >= 22 && value > 0 && html`<text x=${lead + (x + 0.5) * cell} y=${lead + (y + 0.5) * cell + 5} text-anchor="middle">${value}</text>`}</g>`)}</g>`;
    })}</svg>`;
}
