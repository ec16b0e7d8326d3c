// The server's routes, with the key, and its errors as text that a person can act on.

import { events } from './sse.js';

const KEY = 'entropick.key';

/** An answer that is an error; `status` 0 where there was no answer at all. */
export class ApiError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code ?? null;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? '',
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

const address = (path) => new URL(path, document.baseURI);

function headers(extra = {}) {
  const held = key.get();
  return held ? { ...extra, Authorization: `Bearer ${held}` } : extra;
}

async function refusal(response) {
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // not one of ours: a proxy's page, or nothing
  }
  return new ApiError(error?.message ?? `The server answered ${response.status}.`, response.status, error?.code);
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(address(path), { ...options, headers: headers(options?.headers) });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('The server cannot be reached. Is it running?', 0);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/**
 * Parses JSON. A seed has 64 bits, more than a number holds here: one that would be rounded stays text, where the
 * browser shows the source.
 */
const parse = (text) => JSON.parse(text, (name, value, context) =>
  (name === 'seed' && typeof value === 'number' && !Number.isSafeInteger(value) ? context?.source ?? value : value));

/** Returns the JSON of a GET route. */
export const get = async (path) => parse(await (await ask(path)).text());

/**
 * Posts a chat request that streams, and yields its chunks. Returns at [DONE]; throws an ApiError where the
 * stream ends before it, or has an error in it.
 */
export async function* streamChat(body, signal) {
  const response = await ask('v1/chat/completions', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  const stream = events(response.body);
  for (;;) {
    let next;
    try {
      next = await stream.next();
    } catch (error) {
      if (error.name === 'AbortError') throw error;
      throw new ApiError('The connection broke in the middle of the reply.', 0);
    }
    if (next.done) throw new ApiError('The connection ended in the middle of the reply.', 0);
    if (next.value === '[DONE]') return;
    const chunk = parse(next.value);
    if (chunk.error) throw new ApiError(chunk.error.message, 200, chunk.error.code);
    yield chunk;
  }
}
