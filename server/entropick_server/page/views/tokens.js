// A reply as a row of tokens that can be pointed at, walked with the arrow keys, and coloured.

import { Component, html } from '../vendor/htm-preact.js';
import { focusReply } from '../focus.js';
import { paintClass } from '../paint.js';
import { say, select, unpin } from '../state.js';
import { number, visible, words } from '../words.js';

const BLOCK = 64;
/* tokens that are drawn together: while a reply grows, only its last block is drawn anew */
const STRETCH = 32;
/* tokens from which a line end begins a new element: the browser breaks only the last one into lines anew */

class Block extends Component {
  shouldComponentUpdate(next) {
    const { to, paint, current, from, growing } = this.props;
    return next.to !== to || next.paint !== paint || next.current !== current || next.from !== from || next.growing !== growing;
  }

  render({ answer, from, to, paint, current }) {
    return answer.tokens.slice(from, to).map((token, offset) => {
      const index = from + offset;
      const here = index === current;
      const name = `t${token.row?.forced ? ' forced' : ''}${index < answer.given ? ' given' : ''}${here ? ' here' : ''}${paintClass(paint, token)}`;
      const blank = token.text.trim() === '';
      // a blank at the beginning stays outside of the colour: words look like words
      const lead = blank ? '' : token.text.slice(0, token.text.length - token.text.trimStart().length);
      return html`${lead}<span key=${index} id=${`${answer.key}-${index}`} role="option" aria-selected=${here ? 'true' : 'false'}
        data-i=${index} class=${name} aria-label=${blank ? spoken(token) : null}>${shown(token, lead)}</span>`;
    });
  }
}

function shown(token, lead) {
  if (token.row?.eos) return html`<span class="mark">end</span>`;
  if (token.text === '') return html`<span class="mark">·</span>`;
  return token.text.slice(lead.length);
}

function spoken(token) {
  if (token.row?.eos) return 'end of the reply';
  return token.text === '' ? 'part of a character' : visible(token.text);
}

export class Tokens extends Component {
  constructor() {
    super();
    this.over = (event) => {
      const index = indexOf(event.target);
      if (index !== null) select(this.props.answer, index);
    };
    this.click = (event) => {
      const index = indexOf(event.target);
      if (index === null) return;
      const { selected } = this.props.state;
      if (selected?.pinned && selected.answer === this.props.answer && selected.index === index) unpin();
      else select(this.props.answer, index, true);
    };
    this.keys = (event) => this.walk(event);
  }

  walk(event) {
    const { answer, state } = this.props;
    const last = answer.tokens.length - 1;
    const now = state.selected?.answer === answer ? state.selected.index : -1;
    const to = {
      ArrowRight: Math.min(last, now + 1), ArrowDown: Math.min(last, now + 1),
      ArrowLeft: Math.max(0, now - 1), ArrowUp: Math.max(0, now - 1), Home: 0, End: last,
      n: this.hesitation(now, 1), p: this.hesitation(now, -1),
    }[event.key];
    if (event.key === 'Escape') unpin();
    else if (event.key === 'Enter' || event.key === ' ') document.getElementById('token-card')?.focus();
    if (event.key === 'Enter' || event.key === ' ') event.preventDefault();
    if (to === undefined || to === null || last < 0) return;
    event.preventDefault();
    select(answer, to, true);
    say(describe(answer.tokens[to], state));
    document.getElementById(`${answer.key}-${to}`)?.scrollIntoView({ block: 'nearest' });
  }

  /** Returns the next token, in a direction, at which the model hesitated; null where there is none. */
  hesitation(now, direction) {
    const { answer, state } = this.props;
    const { signal, from } = state.policy.hesitation;
    for (let i = now + direction; i >= 0 && i < answer.tokens.length; i += direction) {
      if (answer.tokens[i].row?.signals?.[signal] >= from) return i;
    }
    return null;
  }

  // a reply that was rewound from its card: the keyboard goes on in it
  componentDidMount() {
    this.take();
  }

  componentDidUpdate() {
    this.take();
  }

  take() {
    const { answer, state } = this.props;
    if (state.focusOn !== answer.key || !answer.tokens.length) return;
    state.focusOn = null;
    focusReply(answer);
  }

  render({ answer, paint, state, label }) {
    const count = answer.tokens.length;
    const selected = state.selected?.answer === answer ? state.selected.index : -1;
    if (!count) return null;
    const block = (from, to) => html`<${Block} key=${from} answer=${answer} from=${from} to=${to} paint=${paint}
      current=${selected >= from && selected < to ? selected : -1} growing=${!answer.done && to === count} />`;
    const parts = stretches(answer.tokens).map(([begin, end]) => {
      const blocks = [];
      for (let from = begin; from < end; from += BLOCK) blocks.push(block(from, Math.min(from + BLOCK, end)));
      return html`<div key=${begin} class="stretch" role="none">${blocks}</div>`;
    });
    return html`<div id=${`tokens-${answer.key}`} class="tokens" role="listbox" tabindex="0" aria-label=${label} data-count=${count}
      aria-activedescendant=${selected >= 0 ? `${answer.key}-${selected}` : null}
      onMouseOver=${this.over} onClick=${this.click} onKeyDown=${this.keys}>${parts}</div>`;
  }
}

/** Returns where the tokens can be parted without a change in their lines: [begin, end] of each stretch. */
export function stretches(tokens) {
  const found = [];
  let begin = 0;
  tokens.forEach((token, index) => {
    if (index + 1 - begin < STRETCH || !token.text.endsWith('\n')) return;
    found.push([begin, index + 1]);
    begin = index + 1;
  });
  if (begin < tokens.length) found.push([begin, tokens.length]);
  return found;
}

function indexOf(target) {
  const token = target.closest?.('[data-i]');
  return token ? Number(token.dataset.i) : null;
}

function describe(token, state) {
  const name = state.signal === 'strategy' ? 'logits_entropy' : state.signal;
  const unit = state.policy.signals.find((signal) => signal.name === name)?.unit ?? '';
  const value = token.row?.signals?.[name];
  const figure = value === undefined ? '' : `, ${words(name)} ${number(value)} ${unit}`;
  return `${spoken(token) === visible(token.text) ? visible(token.text) : spoken(token)}${figure}, ${words(token.row?.strategy)}`;
}
