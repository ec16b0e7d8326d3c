// The line at the top: where one is, the model, dark or light, the key.

import { html } from '../vendor/htm-preact.js';
import { key } from '../api.js';
import { store } from '../state.js';
import { nextTheme, setTheme, theme } from '../theme.js';

const VIEWS = { chat: 'Chat', compare: 'Compare', recent: 'Recent' };

export function Header({ state }) {
  const go = (view) => store.set({ view, selected: null, panelOpen: false });
  return html`
    ${state.view === 'chat' && state.policy && html`<a class="skip" href="#ask">Skip to the message</a>`}
    <a class="skip" href="#main">Skip to the page</a>
    <header class="top">
      <h1 class="brand"><svg viewBox="0 0 32 20" aria-hidden="true"><path d="M2 15c4 0 4-11 8-11s3 8 6 8 3-10 8-10 4 6 6 6" /></svg><span>entropick</span></h1>
      <nav aria-label="Views">
        ${Object.entries(VIEWS).map(([view, title]) => html`
          <button key=${view} type="button" class="link" aria-current=${state.view === view ? 'page' : null}
            disabled=${!state.policy} onClick=${() => go(view)}>${title}</button>`)}
      </nav>
      <span class="model" title=${describe(state.model)}>${state.model?.id ?? ''}</span>
      <button type="button" class="quiet" onClick=${() => { setTheme(nextTheme()); store.touch(); }}
        aria-label=${`Colours of the page: ${theme()}. Change.`}>${{ auto: '◐', light: '☀', dark: '☾' }[theme()]}</button>
      ${key.get() && html`<button type="button" class="quiet"
        onClick=${() => { key.set(''); store.set({ phase: 'key', policy: null }); }}>Forget the key</button>`}
    </header>`;
}

function describe(model) {
  if (!model) return '';
  const own = model.entropick;
  return `${own.architecture}, ${own.parameters.toLocaleString('en')} parameters, ${own.dtype}, ${own.device}, context ${model.max_model_len}, profile ${own.profile ?? 'none'}`;
}
