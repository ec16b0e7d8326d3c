// One object of state, and views that follow it, at most once a frame.

import { useEffect, useState } from './vendor/htm-preact.js';

/** Returns a store: `state` to read, `set` to change, `touch` after a change in place. */
export function createStore(initial) {
  const listeners = new Set();
  let waiting = false;
  const store = {
    state: initial,
    version: 0,
    set(patch) {
      Object.assign(store.state, typeof patch === 'function' ? patch(store.state) : patch);
      store.touch();
    },
    touch() {
      store.version += 1;
      if (waiting) return;
      waiting = true;
      const tell = () => {
        waiting = false;
        for (const listener of [...listeners]) listener(store.version);
      };
      // a hidden page has no frames
      if (document.hidden) setTimeout(tell, 50);
      else requestAnimationFrame(tell);
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
  return store;
}

/** Draws the component anew whenever the store changes; returns its state. */
export function useStore(store) {
  const [, draw] = useState(store.version);
  useEffect(() => store.subscribe(draw), [store]);
  return store.state;
}
