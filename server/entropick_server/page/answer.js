// A reply while it arrives and afterwards: its text, cut into the tokens that it is made of, with their rows.

const PARAMETERS = ['temperature', 'top_p', 'top_k', 'min_p', 'n_candidates'];
let answers = 0;

/** Returns a reply without tokens; `request` is the body that asks for it. */
export function newAnswer(request) {
  return {
    key: `a${++answers}`,
    id: null,
    model: null,
    request,
    tokens: [], // {text, row}: what is shown, and the telemetry row
    text: '',
    summary: null,
    usage: null,
    finish: null, // stop, length; cancelled: the stop button; error
    error: null,
    done: false,
    choice: 0, // its number among the choices of the server's answer
    reopened: false, // read from the list of recent requests: without candidates and heads
    given: 0, // tokens at the beginning that a person chose, not this request
    startedAt: performance.now(),
    firstAt: null,
    endedAt: null,
  };
}

/** Adds a chunk of the stream to a reply. */
export function addChunk(answer, chunk) {
  answer.id ??= chunk.id;
  answer.model ??= chunk.model;
  if (chunk.usage) answer.usage = chunk.usage;
  const choice = chunk.choices[0];
  if (!choice) return;
  const content = choice.delta?.content ?? '';
  // what a model thinks before it answers is shown, and is no part of what it said
  const text = choice.delta?.reasoning_content ?? content;
  const rows = choice.entropick?.tokens ?? [];
  if (text || rows.length) answer.firstAt ??= performance.now();
  const texts = shareText(text, rows);
  rows.forEach((row, i) => answer.tokens.push({ text: texts[i], row }));
  if (!rows.length && text) answer.tokens.push({ text, row: null });
  answer.text += content;
  if (choice.entropick?.summary) answer.summary = choice.entropick.summary;
  if (choice.finish_reason) answer.finish = choice.finish_reason;
}

/** Marks the end of a reply; `error`: why it ended early. */
export function endAnswer(answer, error = null) {
  if (error) {
    answer.finish = error.name === 'AbortError' ? 'cancelled' : 'error';
    answer.error = error.name === 'AbortError' ? null : error;
  }
  answer.done = true;
  answer.endedAt = performance.now();
}

/**
 * Shares a stretch of text among the tokens that it came with. A token shows what it adds: one that ends inside
 * of a character shows nothing, and the token that completes it the whole character.
 */
export function shareText(text, rows) {
  let rest = text;
  return rows.map((row, i) => {
    if (i === rows.length - 1) return row.eos ? '' : rest;
    let share = '';
    if (!row.eos && !row.token.startsWith('bytes:') && rest.startsWith(row.token)) share = row.token;
    rest = rest.slice(share.length);
    return share;
  });
}

/** Returns a reply out of an entry of /v1/requests/{id}: columns become rows. */
export function answerOfSeries(id, choice, signalNames) {
  const answer = newAnswer(null);
  const { series } = choice;
  answer.id = id;
  answer.choice = choice.choice;
  answer.reopened = true;
  answer.model = choice.model;
  answer.summary = choice.summary;
  answer.finish = choice.finish_reason;
  answer.usage = { prompt_tokens: choice.prompt_tokens, completion_tokens: choice.completion_tokens };
  answer.tokens = series.token_id.map((tokenId, i) => {
    const signals = {};
    for (const name of signalNames) {
      const value = series[name]?.[i];
      if (value !== null && value !== undefined) signals[name] = value;
    }
    const last = i === series.token_id.length - 1;
    const eos = last && choice.finish_reason === 'stop' && /^<.*>$/.test(series.token[i]);
    const parameters = series.temperature[i] === null ? null
      : Object.fromEntries(PARAMETERS.map((name) => [name, series[name][i]]));
    const row = {
      index: series.index[i],
      token: series.token[i],
      token_id: tokenId,
      strategy: series.strategy[i],
      forced: series.forced[i],
      parameters,
      signals,
    };
    const opened = choice.branches.find((rollout) => rollout.index === series.index[i]);
    if (opened) row.branches = opened.branches;
    if (eos) row.eos = true;
    return { text: eos ? '' : series.token[i], row };
  });
  answer.text = answer.tokens.map((token) => token.text).join('');
  answer.done = true;
  answer.took = choice.duration;
  return answer;
}

/** Returns a reply that begins with the first `kept` tokens of another one. */
export function behind(answer, kept, request) {
  const again = newAnswer(request);
  again.tokens = answer.tokens.slice(0, kept);
  again.text = again.tokens.map((token) => token.text).join('');
  // the one behind them is named by the request, too
  again.given = kept + 1;
  return again;
}
