// What all views share: the subject and its pictures. Views subscribe; whoever changes something calls set.

import { useEffect, useState } from "/static/vendor/preact-htm.js";
import { getJson } from "/static/lib/api.js";

const state = { subject: null, pictures: [] };
const listeners = new Set();

export const store = {
  get: () => state,
  set(change) {
    Object.assign(state, change);
    for (const listener of [...listeners]) listener();
  },
  // Asks the server again which pictures there are, after one was added or removed.
  async refresh() {
    const subject = await getJson("subject");
    store.set({ subject, pictures: subject.pictures });
  },
  // The picture that an address names, or the first. A moved one isn't listed: its id says what it was made of, p0~x2.
  picture(address) {
    const id = address.query.picture ?? "";
    const [of, moves] = id.split("~");
    const found = state.pictures.find((each) => each.id === of);
    if (found && moves) return { ...found, id, name: `${found.name}, moved`, of };
    return found ?? state.pictures[0] ?? null;
  },
};

export function useStore() {
  const [, again] = useState(0);
  useEffect(() => {
    const listener = () => again((count) => count + 1);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }, []);
  return state;
}

// Loads something whenever `keys` change: {value, error, loading}. What was asked before is forgotten; the last value
// stays until the new one is there.
export function useLoaded(load, keys) {
  const [found, setFound] = useState({ value: null, error: null, loading: true });
  useEffect(() => {
    const stop = new AbortController();
    setFound((before) => ({ ...before, loading: true }));
    load(stop.signal).then(
      (value) => stop.signal.aborted || setFound({ value, error: null, loading: false }),
      (error) => stop.signal.aborted || setFound({ value: null, error, loading: false }),
    );
    return () => stop.abort();
  }, keys);
  return found;
}
