// The panel beside the page (over it on a narrow screen): one token, or the whole reply, in several forms.

import { html, useLayoutEffect } from '../vendor/htm-preact.js';
import { focusReply } from '../focus.js';
import { store } from '../state.js';
import { BranchTree } from './branches.js';
import { TokenCard } from './card.js';
import { Heads } from './heads.js';
import { Plane } from './plane.js';
import { PolicyForm } from './policy.js';
import { Timelines } from './timelines.js';

const TABS = {
  token: ['Token', TokenCard],
  plane: ['Plane', Plane],
  time: ['Timeline', Timelines],
  heads: ['Heads', Heads],
  branches: ['Branches', BranchTree],
  policy: ['Policy', PolicyForm],
};

export function Panel({ state }) {
  const names = Object.keys(TABS);
  const Content = TABS[state.tab][1];
  const choose = (tab) => store.set({ tab, panelOpen: true });
  const { selected, panelOpen } = state;
  useLayoutEffect(() => {
    if (panelOpen && selected?.pinned && matchMedia('(max-width: 62rem)').matches) uncover(`${selected.answer.key}-${selected.index}`);
  }, [panelOpen, selected]);
  const keys = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = names[(names.indexOf(state.tab) + step + names.length) % names.length];
    choose(next);
    document.getElementById(`tab-${next}`)?.focus();
  };
  const back = (event) => {
    if (event.key !== 'Escape') return;
    const answer = shownAnswer(state);
    if (answer?.tokens.length) focusReply(answer);
    else document.getElementById('ask')?.focus();
  };
  return html`
    <aside onKeyDown=${back} class=${`panel${state.panelOpen ? ' open' : ''}`} aria-label="Figures">
      <div class="tabs">
        <div role="tablist" aria-label="Figures" onKeyDown=${keys}>
          ${names.map((name) => html`<button key=${name} id=${`tab-${name}`} type="button" role="tab"
            aria-selected=${state.tab === name ? 'true' : 'false'} tabindex=${state.tab === name ? 0 : -1}
            aria-controls="panel-body" onClick=${() => choose(name)}>${TABS[name][0]}</button>`)}
        </div>
        <button type="button" class="quiet close" aria-label="Close the panel" onClick=${() => store.set({ panelOpen: false })}>✕</button>
      </div>
      <div id="panel-body" class="panel-body" role="tabpanel" aria-labelledby=${`tab-${state.tab}`} tabindex="0">
        <${Content} state=${state} answer=${shownAnswer(state)} />
      </div>
    </aside>`;
}

/** Scrolls to a token that the panel, which opens over a narrow page, has covered. */
function uncover(id) {
  const token = document.getElementById(id);
  const box = token?.getBoundingClientRect();
  if (box && (box.bottom > 0.36 * innerHeight || box.top < 60)) token.scrollIntoView({ block: 'start' });
}

/** Returns the reply that the panel is about: the selected token's, else the newest of the view. */
export function shownAnswer(state) {
  if (state.selected) return state.selected.answer;
  if (state.view === 'compare') return state.compared[0] ?? null;
  if (state.view === 'recent') return state.opened?.answer ?? null;
  return state.turns.filter((turn) => turn.answer).at(-1)?.answer ?? null;
}
