// The plane of entropy and varentropy: the policy's regions, and the reply's tokens moving through it.

import { html } from '../vendor/htm-preact.js';
import { paramsInForce } from '../settings.js';
import { select } from '../state.js';
import { nameOf, number, words } from '../words.js';

const WIDTH = 420;
const HEIGHT = 340;
const LEFT = 40;
const BOTTOM = 36;
const TOP = 10;
const RIGHT = 10;
const TRAIL = 6;
/* tokens before the chosen one from which a line leads to it */
const TICKS = [0, 0.1, 0.5, 1, 2, 4, 6, 10, 15, 20, 30, 50];

/** Returns the regions of the plane as rectangles in bits and bits²; where they overlap the earlier one decides. */
export function regions(params, limit) {
  const p = params;
  return [
    { name: 'greedy', x: [0, p.greedy_entropy], y: [0, p.greedy_varentropy] },
    { name: 'clarify', x: [p.clarify_entropy, limit.x], y: [0, p.clarify_varentropy] },
    { name: 'explore', x: [0, p.explore_entropy], y: [p.explore_varentropy, limit.y] },
    { name: 'high_uncertainty', x: [p.high_uncertainty_entropy, limit.x], y: [p.high_uncertainty_varentropy, limit.y] },
  ];
}

/** Returns the tokens that have a place in the plane: {index, h, v, strategy}. */
export function pointsOf(answer) {
  const points = [];
  answer?.tokens.forEach((token, index) => {
    const h = token.row?.signals?.logits_entropy;
    const v = token.row?.signals?.logits_varentropy;
    if (h !== undefined && v !== undefined) points.push({ index, h, v, strategy: token.row.strategy });
  });
  return points;
}

export function Plane({ state, answer }) {
  const params = paramsInForce(state);
  const points = pointsOf(answer);
  const limit = {
    x: 1.3 * Math.max(params.high_uncertainty_entropy, params.explore_entropy, params.clarify_entropy, largest(points, 'h') / 1.2),
    y: 1.3 * Math.max(params.explore_varentropy, params.high_uncertainty_varentropy, largest(points, 'v') / 1.2),
  };
  // square roots: most tokens are nearly certain, and would else lie on one spot
  const x = (bits) => LEFT + (WIDTH - LEFT - RIGHT) * Math.sqrt(Math.min(bits, limit.x) / limit.x);
  const y = (bits2) => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * Math.sqrt(Math.min(bits2, limit.y) / limit.y);
  const groups = new Map();
  for (const p of points) {
    const name = p.strategy ?? 'off';
    groups.set(name, `${groups.get(name) ?? ''}M${x(p.h).toFixed(1)} ${y(p.v).toFixed(1)}h.01`);
  }
  const chosen = state.selected?.answer === answer ? points.find((p) => p.index === state.selected.index) : points.at(-1);
  const end = points.indexOf(chosen);
  const areas = regions(params, limit).reverse();
  const trail = chosen ? points.slice(Math.max(0, end - TRAIL), end + 1) : [];
  const near = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const [px, py] = [((event.clientX - box.left) * WIDTH) / box.width, ((event.clientY - box.top) * HEIGHT) / box.height];
    let best = null;
    let least = 18 ** 2;
    for (const p of points) {
      const distance = (x(p.h) - px) ** 2 + (y(p.v) - py) ** 2;
      if (distance < least) [best, least] = [p, distance];
    }
    if (best) select(answer, best.index, event.type === 'click');
  };
  return html`
    <h2>Entropy and varentropy</h2>
    <svg class="plane" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" data-points=${points.length}
      aria-label=${`${points.length} tokens in the plane of entropy and varentropy; ${shares(points)}`} onMouseMove=${near} onClick=${near}>
      ${areas.map((r) => html`<g key=${r.name} class=${`region r-${r.name}`}>
        <rect x=${x(r.x[0])} y=${y(r.y[1])} width=${Math.max(0, x(r.x[1]) - x(r.x[0]))} height=${Math.max(0, y(r.y[0]) - y(r.y[1]))} /></g>`)}
      ${areas.map((r) => html`<g key=${`${r.name} name`} class="region"><text x=${x(r.x[0]) + (r.x[0] ? -6 : 6) + (r.x[0] ? x(r.x[1]) - x(r.x[0]) : 0)} y=${y(r.y[1]) + 15} text-anchor=${r.x[0] ? 'end' : 'start'}>${words(r.name)}</text></g>`)}
      ${TICKS.filter((t) => t <= limit.x).map((t) => html`<text key=${`x${t}`} class="tick" x=${x(t)} y=${HEIGHT - BOTTOM + 14} text-anchor="middle">${t}</text>`)}
      ${TICKS.filter((t) => t <= limit.y).map((t) => html`<text key=${`y${t}`} class="tick" x=${LEFT - 6} y=${y(t) + 4} text-anchor="end">${t}</text>`)}
      <path class="axis" d=${`M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}`} />
      <text class="axis-name" x=${WIDTH - RIGHT} y=${HEIGHT - 4} text-anchor="end">entropy, bits</text>
      <text class="axis-name" transform=${`translate(11 ${TOP}) rotate(-90)`} text-anchor="end">varentropy, bits²</text>
      ${[...groups].map(([name, d]) => html`<path key=${name} class=${`dots d-${name}`} d=${d} />`)}
      ${trail.slice(1).map((p, i) => html`<line key=${i} class="trail" x1=${x(trail[i].h)} y1=${y(trail[i].v)} x2=${x(p.h)} y2=${y(p.v)} opacity=${(i + 1) / (trail.length - 1)} />`)}
      ${chosen && html`<circle class="now" cx=${x(chosen.h)} cy=${y(chosen.v)} r="7" />`}
    </svg>
    <p class="note now-note">${chosen ? html`<code>${nameOf(answer.tokens[chosen.index])}</code> at ${number(chosen.h)} bits, ${number(chosen.v)} bits²: ${words(chosen.strategy)}` : 'No tokens yet.'}</p>
    <p class="note">The regions are those of the next request. A token of this reply may lie elsewhere: its own thresholds
      decided, and clarify asks for more than its region.</p>`;
}

const largest = (points, name) => points.reduce((most, p) => Math.max(most, p[name]), 0);

function shares(points) {
  const counts = new Map();
  for (const p of points) counts.set(words(p.strategy), (counts.get(words(p.strategy)) ?? 0) + 1);
  return [...counts].map(([name, n]) => `${n} ${name}`).join(', ');
}
