"""The outcome of a step as one matrix, which the host gets in one copy, and as plain Python rows there.

A line holds temperature, top_p, min_p, strategy, top_k, candidates drawn, whether a clarifying text begins,
flags; then C + 1 token ids (the emitted one, C = N + W drawn), as many log probabilities, C scores, the
signals that the policy sees, the emitted token's surprisal and its excess, the reply's repeated suffix, the
largest logit and ln z. Ids are exact below 2^53.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from torch import Tensor

from .signals import POLICY_SIGNALS, SIGNAL_NAMES, STEP_SIGNALS
from .strategy import Strategy

TEMPERATURE, TOP_P, MIN_P, STRATEGY, TOP_K, N_CANDIDATES, INSERTED, FLAGS = range(8)
"""The columns of a line's header."""
HEADER: Final = 8
"""The number of columns before the token ids; the first of the ids is the emitted token."""
FIXED_COLUMNS: Final = HEADER + 4 + len(STEP_SIGNALS)
"""The number of columns of a line beside the three of each drawn token."""
_OF_EMITTED: Final = [signal.name for signal in STEP_SIGNALS if signal not in POLICY_SIGNALS]
SURPRISAL: Final = _OF_EMITTED.index("surprisal") - len(_OF_EMITTED) - 2
"""The column of the emitted token's surprisal, counted from the end of a line."""
LOGITS_ENTROPY: Final = [s.name for s in POLICY_SIGNALS].index("logits_entropy") - len(STEP_SIGNALS) - 2
"""The column of the logits entropy, counted from the end of a line."""
_SURPRISAL: Final = SIGNAL_NAMES.index("surprisal")
"""Where the signals of the emitted token and of the reply begin among all."""
_STRATEGIES: Final = (*Strategy, None)
"""The strategies by number; STRATEGY_OFF, -1, is the last."""


class TokenRow(NamedTuple):
    """A row of a step on the host: plain Python numbers, ready for a telemetry row."""

    token: int
    logprob: float
    signals: tuple[float | None, ...]
    """in the order of STEP_SIGNALS"""
    strategy: Strategy | None
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    n_candidates: int
    inserted: bool
    flags: int
    candidates: tuple[tuple[int, float, float], ...]
    """(token id, log probability in nats, guide's score), in the order of the draws"""
    firsts: tuple[tuple[int, float, float], ...] = ()
    """the same of the tokens that branches 1, 2, ... would begin with here"""
    max_logit: float = math.nan
    log_z: float = math.nan
    """log p of a token = its logit - max_logit - log_z, nats"""


def unpack(packed: Tensor, candidates: int | None = None) -> list[TokenRow]:
    """Returns the rows of packed lines on the host.

    ``candidates``: the number of candidates among the drawn tokens; the others are first tokens of further
    branches. None: all are candidates.
    """
    n = (packed.shape[1] - FIXED_COLUMNS) // 3
    ids = HEADER + 1
    logprobs, scores, values = ids + n, ids + 1 + 2 * n, ids + 1 + 3 * n
    further = range(n if candidates is None else candidates, n)
    rows = []
    for line in packed.tolist():
        temperature, top_p, min_p, strategy, top_k, drawn, inserted, flags, token = line[:ids]
        *signals, surprisal, excess, repeated, max_logit, log_z = line[values:]
        drawn = int(drawn)
        signals[_SURPRISAL:_SURPRISAL] = surprisal, excess, repeated
        if math.isnan(sum(signals)):  # seldom: something was not measured
            signals = [None if math.isnan(x) else x for x in signals]
        rows.append(
            TokenRow(
                int(token),
                line[logprobs],
                tuple(signals),
                _STRATEGIES[int(strategy)],
                temperature,
                top_p,
                int(top_k),
                min_p,
                drawn,
                bool(inserted),
                int(flags),
                tuple([(int(line[ids + i]), line[logprobs + 1 + i], line[scores + i]) for i in range(drawn)]),
                tuple([(int(line[ids + i]), line[logprobs + 1 + i], line[scores + i]) for i in further])
                if further
                else (),
                max_logit,
                log_z,
            )
        )
    return rows
