// What the next request asks for, and the body that says so.

/** Returns the settings that a new page has: the server's own, but for a bound on the reply's length. */
export const startSettings = () => ({
  policy: '', // '': the server's
  preset: '',
  temperature: '',
  max_tokens: '400',
  seed: '',
  system: '',
  overrides: {}, // name -> number, only what a person moved
  branch: null, // null: the server's; an object of fields
  tokenCost: false,
  layerEntropy: false,
});

const asNumber = (text) => (text === '' || text === null ? undefined : Number(text));

/** Returns the body of a chat request under the state's settings. */
export function requestBody({ settings, model }, messages) {
  const system = settings.system.trim();
  const body = {
    model: model.id,
    messages: system ? [{ role: 'system', content: system }, ...messages] : messages,
    max_tokens: asNumber(settings.max_tokens),
    temperature: asNumber(settings.temperature),
    seed: asNumber(settings.seed),
    entropick: { telemetry: 'full' },
  };
  const { entropick } = body;
  if (settings.policy) entropick.policy = settings.policy;
  if (settings.preset) entropick.preset = settings.preset;
  if (Object.keys(settings.overrides).length) entropick.overrides = { ...settings.overrides };
  if (settings.branch) entropick.branch = { ...settings.branch };
  if (settings.tokenCost) entropick.genuineness = true;
  if (settings.layerEntropy) entropick.layer_entropy = { every: 1 };
  for (const name of Object.keys(body)) if (body[name] === undefined) delete body[name];
  return body;
}

/** Returns the policy's numbers that a request without overrides gets: those of its preset. */
export function presetParams({ policy, settings }) {
  const name = settings.preset || policy.default.preset;
  const params = policy.presets[name] ?? policy.presets.seed;
  return settings.policy || settings.preset ? params : { ...params, ...policy.default.overrides };
}

/** Returns the policy's numbers in force for the next request. */
export const paramsInForce = (state) => ({ ...presetParams(state), ...state.settings.overrides });
