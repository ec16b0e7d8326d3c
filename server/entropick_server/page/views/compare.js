// One question under two settings with one seed, side by side.

import { html, useState } from '../vendor/htm-preact.js';
import { compare, stop } from '../state.js';
import { PaintBar } from './paintbar.js';
import { Reply } from './reply.js';

/** Returns the settings that can be compared: name -> what differs from the settings of the next request. */
function sides(policy) {
  const named = { 'the settings under Policy': {}, greedy: { policy: 'fixed', preset: '', temperature: '0', overrides: {}, branch: null } };
  for (const preset of Object.keys(policy.presets)) named[`entropix, ${preset}`] = { policy: 'entropix', preset, overrides: {} };
  for (const name of ['fixed', ...Object.keys(policy.formulas)]) {
    named[name.replaceAll('_', ' ')] = { policy: name, preset: '', overrides: {}, branch: null };
  }
  return named;
}

/** Returns the first token at which two replies differ; null where one is the beginning of the other, so far. */
export function parting([a, b]) {
  const both = Math.min(a.tokens.length, b.tokens.length);
  for (let i = 0; i < both; i += 1) {
    if (a.tokens[i].row?.token_id !== b.tokens[i].row?.token_id) return i;
  }
  return a.done && b.done && a.tokens.length !== b.tokens.length ? both : null;
}

export function CompareView({ state }) {
  const options = sides(state.policy);
  const names = Object.keys(options);
  const [chosen, choose] = useState(['entropix, seed', 'fixed']);
  const [text, write] = useState('');
  const [seed, setSeed] = useState('7');
  const [temperature, setTemperature] = useState('0.8');
  const running = state.running !== null;
  const go = (event) => {
    event.preventDefault();
    if (running || !text.trim()) return;
    compare(text, chosen.map((name) => ({ ...state.settings, seed: seed || '0', temperature, ...options[name] })));
  };
  const parted = state.compared.length === 2 ? parting(state.compared) : null;
  return html`
    <section class="compare" aria-label="Compare">
      <form onSubmit=${go}>
        <label class="field wide">One question<textarea rows="2" value=${text} onInput=${(event) => write(event.target.value)}></textarea></label>
        ${chosen.map((name, i) => html`<label key=${i} class="field">${i ? 'with' : 'Compare'}<select value=${name}
          onChange=${(event) => choose(chosen.map((one, j) => (j === i ? event.target.value : one)))}>
          ${names.map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select></label>`)}
        <label class="field short">Seed<input type="number" value=${seed} onInput=${(event) => setSeed(event.target.value)} /></label>
        <label class="field short">Temperature<input type="number" min="0" max="2" step="0.1" value=${temperature} placeholder="the policy’s" onInput=${(event) => setTemperature(event.target.value)} /></label>
        ${running ? html`<button type="button" class="primary" onClick=${stop}>Stop</button>`
          : html`<button type="submit" class="primary" disabled=${!text.trim()}>Compare</button>`}
      </form>
      ${state.compared.length > 0 && html`
        <${PaintBar} state=${state} />
        <p class="note parting" role="status">${parted === null ? (state.compared.every((one) => one.done) ? 'Both replies are the same, token by token.' : '') : `They part at token ${parted + 1}.`}</p>
        <div class="sides">${state.compared.map((answer, i) => html`<div key=${answer.key} class="side">
          <h2>${title(answer)}</h2><${Reply} answer=${answer} state=${state} title=${`Reply ${i + 1}`} /></div>`)}</div>`}
    </section>`;
}

function title(answer) {
  const { entropick, temperature } = answer.request;
  const name = (entropick.policy ?? 'the server’s policy').replaceAll('_', ' ');
  if (temperature === 0) return 'greedy';
  return `${name}${entropick.preset ? `, ${entropick.preset}` : ''}${temperature === undefined ? '' : ` at ${temperature}`}`;
}
