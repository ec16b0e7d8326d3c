// From a signal's value to one of five levels, which a colour and an underline show.

export const LEVELS = 5;
const SHARES = [0.5, 0.75, 0.9, 0.95];

const rising = (cuts) => cuts.every((cut, i) => Number.isFinite(cut) && (i === 0 || cut > cuts[i - 1]));

/**
 * Returns the scale of a signal: {cuts, source}; the policy is that of GET /v1/policy. The cuts are the 50, 75, 90 and 95 % quantiles of the text that
 * the model was calibrated on; where the profile has none, those of the reply.
 */
export function scaleOf(name, { profile, quantile_levels: levels }, tokens) {
  const quantiles = profile?.quantiles?.[name];
  if (quantiles) {
    const cuts = SHARES.map((share) => quantiles[levels.indexOf(share)]);
    if (rising(cuts)) return { cuts, source: 'calibration' };
  }
  const values = tokens
    .map((token) => token.row?.signals?.[name])
    .filter((value) => value !== undefined)
    .sort((a, b) => a - b);
  if (!values.length) return { cuts: [], source: 'nothing' };
  const cuts = SHARES.map((share) => values[Math.min(values.length - 1, Math.floor(share * values.length))]);
  if (rising(cuts)) return { cuts, source: 'reply' };
  const low = values[0];
  const high = values[values.length - 1];
  if (high <= low) return { cuts: [], source: 'constant' };
  return { cuts: SHARES.map((_, i) => low + ((i + 1) * (high - low)) / LEVELS), source: 'range' };
}

/** Returns the level of a value, 0 to 4; -1 where there is none. */
export function levelOf(scale, value) {
  if (value === undefined || value === null) return -1;
  let level = 0;
  for (const cut of scale.cuts) if (value >= cut) level += 1;
  return level;
}
