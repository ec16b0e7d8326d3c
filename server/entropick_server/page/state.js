// The state of the page, and everything that changes it.

import { ApiError, get, streamChat } from './api.js';
import { addChunk, answerOfSeries, behind, endAnswer, newAnswer } from './answer.js';
import { requestBody, startSettings } from './settings.js';
import { createStore } from './store.js';

export const store = createStore({
  phase: 'connecting', // connecting, key, loading, ready, away
  notice: null, // why the server cannot be used
  policy: null, // GET /v1/policy
  model: null, // the entry of GET /v1/models
  view: 'chat', // chat, compare, recent
  turns: [], // {role: 'user', text} or {role: 'assistant', answer}
  compared: [], // the replies side by side
  opened: null, // a reply of the list of recent requests
  running: null, // AbortController of the requests in flight
  settings: startSettings(),
  colours: false,
  held: false, // colours while a key is held
  signal: 'logits_entropy', // or 'strategy'
  selected: null, // {answer, index, pinned}
  tab: 'token',
  why: false, // whether the token's card tells why it was picked
  panelOpen: false, // on a narrow screen, where the panel lies over the page
  said: '', // for screen readers
  focusOn: null, // key of the reply that takes the focus as soon as it is drawn
});

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Reads the policy and the model, again and again while the server loads it. */
export async function connect() {
  for (;;) {
    try {
      const [policy, models] = await Promise.all([get('v1/policy'), get('v1/models')]);
      store.set({ phase: 'ready', notice: null, policy, model: models.data[0] });
      return;
    } catch (error) {
      if (error.status === 401) {
        store.set({ phase: 'key', notice: null });
        return;
      }
      const loading = error.status === 503;
      store.set({ phase: loading ? 'loading' : 'away', notice: error.message });
      await sleep(loading ? 700 : 2500);
    }
  }
}

function messagesBefore(turns) {
  const messages = [];
  for (const turn of turns) {
    if (turn.role === 'user') messages.push({ role: 'user', content: turn.text });
    else if (turn.answer.text) messages.push({ role: 'assistant', content: turn.answer.text });
    // a reply that failed before its first token: its question is not repeated either
    else messages.pop();
  }
  return messages;
}

/** Sends what a person wrote. */
export async function send(text) {
  const turns = [...store.state.turns, { role: 'user', text }];
  const answer = newAnswer(requestBody(store.state, messagesBefore(turns)));
  store.set({ turns: [...turns, { role: 'assistant', answer }], selected: null, panelOpen: false });
  await run([answer]);
}

/** Asks the last question again. */
export async function retry() {
  const turns = store.state.turns.slice(0, -1);
  const answer = newAnswer(requestBody(store.state, messagesBefore(turns)));
  store.set({ turns: [...turns, { role: 'assistant', answer }], selected: null });
  await run([answer]);
}

/** Begins a new conversation. */
export function clear() {
  stop();
  store.set({ turns: [], selected: null });
}

/** Ends the replies that are being generated. */
export function stop() {
  store.state.running?.abort();
}

/**
 * Rewinds a reply of the conversation to a token, puts a candidate there, and lets the model go on. What came
 * behind it is dropped.
 */
export async function rewind(answer, index, candidate) {
  const at = store.state.turns.findIndex((turn) => turn.answer === answer);
  if (at < 0) return;
  stop();
  const turns = store.state.turns.slice(0, at);
  const body = requestBody(store.state, messagesBefore(turns));
  // the limit counts what is kept
  if (body.max_tokens) body.max_tokens += index;
  const asking = (rewound) => ({ ...body, entropick: { ...body.entropick, rewind: { ...rewound, token_id: candidate.token_id } } });
  // by its id the server knows the reply's seed and all that its policy remembers; else the tokens must do
  const again = behind(answer, index, asking({ request: answer.id, index }));
  again.fallback = asking({ token_ids: answer.tokens.slice(0, index).map((token) => token.row.token_id) });
  if (!answer.id) again.request = again.fallback;
  store.set({ turns: [...turns, { role: 'assistant', answer: again }], selected: null, panelOpen: false, focusOn: again.key });
  await run([again]);
}

/** Asks one question under several settings, side by side. */
export async function compare(text, settingsList) {
  const answers = settingsList.map((settings) =>
    newAnswer(requestBody({ ...store.state, settings }, [{ role: 'user', content: text }])),
  );
  store.set({ compared: answers, selected: null });
  await run(answers);
}

async function run(answers) {
  const controller = new AbortController();
  store.state.running?.abort();
  store.set({ running: controller });
  await Promise.all(answers.map((answer) => follow(answer, controller.signal)));
  if (store.state.running === controller) store.set({ running: null });
  const [answer] = answers;
  if (answers.length > 1) say('All replies are finished.');
  else if (answer.error) say(`The reply failed: ${answer.error.message}`);
  else say(`${answer.finish === 'cancelled' ? 'Stopped. ' : ''}The reply: ${answer.text}`);
}

async function follow(answer, signal) {
  try {
    for await (const chunk of streamChat(answer.request, signal)) {
      addChunk(answer, chunk);
      store.touch();
    }
    endAnswer(answer);
  } catch (error) {
    if (error.code === 'request_not_found' && answer.request !== answer.fallback) {
      answer.request = answer.fallback;
      await follow(answer, signal);
      return;
    }
    // a bug of the page's own is shown too, not swallowed
    endAnswer(answer, error);
    if (error instanceof ApiError && error.status === 401) store.set({ phase: 'key' });
    if (!(error instanceof ApiError) && error.name !== 'AbortError') console.error(error);
  }
  store.touch();
}

/** Shows a token in the panel; a pinned one stays until another is chosen. */
export function select(answer, index, pinned = false) {
  const { selected } = store.state;
  if (!pinned && selected?.pinned) return;
  if (selected && selected.answer === answer && selected.index === index && selected.pinned === pinned) return;
  const patch = { selected: { answer, index, pinned } };
  if (pinned) Object.assign(patch, { panelOpen: true });
  store.set(patch);
}

/** Lets the panel follow the pointer again. */
export const unpin = () => store.set({ selected: null, panelOpen: false });

/** Has a screen reader say something. */
export const say = (text) => store.set({ said: text });

/** Opens one of the recent requests. */
export async function open(id, choice) {
  const record = await get(`v1/requests/${encodeURIComponent(id)}`);
  const entry = record.choices.find((one) => one.choice === choice) ?? record.choices[0];
  const names = store.state.policy.signals.map((signal) => signal.name);
  store.set({ opened: { head: entry, answer: answerOfSeries(id, entry, names) }, selected: null });
}
