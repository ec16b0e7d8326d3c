// The last requests of all clients, to open again.

import { html, useEffect, useState } from '../vendor/htm-preact.js';
import { get } from '../api.js';
import { open, store } from '../state.js';
import { count, number, percent } from '../words.js';
import { PaintBar } from './paintbar.js';
import { Reply } from './reply.js';

export function RecentView({ state }) {
  const [list, setList] = useState(null);
  const [problem, setProblem] = useState(null);
  const read = () => get('v1/requests').then((found) => { setList(found.data); setProblem(null); }, (error) => setProblem(error.message));
  useEffect(() => { read(); }, []);
  const show = (entry) => open(entry.id, entry.choice).catch((error) => setProblem(error.message));
  if (state.opened) {
    return html`<section class="recent" aria-label="A recent request">
      <p><button type="button" class="link" onClick=${() => store.set({ opened: null, selected: null })}>← All recent requests</button></p>
      <h2>${when(state.opened.head.created)} <small>${state.opened.head.route}, ${state.opened.head.id}</small></h2>
      ${state.opened.head.kept_token_ids?.length > 0 && html`<p class="note">Goes on behind ${count(state.opened.head.kept_token_ids.length, 'token')} of an earlier reply.</p>`}
      <${PaintBar} state=${state} answer=${state.opened.answer} />
      <${Reply} answer=${state.opened.answer} state=${state} title="Reply" /></section>`;
  }
  return html`
    <section class="recent" aria-label="Recent requests">
      <div class="row"><h2>Recent requests</h2><button type="button" onClick=${read}>Read again</button></div>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      ${list && list.length === 0 && html`<p class="note">None yet, or the server keeps none.</p>`}
      ${list && list.length > 0 && html`<div class="table-scroll" tabindex="0" role="region" aria-label="Recent requests"><table class="list">
        <thead><tr><th scope="col">when</th><th scope="col">policy</th><th scope="col">tokens</th><th scope="col">mean entropy</th><th scope="col">error probability</th><th scope="col">end</th></tr></thead>
        <tbody>${list.map((entry) => html`<tr key=${`${entry.id} ${entry.choice}`}>
          <th scope="row"><button type="button" class="link" onClick=${() => show(entry)}>${when(entry.created)}${entry.choice ? `, choice ${entry.choice}` : ''}</button></th>
          <td>${entry.summary.policy}${entry.summary.preset ? `, ${entry.summary.preset}` : ''}</td>
          <td>${entry.completion_tokens}</td>
          <td>${number(entry.summary.signals.logits_entropy?.mean)} bits</td>
          <td>${entry.summary.error_probability === undefined ? '–' : percent(entry.summary.error_probability)}</td>
          <td>${entry.finish_reason}</td></tr>`)}</tbody></table></div>`}
    </section>`;
}

function when(seconds) {
  const time = new Date(1000 * seconds);
  const today = time.toDateString() === new Date().toDateString();
  return today ? time.toLocaleTimeString() : time.toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });
}
