// The page: a header, one of three views, and the panel beside it.

import { html, render, useEffect } from './vendor/htm-preact.js';
import { keepFocus } from './focus.js';
import { connect, store } from './state.js';
import { useStore } from './store.js';
import { ChatView } from './views/chat.js';
import { CompareView } from './views/compare.js';
import { Header } from './views/header.js';
import { KeyForm } from './views/key.js';
import { Panel } from './views/panel.js';
import { RecentView } from './views/recent.js';

const VIEWS = { chat: ChatView, compare: CompareView, recent: RecentView };

function App() {
  const state = useStore(store);
  useEffect(() => {
    connect();
    const ends = [watchHold(), keepFocus()];
    return () => ends.forEach((end) => end());
  }, []);
  const ready = state.policy !== null;
  const View = VIEWS[state.view];
  return html`
    <${Header} state=${state} />
    <div class="said" aria-live="polite" role="status">${state.said}</div>
    ${state.phase === 'key' && html`<main id="main"><${KeyForm} refused=${ready} /></main>`}
    ${state.phase !== 'key' && !ready && html`<main id="main"><${Waiting} state=${state} /></main>`}
    ${state.phase !== 'key' && ready && html`
      <div class=${`columns${state.panelOpen ? ' under' : ''}`}>
        <main id="main" tabindex="-1"><${View} state=${state} /></main>
        <${Panel} state=${state} />
      </div>`}
  `;
}

function Waiting({ state }) {
  const lines = { connecting: 'Connecting …', loading: 'The model is loading …', away: state.notice };
  return html`<p class="waiting" role="status">${lines[state.phase]}</p>`;
}

/** Shows colours while C is held outside of a text field. Returns the function that ends it. */
function watchHold() {
  const writes = (target) => target.closest?.('input, textarea, select, [contenteditable]');
  const down = (event) => {
    if (event.key !== 'c' || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!writes(event.target)) store.set({ held: true });
  };
  const up = () => store.state.held && store.set({ held: false });
  addEventListener('keydown', down);
  addEventListener('keyup', up);
  addEventListener('blur', up);
  return () => {
    removeEventListener('keydown', down);
    removeEventListener('keyup', up);
    removeEventListener('blur', up);
  };
}

const root = document.getElementById('app');
root.replaceChildren();
render(html`<${App} />`, root);
