// The switch for colours, what they show, and their legend.

import { html } from '../vendor/htm-preact.js';
import { legendOf, paintOf, sourceOf, STRATEGY } from '../paint.js';
import { store } from '../state.js';
import { words } from '../words.js';

export function PaintBar({ state, answer }) {
  const on = state.colours || state.held;
  const shown = answer ?? lastAnswer(state);
  return html`
    <div class="paintbar">
      <button type="button" class="switch" aria-pressed=${state.colours ? 'true' : 'false'}
        title="Or hold C" onClick=${() => store.set({ colours: !state.colours })}>Colours</button>
      <label for="signal" class="hidden">Colour by</label>
      <select id="signal" value=${state.signal} disabled=${!on}
        onChange=${(event) => store.set({ signal: event.target.value })}>
        <option value=${STRATEGY}>strategy</option>
        ${groups(state.policy.signals).map(([group, signals]) => html`
          <optgroup key=${group} label=${group}>${signals.map((signal) => html`
            <option key=${signal.name} value=${signal.name}>${words(signal.name)} (${signal.unit})</option>`)}</optgroup>`)}
      </select>
      ${on && html`<${Legend} state=${state} answer=${shown} />`}
    </div>`;
}

function Legend({ state, answer }) {
  const signal = state.policy.signals.find((one) => one.name === state.signal);
  const paint = answer ? paintOf(state, answer) : null;
  return html`
    <div class="legend">
      ${paint && html`<ul aria-label="Legend">${legendOf(paint, state.policy).map((entry) => html`
        <li key=${entry.className}><span class=${`t ${entry.className}`} aria-hidden="true">token</span> ${entry.label}</li>`)}</ul>`}
      <p class="note">${signal ? `${signal.help} ` : 'What the policy chose at each token. '}${paint ? sourceOf(paint) : ''}</p>
    </div>`;
}

function groups(signals) {
  const found = new Map();
  for (const signal of signals) found.set(signal.group, [...(found.get(signal.group) ?? []), signal]);
  return [...found];
}

function lastAnswer(state) {
  const answers = { chat: state.turns.map((turn) => turn.answer), compare: state.compared, recent: [state.opened?.answer] };
  return answers[state.view].filter(Boolean).at(-1) ?? null;
}
