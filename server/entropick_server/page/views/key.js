// The field for the key, where the server asks for one.

import { html, useState } from '../vendor/htm-preact.js';
import { get, key } from '../api.js';
import { connect, store } from '../state.js';

export function KeyForm() {
  const [typed, type] = useState('');
  const [problem, setProblem] = useState(key.get() ? 'The server does not take the key that this page holds.' : '');
  const enter = async (event) => {
    event.preventDefault();
    key.set(typed.trim());
    try {
      await get('v1/models');
    } catch (error) {
      if (error.status === 401) {
        key.set('');
        setProblem('The server does not take this key.');
        return;
      }
    }
    store.set({ phase: 'connecting' });
    connect();
  };
  return html`
    <form class="key" onSubmit=${enter}>
      <h2>This server asks for a key</h2>
      <label for="key">API key</label>
      <input id="key" type="password" autocomplete="off" required value=${typed}
        aria-describedby="key-note" aria-invalid=${problem ? 'true' : null}
        onInput=${(event) => type(event.target.value)} />
      <p id="key-note" class=${problem ? 'problem' : 'note'} role=${problem ? 'alert' : null}>
        ${problem || 'It is kept in this tab until the tab is closed, and sent to this server alone.'}</p>
      <button type="submit" class="primary">Go on</button>
    </form>`;
}
