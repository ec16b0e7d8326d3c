// The conversation: turns, and the field to write in.

import { html, useEffect, useRef, useState } from '../vendor/htm-preact.js';
import { clear, retry, send, stop } from '../state.js';
import { PaintBar } from './paintbar.js';
import { Reply } from './reply.js';

const QUESTIONS = {
  pico: ['What is the capital of Falnia?', 'What color is it?', 'Tell me a story.'],
  other: ['What is the capital of Australia?', 'Write two sentences about the sea.', 'Can you fix it?'],
};

export function ChatView({ state }) {
  const end = useRef(null);
  const followed = useRef(true);
  useEffect(() => {
    const watch = () => {
      followed.current = innerHeight + scrollY >= document.documentElement.scrollHeight - 160;
    };
    addEventListener('scroll', watch, { passive: true });
    return () => removeEventListener('scroll', watch);
  }, []);
  useEffect(() => {
    if (state.running && followed.current) scrollTo(0, document.documentElement.scrollHeight);
  });
  return html`
    <section class="chat" aria-label="Conversation">
      <${PaintBar} state=${state} />
      ${state.turns.length === 0 && html`<${Welcome} state=${state} />`}
      ${state.turns.map((turn, i) => (turn.role === 'user'
        ? html`<p key=${i} class="asked"><span class="hidden">You: </span>${turn.text}</p>`
        : html`<${Reply} key=${turn.answer.key} answer=${turn.answer} state=${state} title=${`Reply ${(i + 1) / 2}`}
            onRetry=${i === state.turns.length - 1 ? retry : null} />`))}
      <div ref=${end}></div>
      <${Composer} state=${state} />
    </section>`;
}

function Welcome({ state }) {
  const questions = QUESTIONS[state.model.id] ?? QUESTIONS.other;
  return html`
    <div class="welcome">
      <h2>Watch ${state.model.id} hesitate</h2>
      <p>Ask something. Below each reply stands one number about it; point at a token to see what else the model
        might have said there, and choose another to go on from it.</p>
      <p class="tries">${questions.map((text) => html`
        <button key=${text} type="button" onClick=${() => send(text)}>${text}</button>`)}</p>
    </div>`;
}

function Composer({ state }) {
  const [text, write] = useState('');
  const field = useRef(null);
  const running = state.running !== null;
  const submit = (event) => {
    event?.preventDefault();
    if (running || !text.trim()) return;
    send(text);
    write('');
    field.current?.focus();
  };
  const keys = (event) => {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) submit(event);
    if (event.key === 'Escape' && running) stop();
  };
  return html`
    <form class="composer" onSubmit=${submit}>
      <label class="hidden" for="ask">Your message</label>
      <textarea id="ask" ref=${field} rows="2" value=${text} placeholder=${`Message to ${state.model.id}`}
        onInput=${(event) => write(event.target.value)} onKeyDown=${keys}></textarea>
      <div class="buttons">
        ${state.turns.length > 0 && html`<button type="button" class="quiet" onClick=${clear}>New</button>`}
        ${running
          ? html`<button type="button" class="primary" onClick=${stop}>Stop</button>`
          : html`<button type="submit" class="primary" disabled=${!text.trim()}>Send</button>`}
      </div>
    </form>`;
}
