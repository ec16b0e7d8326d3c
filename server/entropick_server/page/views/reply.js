// A reply with the one number about it, its tokens, and what went wrong.

import { html } from '../vendor/htm-preact.js';
import { exportHtml, exportJson } from '../export.js';
import { paintOf } from '../paint.js';
import { count, headline, number } from '../words.js';
import { Tokens } from './tokens.js';

export function Reply({ answer, state, title = 'Reply', onRetry }) {
  const paint = paintOf(state, answer);
  const line = headline(answer, state.policy.hesitation);
  return html`
    <article class=${`reply${answer.done ? '' : ' live'}`} aria-label=${title} data-id=${answer.id} aria-busy=${answer.done ? 'false' : 'true'}>
      ${answer.tokens.length === 0 && !answer.done && html`<p class="waiting">Reading the prompt …</p>`}
      <${Tokens} answer=${answer} state=${state} paint=${paint} label=${`${title}, token by token. Arrow keys walk, N and P go to where the model hesitated, Enter goes to the token’s card and Escape back.`} />
      ${answer.error && html`<div class="problem" role="alert">
        <p>${answer.tokens.length ? 'The reply broke off. ' : ''}${answer.error.message}</p>
        ${onRetry && html`<button type="button" onClick=${onRetry}>Ask again</button>`}</div>`}
      ${line && html`<p class="headline" title=${line.help} data-kind=${line.kind}>
        <strong>${line.lead}</strong> ${line.text}</p>`}
      ${answer.done && answer.tokens.length > 0 && html`<${Foot} answer=${answer} state=${state} line=${line} />`}
    </article>`;
}

function Foot({ answer, state, line }) {
  return html`
    <details class="foot">
      <summary>About this reply</summary>
      ${line && html`<p class="note">${line.help}</p>`}
      <p class="note">${facts(answer)}</p>
      <p class="actions">
        <button type="button" onClick=${() => exportJson(answer, state)}>Export as JSON</button>
        <button type="button" onClick=${() => exportHtml(answer, state)}>Export as a page</button>
      </p>
    </details>`;
}

function facts(answer) {
  const parts = [];
  if (answer.usage) parts.push(`${count(answer.usage.prompt_tokens, 'prompt token')}, ${count(answer.usage.completion_tokens, 'token')} generated`);
  const ends = { length: 'ended at the limit of tokens', stop: 'ended by itself', cancelled: 'stopped by you', error: 'broke off' };
  if (answer.finish) parts.push(ends[answer.finish] ?? answer.finish);
  if (answer.startedAt && answer.firstAt) {
    const seconds = (answer.endedAt - answer.startedAt) / 1000;
    parts.push(`first token after ${number((answer.firstAt - answer.startedAt) / 1000)} s, ${number(seconds)} s in all`);
  }
  const { summary } = answer;
  if (summary) {
    parts.push(`policy ${summary.policy}${summary.preset ? `, preset ${summary.preset}` : ''}, seed ${summary.seed}`);
    if (summary.branch_tokens) parts.push(`${count(summary.branch_tokens, 'token')} of branches that lost`);
  }
  if (answer.id) parts.push(answer.id);
  return parts.join(' · ');
}
