// Loads what follows a hand that moves: while one answer is on its way only the newest question waits.

import { useEffect, useRef, useState } from "/static/vendor/preact-htm.js";

// {value, error, busy}; the last value stays while the next one comes. A key of null asks nothing.
export function useLatest(load, key) {
  const [found, setFound] = useState({ value: null, error: null, busy: false });
  const state = useRef({ running: false, wanted: null, alive: true });
  useEffect(() => () => { state.current.alive = false; }, []);
  useEffect(() => {
    const own = state.current;
    own.alive = true;
    own.wanted = key;
    if (own.running) return;
    const next = async () => {
      own.running = true;
      while (own.alive && own.wanted !== null) {
        const asked = own.wanted;
        own.wanted = null;
        setFound((before) => ({ ...before, busy: true }));
        try {
          const value = await load(asked);
          if (own.alive) setFound({ value, error: null, busy: own.wanted !== null });
        } catch (error) {
          if (own.alive) setFound((before) => ({ value: before.value, error, busy: own.wanted !== null }));
        }
      }
      own.running = false;
    };
    if (key !== null) next();
  }, [key]);
  return found;
}
