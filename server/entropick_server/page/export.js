// A reply as a file to keep or to share: JSON, or a page that needs nothing else.

import { scaleOf } from './scale.js';
import { headline } from './words.js';

/** Returns what a reply's export holds. */
export function exported(answer, state) {
  return {
    format: 'entropick reply 1',
    id: answer.id,
    model: answer.model,
    request: answer.request,
    text: answer.text,
    finish_reason: answer.finish,
    usage: answer.usage,
    summary: answer.summary && { ...answer.summary, seed: exact(answer.summary.seed) },
    tokens: answer.tokens.map((token) => ({ ...token.row, text: token.text })),
    signals: state.policy.signals,
  };
}

/** Has the browser save a reply as JSON. */
export function exportJson(answer, state) {
  save(`${nameOf(answer)}.json`, 'application/json', JSON.stringify(exported(answer, state), null, 1));
}

/** Has the browser save a reply as a page with everything in it. */
export async function exportHtml(answer, state) {
  const read = (path) => fetch(new URL(path, import.meta.url)).then((response) => response.text());
  const [style, script] = await Promise.all([read('./shared.css'), read('./shared.js')]);
  save(`${nameOf(answer)}.html`, 'text/html', sharedPage(answer, state, style, script));
}

/** Returns the page to share; nothing of the reply is markup in it. */
export function sharedPage(answer, state, style, script) {
  const content = exported(answer, state);
  for (const token of content.tokens) delete token.detail;
  const scales = Object.fromEntries(
    state.policy.signals.map(({ name }) => [name, scaleOf(name, state.policy, answer.tokens)]),
  );
  const line = headline(answer, state.policy.hesitation);
  const data = { ...content, scales, headline: line && `${line.lead} ${line.text}`, signal: state.signal };
  // inside of a script element only "<" could end it
  const json = JSON.stringify(data).replaceAll('<', '\\u003c');
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>A reply, token by token</title><style>${style}</style></head>
<body><main id="reply"></main>
<script type="application/json" id="data">${json}</script><script type="module">${script}</script></body></html>
`;
}

// a seed that a number cannot hold is text in here, and a number of all its digits in the file
const exact = (seed) => (typeof seed === 'string' && JSON.rawJSON ? JSON.rawJSON(seed) : seed);

const nameOf = (answer) => `entropick-${(answer.id ?? 'reply').replace(/[^A-Za-z0-9._-]/g, '_')}`;

function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
