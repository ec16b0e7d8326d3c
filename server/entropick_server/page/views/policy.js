// What the next request asks for: policy, sliders for its numbers, branches.

import { html } from '../vendor/htm-preact.js';
import { presetParams, startSettings } from '../settings.js';
import { store } from '../state.js';
import { number, words } from '../words.js';

const THRESHOLDS = ['greedy', 'clarify', 'explore', 'high_uncertainty'].flatMap((name) => [`${name}_entropy`, `${name}_varentropy`]);
const GROUPS = [
  ['Thresholds', THRESHOLDS],
  ['Base values', ['top_p', 'top_k', 'min_p', 'n_candidates', 'temperature_min', 'temperature_max']],
  ['Clarifying text and loops', ['clarify_budget', 'clarify_cooldown', 'loop_length', 'loop_temperature']],
];
/* ends of the sliders, where the limits that the server allows are too far apart to aim at */
const REACH = { _entropy: 12, _varentropy: 40, top_k: 200, n_candidates: 32, clarify_budget: 4, clarify_cooldown: 128, loop_length: 32, temperature_max: 4, temperature_min: 2, loop_temperature: 4, min_p: 0.5 };
const WHOLE = new Set(['top_k', 'n_candidates', 'clarify_budget', 'clarify_cooldown', 'loop_length']);

/** Changes the settings of the next request. */
export function change(patch) {
  store.set({ settings: { ...store.state.settings, ...patch } });
}

export function PolicyForm({ state }) {
  const { settings, policy } = state;
  const name = settings.policy || policy.default.policy;
  const moved = Object.keys(settings.overrides).length;
  return html`
    <h2>The next request</h2>
    <form class="policy" onSubmit=${(event) => event.preventDefault()}>
      <${Choice} label="Policy" value=${settings.policy} first=${`the server’s (${policy.default.policy})`}
        options=${['entropix', 'fixed', ...Object.keys(policy.formulas)]} onChange=${(value) => change({ policy: value, overrides: {}, branch: null })} />
      ${name === 'entropix' && html`<${Choice} label="Preset" value=${settings.preset} first=${`the server’s (${policy.default.preset})`}
        options=${Object.keys(policy.presets)} onChange=${(value) => change({ preset: value, overrides: {} })} />`}
      <${Entry} label="Temperature" name="temperature" hint="the policy’s" min="0" max="2" step="0.1" settings=${settings} />
      <${Entry} label="Most tokens" name="max_tokens" hint="no limit" min="1" step="1" settings=${settings} />
      <${Entry} label="Seed" name="seed" hint="another each time" step="1" settings=${settings} />
      <label class="field wide">System message<textarea rows="2" value=${settings.system} onInput=${(event) => change({ system: event.target.value })}></textarea></label>
      <label class="check"><input type="checkbox" checked=${settings.tokenCost} onChange=${(event) => change({ tokenCost: event.target.checked })} /> token costs of the heads</label>
      ${'layer_entropy' in policy.default && html`<label class="check"><input type="checkbox" checked=${settings.layerEntropy} onChange=${(event) => change({ layerEntropy: event.target.checked })} /> entropy behind each layer</label>`}
      ${name === 'entropix' && html`
        <label class="check"><input type="checkbox" checked=${settings.branch !== null} onChange=${(event) => change({ branch: event.target.checked ? { width: 4, depth: 12 } : null })} /> branches at doubtful tokens</label>
        ${settings.branch && html`<div class="pair">${['width', 'depth'].map((field) => html`<label key=${field} class="field">${field}
          <input type="number" min=${policy.branch[field].min} max=${policy.branch[field].max} value=${settings.branch[field]}
            onInput=${(event) => change({ branch: { ...settings.branch, [field]: Number(event.target.value) } })} /></label>`)}</div>`}
        <p class="overrides" aria-live="polite">${moved ? `${moved} of the policy’s numbers moved: ${Object.entries(settings.overrides).map(([k, v]) => `${words(k)} ${number(v)}`).join(', ')}.` : 'The policy’s numbers are as the preset has them.'}
          ${moved > 0 && html` <button type="button" class="link" onClick=${() => change({ overrides: {} })}>Put back</button>`}</p>
        ${GROUPS.map(([title, names], i) => html`<details key=${title} open=${i === 0}><summary>${title}</summary>
          ${names.map((one) => html`<${Slider} key=${one} name=${one} state=${state} />`)}</details>`)}`}
      ${policy.formulas[name] && html`<p class="note">Sets ${policy.formulas[name].sets}: ${policy.formulas[name].formula}</p>
        ${Object.keys(policy.formulas[name].parameters).map((one) => html`<${Slider} key=${one} name=${one} state=${state} start=${policy.formulas[name].parameters[one]} />`)}`}
      <p><button type="button" onClick=${() => store.set({ settings: startSettings() })}>All as at the beginning</button></p>
    </form>`;
}

export function Choice({ label, value, first, options, onChange }) {
  return html`<label class="field">${label}<select value=${value} onChange=${(event) => onChange(event.target.value)}>
    <option value="">${first}</option>${options.map((one) => html`<option key=${one} value=${one}>${words(one)}</option>`)}</select></label>`;
}

function Entry({ label, name, hint, settings, ...limits }) {
  return html`<label class="field">${label}<input type="number" name=${name} ...${limits} placeholder=${hint} value=${settings[name]}
    onInput=${(event) => change({ [name]: event.target.value })} /></label>`;
}

function Slider({ name, state, start }) {
  const preset = start ?? presetParams(state)[name];
  const limits = state.policy.overrides[name];
  if (preset === undefined || !limits) return null;
  const value = state.settings.overrides[name] ?? preset;
  const reach = REACH[name] ?? REACH[name.slice(name.lastIndexOf('_'))] ?? limits.max;
  const max = Math.min(limits.max, Math.max(reach, preset));
  const min = Math.max(limits.min, 0);
  const step = WHOLE.has(name) ? 1 : max > 10 ? 0.05 : 0.01;
  const set = (next) => {
    const overrides = { ...state.settings.overrides, [name]: next };
    if (next === preset || Number.isNaN(next)) delete overrides[name];
    change({ overrides });
  };
  return html`<div class=${`slider${name in state.settings.overrides ? ' moved' : ''}`}>
    <label for=${`slide-${name}`}>${words(name)}</label>
    <input id=${`slide-${name}`} type="range" name=${name} min=${min} max=${max} step=${step} value=${value} onInput=${(event) => set(Number(event.target.value))} />
    <output for=${`slide-${name}`}>${number(value)}</output></div>`;
}
