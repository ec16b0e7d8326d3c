// The rule that picked a token, with its numbers, in the server's words.

import { html } from '../vendor/htm-preact.js';
import { explanationOf } from '../explain.js';
import { store } from '../state.js';
import { number } from '../words.js';

const SETS = ['temperature', 'top_p', 'top_k', 'min_p'];

export function Why({ state, answer, index }) {
  const toggled = (event) => {
    if (event.currentTarget.open !== store.state.why) store.set({ why: event.currentTarget.open });
  };
  return html`<details class="why" open=${state.why} onToggle=${toggled}>
    <summary>Why this token</summary>
    ${state.why && html`<${Reason} answer=${answer} index=${index} />`}
  </details>`;
}

function Reason({ answer, index }) {
  if (!answer.done) return html`<p class="note">The server explains a reply when it has ended.</p>`;
  if (!answer.id) return html`<p class="note">The server did not take this request up: there is nothing to explain.</p>`;
  const { rows, problem } = explanationOf(answer);
  if (problem) return html`<p class="problem" role="alert">${problem}</p>`;
  if (!rows) return html`<p class="note" role="status">Asking the server …</p>`;
  const row = rows.get(answer.tokens[index].row.index);
  if (!row) return html`<p class="note">It was kept from an earlier reply, which explains it.</p>`;
  const formulas = SETS.filter((name) => row.words[name]);
  return html`
    <p class="rule">${row.rule}</p>
    <p class="note">${row.how}${row.probability === null ? '' : `, probability ${number(row.probability)}`}</p>
    ${formulas.length > 0 && html`<ul>${formulas.map((name) => html`<li key=${name}>${row.words[name]}</li>`)}</ul>`}
    ${row.rollout && html`<p class="note">Of branch ${row.rollout.kept}, which opened at token ${row.rollout.opened_at + 1} and was kept.</p>`}
    ${row.branches && html`<p class="note">${row.branches.length} branches opened here: see Branches.</p>`}`;
}
