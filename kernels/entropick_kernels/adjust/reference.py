"""The adjustments of logits in float64, by definition; every other implementation is checked against them.

Order: masks, then what is added, then the measurement, then penalties. Sources: OpenAI's API reference
(presence and frequency penalty, logit bias); N. S. Keskar et al.: CTRL (arXiv 1909.05858), section 4.1, for
the repetition penalty, in the form that divides positive logits and multiplies the others.
"""

from __future__ import annotations

import numpy as np

from .._arrays import ArrayLike, FloatArray, as_float64
from .arrays import LARGEST, WORD_BITS, Entries, Masks


def mask_reference(logits: ArrayLike, masks: Masks) -> FloatArray:
    """Sets the logits [B, V] of the tokens that a mask does not allow to -infinity."""
    x = as_float64(logits).copy()
    for row, words in zip(masks.rows.tolist(), masks.words.tolist(), strict=True):
        for token in range(x.shape[1]):
            word = token // WORD_BITS
            if word >= len(words) or not words[word] >> token % WORD_BITS & 1:
                x[row, token] = -np.inf
    return x


def add_reference(logits: ArrayLike, added: Entries) -> FloatArray:
    """Adds the values of entries to the logits [B, V]; -infinity bans a token."""
    x = as_float64(logits).copy()
    for row, token, value in zip(added.rows, added.ids, added.values, strict=True):
        x[row, token] += value
    return x


def penalise_reference(logits: ArrayLike, seen: Entries, factors: ArrayLike) -> FloatArray:
    """Penalises the seen tokens of logits [B, V].

    ``seen``: the tokens of prompt and output, whose values count how often each stands in the output;
    ``factors`` [B, 3]: presence p, frequency f and repetition r. A logit x that is not -infinity becomes
    (x / r where x > 0, else x * r) - f * count - (p where count > 0), at most LARGEST in size.
    """
    x = as_float64(logits).copy()
    parameters = as_float64(factors)
    for row, token, count in zip(seen.rows, seen.ids, seen.values, strict=True):
        presence, frequency, repetition = parameters[row]
        value = x[row, token]
        if value == -np.inf:
            continue
        value = value / repetition if value > 0 else value * repetition
        value -= frequency * count
        value -= presence if count > 0 else 0.0
        x[row, token] = np.clip(value, -LARGEST, LARGEST)
    return x
