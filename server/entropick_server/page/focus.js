// The keyboard's place on the page: it is not lost with a button that goes away.

import { store } from './state.js';

/**
 * Gives the focus to the message field, or to the page, where the focused element was taken away or cannot be used
 * any more. Returns the function that ends it.
 */
export function keepFocus() {
  let last = null;
  const note = (event) => {
    last = event.target;
  };
  const rescue = () => {
    if (!last || document.activeElement !== document.body || (last.isConnected && !last.disabled)) return;
    last = null;
    // on a touch screen the field would bring up the keyboard
    const field = matchMedia('(pointer: coarse)').matches ? null : document.getElementById('ask');
    (field ?? document.getElementById('main'))?.focus({ preventScroll: true });
  };
  // behind the frame in which the views are drawn
  const drawn = () => requestAnimationFrame(() => setTimeout(rescue));
  addEventListener('focusin', note);
  const end = store.subscribe(drawn);
  return () => {
    removeEventListener('focusin', note);
    end();
  };
}

/** Gives the focus to a reply's tokens. */
export const focusReply = (answer) => document.getElementById(`tokens-${answer.key}`)?.focus({ preventScroll: true });
