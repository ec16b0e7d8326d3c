// How tokens are coloured: by nothing, by a signal's level, or by strategy.

import { LEVELS, levelOf, scaleOf } from './scale.js';
import { number, words } from './words.js';

export const STRATEGY = 'strategy';

const held = new WeakMap();
const NONE = { kind: 'none' };

/** Returns the paint of a reply; the same object while nothing has changed, so that views need not draw anew. */
export function paintOf(state, answer) {
  if (!state.colours && !state.held) return NONE;
  // a scale out of the reply itself settles when the reply ends; until then it moves in steps
  const stage = answer.done ? 'done' : Math.floor(Math.log2(answer.tokens.length + 1) * 2);
  const name = `${state.signal} ${stage}`;
  const before = held.get(answer);
  if (before?.name === name) return before.paint;
  const paint = state.signal === STRATEGY
    ? { kind: 'strategy' }
    : { kind: 'signal', signal: state.signal, scale: scaleOf(state.signal, state.policy, answer.tokens) };
  held.set(answer, { name, paint });
  return paint;
}

/** Returns the class names that show a token under a paint. */
export function paintClass(paint, token) {
  if (paint.kind === 'none' || !token.row) return '';
  if (paint.kind === 'strategy') return ` s-${token.row.strategy ?? 'off'}`;
  const level = levelOf(paint.scale, token.row.signals?.[paint.signal]);
  return level < 0 ? ' u-none' : ` u${level}`;
}

/** Returns the entries of the legend: {class, label}. */
export function legendOf(paint, policy) {
  if (paint.kind === 'strategy') {
    return [...policy.strategies, null].map((name) => ({ className: `s-${name ?? 'off'}`, label: words(name) }));
  }
  const { cuts } = paint.scale;
  if (!cuts.length) return [{ className: 'u0', label: 'one value only' }];
  return Array.from({ length: LEVELS }, (_, i) => ({
    className: `u${i}`,
    label: i === 0 ? `below ${number(cuts[0])}`
      : i === cuts.length ? `${number(cuts[i - 1])} and more`
        : `${number(cuts[i - 1])} to ${number(cuts[i])}`,
  }));
}

/** Returns where the cuts between the levels come from. */
export function sourceOf(paint) {
  if (paint.kind !== 'signal') return '';
  return {
    calibration: 'Levels: half, three quarters, 90 % and 95 % of the tokens that the model was calibrated on lie below.',
    reply: 'Levels: half, three quarters, 90 % and 95 % of this reply’s tokens lie below.',
    range: 'Levels: five equal steps over this reply’s values.',
    constant: 'Every token of this reply has the same value.',
    nothing: 'Not measured in this reply.',
  }[paint.scale.source];
}
