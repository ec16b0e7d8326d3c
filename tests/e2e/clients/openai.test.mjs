// The openai package for JavaScript, with node's own test runner.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';

// the package lies in the environment of the clients, not beside this file
const require = createRequire(`${process.env.ENTROPICK_E2E_PACKAGES}/package.json`);
const { default: OpenAI } = require('openai');

const model = process.env.ENTROPICK_E2E_MODEL;
const baseURL = `${process.env.ENTROPICK_E2E_URL}/v1`;
const client = new OpenAI({ baseURL, apiKey: process.env.ENTROPICK_E2E_KEY, maxRetries: 0 });
const messages = [{ role: 'user', content: 'What is the capital of Ashland?' }];
const asked = { model, messages, max_tokens: 20, temperature: 0 };
const ball = {
  type: 'object',
  properties: { colour: { enum: ['red', 'green'] }, heavy: { type: 'boolean' } },
  required: ['colour', 'heavy'],
  additionalProperties: false,
};
const tools = [{ type: 'function', function: { name: 'throw_ball', description: 'Throws a ball.', parameters: ball } }];
const named = { type: 'function', function: { name: 'throw_ball' } };

test('models', async () => {
  const ids = [];
  for await (const one of client.models.list()) ids.push(one.id);
  assert.deepEqual(ids, [model]);
  assert.equal((await client.models.retrieve(model)).id, model);
});

test('a wrong key and a wrong model', async () => {
  const stranger = new OpenAI({ baseURL, apiKey: 'wrong', maxRetries: 0 });
  await assert.rejects(stranger.models.retrieve(model), OpenAI.AuthenticationError);
  await assert.rejects(client.chat.completions.create({ ...asked, model: 'another' }), OpenAI.NotFoundError);
});

test('a stream is the reply', async () => {
  const whole = await client.chat.completions.create(asked);
  const stream = await client.chat.completions.create({
    ...asked, stream: true, stream_options: { include_usage: true },
  });
  let text = '';
  let usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? '';
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.deepEqual(usage, whole.usage);
});

test('the accumulator of a stream', async () => {
  const whole = await client.chat.completions.create({ ...asked, logprobs: true, top_logprobs: 1 });
  const stream = client.chat.completions.stream({ ...asked, logprobs: true, top_logprobs: 1 });
  const final = await stream.finalChatCompletion();
  assert.equal(final.choices[0].message.content, whole.choices[0].message.content);
  assert.deepEqual(final.choices[0].logprobs.content, whole.choices[0].logprobs.content);
});

test('the accumulator keeps all rows when the last chunk carries them', async () => {
  const stream = client.chat.completions.stream({
    ...asked, stream_options: { include_usage: true }, entropick: { telemetry: 'tokens', at_end: true },
  });
  const final = await stream.finalChatCompletion();
  const rows = final.choices[0].entropick.tokens;
  assert.equal(rows.length, final.usage.completion_tokens);
  rows.forEach((row, index) => assert.equal(row.index, index));
});

test('a stream that the client leaves', async () => {
  const stream = await client.chat.completions.create({ ...asked, max_tokens: 200, ignore_eos: true, stream: true });
  for await (const chunk of stream) {
    assert.ok(chunk.id);
    break;
  }
  assert.ok((await client.chat.completions.create(asked)).choices[0].message.content);
});

test('completions with echo', async () => {
  const reply = await client.completions.create({
    model, prompt: 'Once upon a time', max_tokens: 0, echo: true, logprobs: 1,
  });
  assert.equal(reply.choices[0].text, 'Once upon a time');
  assert.equal(reply.choices[0].logprobs.tokens.join(''), 'Once upon a time');
});

test('errors name the field', async () => {
  await assert.rejects(client.chat.completions.create({ ...asked, temperature: 9 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, 'temperature');
    return true;
  });
});

test('structured output', async () => {
  const reply = await client.chat.completions.parse({
    ...asked, max_tokens: 100,
    response_format: { type: 'json_schema', json_schema: { name: 'ball', strict: true, schema: ball } },
  });
  const value = JSON.parse(reply.choices[0].message.content);
  assert.deepEqual(Object.keys(value).sort(), ['colour', 'heavy']);
  assert.ok(['red', 'green'].includes(value.colour));
});

test('a forced call, plain and streamed', async () => {
  const fields = { ...asked, max_tokens: 200, tools, tool_choice: named };
  const whole = (await client.chat.completions.create(fields)).choices[0].message.tool_calls;
  const final = await client.chat.completions.stream(fields).finalChatCompletion();
  assert.equal(whole[0].function.name, 'throw_ball');
  assert.ok(['red', 'green'].includes(JSON.parse(whole[0].function.arguments).colour));
  const calls = final.choices[0].message.tool_calls;
  assert.deepEqual(calls.map((call) => call.function.arguments), whole.map((call) => call.function.arguments));
});

test('tools that the client runs', async () => {
  const thrown = [];
  const runner = client.chat.completions.runTools({
    ...asked, max_tokens: 200, tool_choice: named,
    tools: [{
      type: 'function',
      function: {
        name: 'throw_ball', description: 'Throws a ball.', parameters: ball, parse: JSON.parse,
        function: (given) => { thrown.push(given); return 'thrown'; },
      },
    }],
  }, { maxChatCompletions: 2 });
  await runner.done();
  assert.ok(['red', 'green'].includes(thrown[0].colour));
});

test('responses', async () => {
  const fields = { model, input: 'hello', max_output_tokens: 20, temperature: 0 };
  const whole = await client.responses.create(fields);
  assert.ok(whole.output_text);
  const stream = client.responses.stream(fields);
  assert.equal((await stream.finalResponse()).output_text, whole.output_text);
});
