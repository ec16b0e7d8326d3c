// What was measured at one token, and the tokens that were most probable there.

import { html } from '../vendor/htm-preact.js';
import { rewind } from '../state.js';
import { Why } from './why.js';
import { nameOf, number, percent, setting, visible, words } from '../words.js';

const CUTS = { temperature: 'temperature 0', top_k: 'top-k', top_p: 'top-p', min_p: 'min-p' };
const FIRST = ['logits_entropy', 'logits_varentropy', 'surprisal', 'excess_surprisal'];

export function TokenCard({ state, answer }) {
  const token = state.selected?.answer.tokens[state.selected.index];
  if (!token) {
    return html`<div class="empty"><h2>No token chosen</h2>
      <p>Point at a token of a reply, or walk through it with the arrow keys. A click keeps the token here; Enter goes
        to this card, and Escape back to the reply.</p></div>`;
  }
  const { row } = token;
  const rest = state.policy.signals.filter((signal) => !FIRST.includes(signal.name) && row.signals[signal.name] !== undefined);
  const first = FIRST.map((name) => state.policy.signals.find((signal) => signal.name === name)).filter(Boolean);
  return html`
    <div id="token-card" tabindex="-1" data-index=${state.selected.index}>
      <h2 class="token-name"><code>${nameOf(token)}</code>
        <small>token ${state.selected.index + 1} of ${answer.tokens.length}, id ${row.token_id}</small></h2>
      <p class="how"><span class=${`t s-${row.strategy ?? 'off'}`}>${words(row.strategy)}</span> ${how(row, state.selected)}</p>
      <dl class="figures">${first.map((signal) => figure(signal, row))}</dl>
      <${Why} state=${state} answer=${answer} index=${state.selected.index} />
      <${Candidates} state=${state} token=${token} />
      <details><summary>All ${rest.length + first.length} signals</summary>
        <dl class="figures all">${rest.map((signal) => figure(signal, row))}</dl></details>
    </div>`;
}

function figure(signal, row) {
  return html`<div key=${signal.name} title=${signal.help}><dt>${words(signal.name)}</dt>
    <dd>${number(row.signals[signal.name])} <small>${signal.unit.replace('^2', '²')}</small></dd></div>`;
}

function how(row, selected) {
  if (selected.index < selected.answer.given) return 'chosen by you, or kept from before';
  if (row.forced) return 'given, not drawn: part of an inserted text';
  const p = row.parameters;
  if (!p) return '';
  return `temperature\u00a0${setting(p.temperature)} · top\u2011p\u00a0${setting(p.top_p)} · top\u2011k\u00a0${p.top_k > 0 ? p.top_k : 'off'} · min\u2011p\u00a0${setting(p.min_p)}`;
}

function Candidates({ state, token }) {
  const rows = token.row.most_probable ?? [];
  const { answer, index } = state.selected;
  if (!rows.length) {
    return html`<p class="note">${answer.reopened
      ? 'The server keeps the signals of a finished reply, not its other candidates: they are shown in the conversation that asked for it.'
      : 'The other candidates of this token were not measured.'}</p>`;
  }
  const inChat = state.view === 'chat' && !token.row.forced;
  return html`
    <table class="candidates">
      <caption>${rows.length} most probable tokens, before and after the sampler
        ${inChat && html`<small>Choose one to rewind the reply to here and go on with it.</small>`}</caption>
      <thead><tr><th scope="col">token</th><th scope="col">before</th><th scope="col">after</th></tr></thead>
      <tbody>${rows.map((one) => {
        const drawn = one.token_id === token.row.token_id;
        return html`<tr key=${one.token_id} class=${`${one.cut_by ? 'cut' : ''}${drawn ? ' drawn' : ''}`}>
          <th scope="row">${inChat && !drawn
            ? html`<button type="button" class="candidate" onClick=${() => rewind(answer, index, one)}
                aria-label=${`Go on with ${visible(one.token)} instead`}><code>${visible(one.token)}</code></button>`
            : html`<code>${visible(one.token)}</code>`}${drawn && html`<small class="drawn-mark">this one</small>`}</th>
          <td>${bar(one.probability)}</td>
          <td>${one.cut_by ? html`<span class="cut-by"><span class="by">cut by </span>${CUTS[one.cut_by] ?? one.cut_by}</span>` : bar(one.final_probability)}</td>
        </tr>`;
      })}</tbody>
    </table>`;
}

const bar = (share) => html`<span class="share"><span class="bar"><span style=${{ width: `${Math.max(0.5, 100 * share)}%` }}></span></span><span class="figure">${percent(share)}</span></span>`;
