// Why each token of a reply was picked: the server explains a reply once it has ended.

import { get } from './api.js';
import { store } from './state.js';

const held = new WeakMap();
const TRIES = 20;
/* a reply is written down behind the last event of its stream */

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Returns a reply's explanation as far as it is there: {rows, problem}; rows by the tokens' places. */
export function explanationOf(answer) {
  let entry = held.get(answer);
  if (!entry) {
    entry = { rows: null, problem: null };
    held.set(answer, entry);
    load(answer, entry);
  }
  return entry;
}

async function load(answer, entry) {
  for (let tries = 0; ; tries += 1) {
    try {
      const { choices } = await get(`v1/requests/${encodeURIComponent(answer.id)}/explanation`);
      const choice = choices.find((one) => one.choice === answer.choice) ?? choices[0];
      entry.rows = new Map(choice.tokens.map((row) => [row.index, row]));
      break;
    } catch (error) {
      if (error.status === 404 && tries < TRIES) {
        await sleep(100);
        continue;
      }
      entry.problem = error.status === 404 ? 'The server does not remember this reply.' : error.message;
      break;
    }
  }
  store.touch();
}
