// The attention heads at one token: a heat map by layer and head, and the plane of genuineness.

import { html, useState } from '../vendor/htm-preact.js';
import { nameOf, number } from '../words.js';

const FIGURES = {
  attention_entropy: ['attention entropy', 'bits'],
  attention_to_previous: ['attention to the previous token', 'probability'],
  interaction_strength: ['interaction strength', 'score'],
  genuineness: ['genuineness G', 'score'],
  token_cost: ['token cost X', 'bits'],
};

export function Heads({ state, answer }) {
  const [name, choose] = useState('attention_entropy');
  const at = state.selected?.answer === answer ? state.selected.index : (answer?.tokens.length ?? 0) - 1;
  const token = answer?.tokens[at];
  const detail = token?.row?.detail;
  if (!detail) {
    return html`<h2>Attention heads</h2><p class="note">${missing(answer)}</p>`;
  }
  const names = Object.keys(FIGURES).filter((one) => detail[one]);
  const shown = names.includes(name) ? name : names[0];
  return html`
    <h2>Attention heads at <code>${nameOf(token)}</code></h2>
    <label class="field">Figure <select value=${shown} onChange=${(event) => choose(event.target.value)}>
      ${names.map((one) => html`<option key=${one} value=${one}>${FIGURES[one][0]} (${FIGURES[one][1]})</option>`)}</select></label>
    <${HeatMap} layers=${detail.layers} rows=${detail[shown]} title=${FIGURES[shown][0]} unit=${FIGURES[shown][1]} />
    <${Lens} entropies=${token.row.layer_entropy} />
    <${Phase} state=${state} detail=${detail} summary=${answer.summary} />`;
}

function missing(answer) {
  if (!answer) return 'No tokens yet.';
  if (!answer.reopened) return 'The heads were not measured at this token.';
  return 'The server keeps the signals of a finished reply, not the figures of its heads and the entropies behind its layers: they are shown in the conversation that asked for it.';
}

/** The entropy that the model would have if it spoke behind each layer (logit lens). */
function Lens({ entropies }) {
  if (!entropies) return null;
  const rows = Object.entries(entropies).map(([layer, bits]) => [Number(layer), bits]).sort((a, b) => a[0] - b[0]);
  const most = Math.max(...rows.map(([, bits]) => bits), 1);
  return html`<h3>Entropy behind each layer</h3>
    <table class="lens"><caption class="hidden">Entropy behind each layer, bits, by the logit lens</caption>
      <tbody>${rows.map(([layer, bits]) => html`<tr key=${layer}><th scope="row">${layer}</th>
        <td><span class="share"><span class="bar"><span style=${{ width: `${(100 * bits) / most}%` }}></span></span><span class="figure">${number(bits)}</span></span></td></tr>`)}</tbody></table>`;
}

function HeatMap({ layers, rows, title, unit }) {
  const values = rows.flat().filter((value) => value !== null);
  const low = Math.min(...values);
  const high = Math.max(...values);
  const level = (value) => (value === null ? 'none' : Math.min(8, Math.floor((9 * (value - low)) / (high - low || 1))));
  const heads = rows[0].length;
  return html`
    <div class="heat-scroll" tabindex="0" role="region" aria-label=${`${title} by layer and head`}>
    <table class="heat" data-cells=${values.length}>
      <caption class="hidden">${title} by layer and head, ${unit}</caption>
      <thead><tr><th scope="col"><small>layer</small></th>${Array.from({ length: heads }, (_, h) => html`<th key=${h} scope="col">${h}</th>`)}</tr></thead>
      <tbody>${rows.map((row, i) => html`<tr key=${i}><th scope="row">${layers[i]}</th>
        ${row.map((value, h) => html`<td key=${h} class=${`h${level(value)}`} title=${`layer ${layers[i]}, head ${h}: ${number(value)} ${unit}`}><span>${short(value)}</span></td>`)}</tr>`)}</tbody>
    </table></div>
    <p class="note scale">${number(low)} <span class="ramp" aria-hidden="true">${Array.from({ length: 9 }, (_, i) => html`<i key=${i} class=${`h${i}`}></i>`)}</span> ${number(high)} ${unit}</p>`;
}

const short = (value) => (value === null ? '' : Math.abs(value) >= 10 ? value.toFixed(0) : value.toFixed(Math.abs(value) >= 1 ? 1 : 2));

const SIZE = { width: 420, height: 260, left: 44, bottom: 34, top: 8, right: 8 };

function Phase({ state, detail, summary }) {
  const cuts = state.policy.profile?.genuineness ?? null;
  if (!detail.genuineness) return null;
  if (!detail.token_cost) {
    return html`<h3>Plane of genuineness</h3>
      <p class="note">Token costs were not asked for. Tick “token costs” under Policy and ask again to see the heads in the
        plane of token cost and genuineness.</p>`;
  }
  const points = detail.layers.flatMap((layer, l) => detail.genuineness[l].map((g, h) => ({ layer, head: h, g, x: detail.token_cost[l][h] })))
    .filter((p) => p.g !== null && p.x !== null);
  if (!points.length) return html`<h3>Plane of genuineness</h3><p class="note">Too few tokens yet: the window needs eight.</p>`;
  const most = { x: 1.1 * Math.max(cuts?.cost ?? 0, ...points.map((p) => p.x)), g: 1.1 * Math.max(cuts?.genuine ?? 0, ...points.map((p) => p.g)) };
  const { width, height, left, bottom, top, right } = SIZE;
  const x = (value) => left + ((width - left - right) * value) / most.x;
  const y = (value) => height - bottom - ((height - bottom - top) * value) / most.g;
  return html`<h3>Plane of genuineness</h3>
    <svg class="plane phase" viewBox=${`0 0 ${width} ${height}`} role="img" data-points=${points.length}
      aria-label=${`${points.length} heads in the plane of token cost and genuineness`}>
      ${cuts && html`<rect class="between" x=${left} y=${y(cuts.genuine)} width=${width - left - right} height=${y(cuts.mechanical) - y(cuts.genuine)} />
        <path class="cutline" d=${`M${x(cuts.cost)} ${top}V${y(cuts.genuine)}M${x(cuts.cost)} ${y(cuts.mechanical)}V${height - bottom}`} />
        <text class="tick" x=${left + 6} y=${top + 12}>genuine, diffuse</text><text class="tick" x=${width - right - 4} y=${top + 12} text-anchor="end">genuine, committed</text>
        <text class="tick" x=${left + 6} y=${height - bottom - 6}>mechanical, diffuse</text><text class="tick" x=${width - right - 4} y=${height - bottom - 6} text-anchor="end">mechanical, committed</text>`}
      <path class="axis" d=${`M${left} ${top}V${height - bottom}H${width - right}`} />
      <text class="axis-name" x=${width - right} y=${height - 6} text-anchor="end">token cost X, bits (0 to ${number(most.x)})</text>
      <text class="axis-name" transform=${`translate(14 ${top}) rotate(-90)`} text-anchor="end">G (0 to ${number(most.g)})</text>
      ${points.map((p) => html`<circle key=${`${p.layer}-${p.head}`} class="head-dot" cx=${x(p.x)} cy=${y(p.g)} r="3.5"><title>layer ${p.layer}, head ${p.head}: X ${number(p.x)} bits, G ${number(p.g)}</title></circle>`)}
    </svg>
    ${summary?.genuineness?.quadrants && html`<p class="note">At the end of the reply: ${Object.entries(summary.genuineness.quadrants).map(([name, share]) => `${name.replaceAll('_', ' ')} ${Math.round(100 * share)} %`).join(', ')}.</p>`}`;
}
