// Work in the background of the server: begun by a question, asked after until it is over, cancelled by hand, by
// another question, or because the view or the tab goes.

import { html, useEffect, useRef, useState } from "/static/vendor/preact-htm.js";
import { getJson, postJson, remove } from "/static/lib/api.js";
import { Note } from "/static/lib/parts.js";

window.addEventListener("pagehide", () => { remove("jobs", {}, { keepalive: true }).catch(() => {}); });

const wait = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });

// {job, result, error, cancel, again} for a question, which goes to the server as JSON (to `path` with
// `query`, where it has these); null asks nothing.
export function useJob(ask) {
  const [state, setState] = useState({ job: null, result: null, error: null });
  const [turn, setTurn] = useState(0);
  const running = useRef(null);
  const cancelled = useRef(false);  // before the server said what the job is called
  const key = ask && JSON.stringify(ask);
  useEffect(() => {
    if (!key) { setState({ job: null, result: null, error: null }); return undefined; }
    let current = true;
    cancelled.current = false;
    setState((before) => ({ ...before, error: null, job: { state: "waiting", what: "", done: 0, total: null } }));
    const follow = async () => {
      const { path = "jobs", query, ...given } = JSON.parse(key);
      let job = await postJson(path, given, { params: query });
      running.current = job.id;
      if (current && cancelled.current) {
        await remove(`jobs/${job.id}`).catch(() => {});
        job = await getJson(`jobs/${job.id}`);
      }
      for (let pause = 60; current && ["waiting", "running"].includes(job.state); pause = Math.min(600, pause * 1.3)) {
        setState((before) => ({ ...before, job }));
        await wait(pause);
        if (current) job = await getJson(`jobs/${job.id}`);
      }
      if (!current) { remove(`jobs/${job.id}`).catch(() => {}); return; }
      const result = job.state === "done" ? { ...(await getJson(`jobs/${job.id}/result`)), id: job.id, asked: key } : null;
      if (!current) return;
      running.current = null;
      setState((before) => ({ job, result: result ?? before.result, error: job.state === "failed" ? new Error(job.error) : null }));
    };
    follow().catch((error) => current && setState((before) => ({ ...before, job: null, error })));
    return () => {
      current = false;
      if (running.current) remove(`jobs/${running.current}`).catch(() => {});
      running.current = null;
    };
  }, [key, turn]);
  const cancel = async () => {
    cancelled.current = true;
    if (running.current) await remove(`jobs/${running.current}`).catch(() => {});
  };
  return { ...state, cancel, again: () => setTurn(turn + 1), key };
}

// How far a job is, with a button that ends it.
export function Progress({ running }) {
  const { job, error, cancel, again } = running;
  if (error) return html`<${Note} error=${error} />`;
  if (!job || job.state === "done") return html`<p class="job" data-state=${job?.state ?? "none"}></p>`;
  if (job.state === "cancelled") return html`<p class="job" data-state="cancelled">Cancelled. <button onClick=${again}>compute</button></p>`;
  const known = job.total > 1;
  return html`<p class="job" data-state=${job.state} role="status">
    ${job.state === "waiting" ? "Waiting for other work" : job.what || job.kind}
    ${known ? html`<progress value=${job.done} max=${job.total}></progress> ${job.done} of ${job.total}` : html`<progress></progress>`}
    <button class="cancel" onClick=${cancel}>cancel</button></p>`;
}
