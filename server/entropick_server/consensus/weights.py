"""The vote of a reply: its answer, and how much that counts, from the figures of the reply's tokens.

Pure functions in float64.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..answers import Extractor
from .config import WeightConfig

_LN2: Final = math.log(2.0)


class Figures(NamedTuple):
    """The figures of a reply's token that a vote is made of.

    ``logprob`` in nats, NaN where it was lost; ``entropy`` in bits, None where it was not measured;
    ``offset``: characters of the reply's text before the token; ``forced``: given, not drawn, or
    drawn without an alternative.
    """

    logprob: float
    entropy: float | None
    offset: int
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Vote:
    """The vote of a reply.

    ``answer``: None where the reply holds none, it abstains then; ``weight``: 0 to 1; ``ended``: the reply
    came to its own end; ``answer_bits``: summed surprisal of the answer's tokens, infinite without an answer.
    """

    answer: str | None
    weight: float = 1.0
    ended: bool = True
    answer_bits: float = math.inf


def vote(text: str, tokens: Sequence[Figures], ended: bool, extract: Extractor, config: WeightConfig) -> Vote:
    """Returns the vote of a finished reply: its text, its tokens in order, and whether it ended by itself."""
    extracted = extract(text)
    if extracted is None:
        return Vote(None, 0.0, ended)
    own = answer_tokens(tokens, extracted.begin, extracted.end, len(text))
    bits = math.fsum(-token.logprob / _LN2 for token in own)
    weight = reply_weight(tokens, extracted.end, config)
    if not ended:
        weight = min(weight, config.cut)
    return Vote(extracted.answer, weight, ended, math.inf if math.isnan(bits) else bits)


def reply_weight(tokens: Sequence[Figures], answer_end: int, config: WeightConfig) -> float:
    """Returns the weight of a reply that came to its own end, 0 to 1.

    ``answer_end``: characters of its text up to the answer's end. ``none``: 1. ``mean_logprob``: 2^(scale x
    mean log probability in bits) of all tokens; ``answer_logprob``: of the tokens up to the answer's end;
    ``median_entropy``: 2^(-scale x median entropy in bits of the last half of the tokens). Forced tokens do
    not count, for the model did not choose them. A reply of which nothing was measured weighs like one that
    was cut.
    """
    if config.by == "none":
        return 1.0
    drawn = [token for token in tokens if not token.forced]
    if config.by == "median_entropy":
        half = [token.entropy for token in drawn[len(drawn) // 2 :]]
        entropies = [entropy for entropy in half if entropy is not None and math.isfinite(entropy)]
        figure = -statistics.median(entropies) if entropies else None
    else:
        if config.by == "answer_logprob":
            drawn = [token for token in drawn if token.offset < answer_end]
        bits = [token.logprob / _LN2 for token in drawn if not math.isnan(token.logprob)]
        figure = math.fsum(bits) / len(bits) if bits else None
    if figure is None:
        return config.cut
    # rounding may leave a log probability above 0
    return min(1.0, 2.0 ** (config.scale * figure)) if config.scale else 1.0


def answer_tokens(tokens: Sequence[Figures], begin: int, end: int, length: int) -> list[Figures]:
    """Returns the tokens whose text touches characters ``begin`` to ``end`` (excluded) of a reply's text.

    ``length``: characters of the text. A token of part of a character counts where the character begins.
    """
    ends = [*(token.offset for token in tokens[1:]), length]
    return [
        token
        for token, after in zip(tokens, ends, strict=False)
        if token.offset < end and (after > begin or after == token.offset == begin)
    ]
