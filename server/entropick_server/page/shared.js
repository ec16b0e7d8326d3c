// The script of an exported page: it reads its data from the page and needs no server.

const data = JSON.parse(document.getElementById('data').textContent);
const main = document.getElementById('reply');
const make = (name, text, attributes = {}) => {
  const element = document.createElement(name);
  if (text !== null) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};
const number = (value) => String(Number((Math.abs(value) < 0.00005 ? 0 : value).toPrecision(3))).replace('-', '−');
const level = (cuts, value) => (value === undefined ? 'none' : cuts.filter((cut) => value >= cut).length);

main.append(make('h1', `${data.model}, token by token`));
const asked = data.request?.messages?.findLast((message) => message.role === 'user');
if (asked) main.append(make('p', asked.content, { class: 'asked' }));
if (data.headline) main.append(make('p', data.headline, { class: 'headline' }));
const label = make('label', 'Colour by ');
const choice = make('select', null);
choice.append(make('option', 'nothing', { value: '' }));
for (const signal of data.signals) choice.append(make('option', `${signal.name.replaceAll('_', ' ')} (${signal.unit})`, { value: signal.name }));
choice.value = data.scales[data.signal] ? data.signal : 'logits_entropy';
label.append(choice);
const help = make('p', '', { class: 'note' });
const tokens = make('div', null, { class: 'tokens', role: 'listbox', tabindex: '0', 'aria-label': 'The reply, token by token; arrow keys walk' });
const card = make('section', null, { class: 'card', 'aria-live': 'polite', 'aria-label': 'One token' });
card.append(make('p', 'Point at a token, or walk with the arrow keys.', { class: 'note' }));
main.append(label, help, tokens, card);

const spans = data.tokens.map((token, index) => {
  // a blank at the beginning stays outside of the colour: words look like words
  const lead = token.eos || token.text.trim() === '' ? '' : token.text.match(/^\s*/)[0];
  tokens.append(lead);
  const span = make('span', token.eos ? '∎' : token.text.slice(lead.length) || '·', { role: 'option', 'aria-selected': 'false', id: `t${index}` });
  tokens.append(span);
  return span;
});

function paint() {
  const scale = data.scales[choice.value];
  const signal = data.signals.find((one) => one.name === choice.value);
  help.textContent = signal ? `${signal.help} Levels begin at ${scale.cuts.map(number).join(', ') || 'one value only'}.` : '';
  spans.forEach((span, i) => {
    span.className = scale ? `t u${level(scale.cuts, data.tokens[i].signals?.[choice.value])}` : 't';
  });
}

let now = -1;
function show(index) {
  if (index === now) return;
  spans[now]?.setAttribute('aria-selected', 'false');
  now = index;
  spans[now].setAttribute('aria-selected', 'true');
  tokens.setAttribute('aria-activedescendant', `t${now}`);
  const token = data.tokens[index];
  const list = make('dl', null);
  const add = (name, value) => {
    const pair = make('div', null);
    pair.append(make('dt', name), make('dd', value));
    list.append(pair);
  };
  add('token', JSON.stringify(token.token));
  if (token.strategy) add('strategy', token.strategy.replaceAll('_', ' '));
  for (const signal of data.signals) {
    const value = token.signals?.[signal.name];
    if (value !== undefined) add(signal.name.replaceAll('_', ' '), `${number(value)} ${signal.unit.replace('^2', '²')}`);
  }
  card.replaceChildren(list);
  if (!token.most_probable?.length) return;
  const others = make('ol', null);
  for (const one of token.most_probable) {
    const after = one.cut_by ? `cut by ${one.cut_by.replace('_', '-')}` : `after ${(100 * one.final_probability).toFixed(2)} %`;
    others.append(make('li', `${JSON.stringify(one.token)}: ${(100 * one.probability).toFixed(2)} %, ${after}`, one.cut_by ? { class: 'cut' } : {}));
  }
  card.append(others);
}

choice.addEventListener('change', paint);
tokens.addEventListener('mouseover', (event) => {
  const index = spans.indexOf(event.target);
  if (index >= 0) show(index);
});
tokens.addEventListener('keydown', (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  show(Math.min(spans.length - 1, Math.max(0, now + step)));
});
paint();
