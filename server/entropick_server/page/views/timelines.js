// Signals along a reply, one below the other, with one cursor.

import { Component, html, useState } from '../vendor/htm-preact.js';
import uPlot from '../vendor/uplot.js';
import { select } from '../state.js';
import { number, setting, words } from '../words.js';

const PAUSE = 150;
/* milliseconds between two drawings of a line that grows */
const FIRST = ['logits_entropy', 'logits_varentropy', 'excess_surprisal', 'attention_entropy'];

export function Timelines({ state, answer }) {
  const [names, choose] = useState(FIRST);
  const { signals } = state.policy;
  const toggle = (name) => choose(names.includes(name) ? names.filter((one) => one !== name) : [...names, name]);
  return html`
    <h2>Signals along the reply</h2>
    ${answer?.tokens.length ? signals.filter((signal) => names.includes(signal.name)).map((signal) => html`
      <${Timeline} key=${`${answer.key} ${signal.name}`} signal=${signal} answer=${answer} count=${answer.tokens.length}
        index=${state.selected?.answer === answer ? state.selected.index : null} />`)
      : html`<p class="note">No tokens yet.</p>`}
    <details><summary>Which signals</summary><fieldset class="checks"><legend class="hidden">Signals</legend>
      ${signals.map((signal) => html`<label key=${signal.name} title=${signal.help}><input type="checkbox"
        checked=${names.includes(signal.name)} onChange=${() => toggle(signal.name)} /> ${words(signal.name)}</label>`)}
    </fieldset></details>`;
}

class Timeline extends Component {
  data() {
    const { answer, signal } = this.props;
    const xs = answer.tokens.map((_, i) => i);
    return [xs, answer.tokens.map((token) => token.row?.signals?.[signal.name] ?? null)];
  }

  componentDidMount() {
    const style = getComputedStyle(this.box);
    const ink = () => getComputedStyle(this.box).getPropertyValue('color');
    const line = () => getComputedStyle(this.box).getPropertyValue('outline-color');
    const grid = () => getComputedStyle(this.box).getPropertyValue('border-top-color');
    const axis = { stroke: ink, font: `11px ${style.fontFamily}`, grid: { stroke: grid, width: 1 }, ticks: { show: false } };
    this.plot = new uPlot({
      width: this.box.clientWidth || 400,
      height: 110,
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: this.props.answer.key }, points: { size: 7 } },
      scales: { x: { time: false } },
      axes: [{ ...axis, size: 22 }, { ...axis, size: 44, values: (_, ticks) => ticks.map(setting) }],
      series: [{}, { stroke: line, width: 1.5, points: { show: false } }],
    }, this.data(), this.box);
    this.count = this.props.count;
    this.box.addEventListener('click', () => {
      const { idx } = this.plot.cursor;
      if (idx !== null && idx !== undefined) select(this.props.answer, idx, true);
    });
    this.watch = new ResizeObserver(() => {
      const width = this.box.clientWidth;
      if (width && width !== this.plot.width) this.plot.setSize({ width, height: 110 });
    });
    this.watch.observe(this.box);
  }

  componentDidUpdate(before) {
    if (this.props.count !== this.count) {
      this.count = this.props.count;
      // a line of 2,000 tokens takes longer to draw than a token takes to come
      this.drawing ??= setTimeout(() => {
        this.drawing = null;
        this.plot.setData(this.data());
      }, PAUSE);
    }
    const { index } = this.props;
    if (index !== before.index && index !== null) {
      this.plot.setCursor({ left: this.plot.valToPos(index, 'x'), top: 10 }, false);
    }
  }

  componentWillUnmount() {
    clearTimeout(this.drawing);
    this.watch.disconnect();
    this.plot.destroy();
  }

  render({ signal, answer, index }) {
    const values = this.data()[1].filter((value) => value !== null);
    const most = values.reduce((a, b) => Math.max(a, b), -Infinity);
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const now = index === null ? undefined : answer.tokens[index]?.row?.signals?.[signal.name];
    const text = values.length ? `mean ${number(mean)}, highest ${number(most)} ${signal.unit}` : 'not measured';
    return html`<figure class="timeline"><figcaption title=${signal.help}><strong>${words(signal.name)}</strong>
      <span>${now === undefined ? text : `here ${number(now)} ${signal.unit}`.replace('^2', '²')}</span></figcaption>
      <div class="plot" role="img" aria-label=${`${words(signal.name)} along ${values.length} tokens: ${text}`} ref=${(box) => { this.box = box; }}></div></figure>`;
  }
}
