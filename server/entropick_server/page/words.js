// Numbers as words, and tokens as something that can be seen.

/** Returns a number with about three digits that count; '–' for none. */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  if (value < 0) return value > -0.00005 ? '≈ 0' : `−${number(-value)}`;
  if (value === 0) return '0';
  if (value < 0.00005) return '≈ 0';
  const size = value;
  if (size >= 1000) return Math.round(value).toLocaleString('en');
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1);
  if (size >= 0.995) return value.toFixed(2);
  if (size >= 0.01) return value.toFixed(3);
  return value.toFixed(4);
}

/** Returns a setting, which has few digits, without zeros at its end. */
export const setting = (value) => String(Number(value.toPrecision(value < 1 ? 2 : 3)));

/** Returns a share as percent. */
export function percent(share) {
  if (share === null || share === undefined) return '–';
  if (share === 0) return '0 %';
  if (share < 0.0001) return '< 0.01 %';
  if (share > 0.9999 && share < 1) return '> 99.99 %';
  return `${(100 * share).toFixed(share < 0.01 || (share > 0.99 && share < 1) ? 2 : 1)} %`;
}

/** Returns a token's name with its blanks and line ends made visible. */
export function visible(text) {
  if (text === '') return '(nothing)';
  return text.replace(/ /g, '␣').replace(/\n/g, '⏎').replace(/\t/g, '⇥').replace(/\r/g, '␍');
}

/** Returns a token as something that can be seen: what it adds to the text, else its name. */
export const nameOf = (token) => visible((token.row?.eos ? '' : token.text) || token.row?.token || '');

const plain = (name) => name.replaceAll('_', ' ');

/** Returns a name of the server's (a signal, a strategy) in words. */
export const words = (name) => (name === null || name === undefined ? 'policy off' : plain(name));

/** Returns how many of `count` things there are, in words. */
export const count = (amount, one, many = `${one}s`) => `${amount.toLocaleString('en')} ${amount === 1 ? one : many}`;

/**
 * Returns the one number about a reply: how likely it is wrong where the server can tell, else at how many of its
 * tokens the model hesitated. {value, text, help}; null for a reply without figures.
 */
export function headline(answer, hesitation) {
  const probability = answer.summary?.error_probability;
  if (probability !== undefined && probability !== null) {
    return {
      kind: 'error_probability',
      value: probability,
      lead: `${Math.round(100 * probability)} %`,
      text: 'likely to be wrong',
      help: 'error_probability: what the profile’s fit on checked replies says of replies like this one',
    };
  }
  const values = answer.tokens
    .filter((token) => !token.row?.forced && !token.row?.only_choice)
    .map((token) => token.row?.signals?.[hesitation.signal])
    .filter((value) => value !== undefined);
  if (!values.length) return null;
  const open = values.filter((value) => value >= hesitation.from).length;
  return {
    kind: 'hesitation',
    value: open,
    lead: open === 0 ? 'Did not hesitate' : `Hesitated at ${open.toLocaleString('en')}`,
    text: open === 0 ? `at any of ${count(values.length, 'token')}` : `of ${count(values.length, 'token')}`,
    help: `The model hesitates where ${words(hesitation.signal)} is ${hesitation.from} bit or more: the token it took had at most an even chance. ${entropyLine(answer)}`,
  };
}

function entropyLine(answer) {
  const values = answer.tokens.map((token) => token.row?.signals?.logits_entropy).filter((value) => value !== undefined);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return `Mean entropy: ${number(mean)} bits.`;
}
