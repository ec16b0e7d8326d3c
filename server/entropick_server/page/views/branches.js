// The branches that were rolled out, as a tree: at which token, what each said, its score, and which was kept.

import { html } from '../vendor/htm-preact.js';
import { select } from '../state.js';
import { count, number } from '../words.js';

/** Returns the tokens of a reply at which branches opened, with their branches. */
export function openings(answer) {
  return (answer?.tokens ?? []).map((token, index) => ({ index, token, branches: token.row?.branches })).filter((one) => one.branches);
}

export function BranchTree({ state, answer }) {
  const found = openings(answer);
  const lost = answer?.summary?.branch_tokens;
  return html`
    <h2>Branches</h2>
    ${found.length === 0 && html`<p class="note">${answer ? 'No branches opened in this reply.' : 'No tokens yet.'}
      ${' '}They open at doubtful tokens where the request asks for them: tick “branches” under Policy.</p>`}
    ${found.length > 0 && html`
      <p class="note">${count(found.length, 'opening')}${lost ? `, ${count(lost, 'token')} of branches that lost` : ''}. The kept branch is the reply.</p>
      <ul class="tree">${found.map((one) => html`<li key=${one.index}>
        <button type="button" class="link" onClick=${() => select(answer, one.index, true)}>
          <span class="stem">${one.index ? `…${before(answer, one.index)}` : 'at the beginning'}</span> <small>token ${one.index + 1}</small></button>
        <ul>${one.branches.map((branch, i) => html`<li key=${i} class=${branch.chosen ? 'kept' : 'lost'}>
          <span class="branch-text">${branch.text.trimStart().replace(/\n/g, '⏎')}</span>
          <span class="score">${branch.chosen ? 'kept, ' : ''}score ${branch.score === null ? '−∞' : number(branch.score)}</span></li>`)}</ul>
      </li>`)}</ul>`}`;
}

const before = (answer, index) => answer.tokens.slice(Math.max(0, index - 6), index).map((token) => token.text).join('').trimStart();
