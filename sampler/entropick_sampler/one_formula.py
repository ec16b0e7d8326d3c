"""The policies with one formula, as data: each sets one parameter of the draw from one figure of the step.

The parameter is offset + scale * exp(weight * figure); all other parameters are those of policy ``fixed``. A
temperature is limited to [temperature_min, temperature_max]; a ``min_p`` only raises the base value, and its
figure, a distance of logits, is divided by the temperature of the draw first, so that the same tokens survive
at every temperature. Figures are of the measured distribution, before temperature and filters. Known answers:
tests/golden, group 13. Knows no tensors: :mod:`.one_formula_reference` computes figures and parameters in
float64, :mod:`.one_formula_torch` and :mod:`.native.one_formula` for batches.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from .params import FormulaParams, PolicyName, PolicyParams

LN2: Final = math.log(2.0)
FINITE: Final = 1e300
"""The largest figure: beyond it a weight of 0 would give NaN."""
MARGIN: Final = 1e-5
"""The share (and the nats) by which the floor of top-H lies below its last token, which is to survive."""


class Figure(enum.IntEnum):
    """The figures that the formulas read; 0 stands for none."""

    INVERSE_ENTROPY = 1
    """1 / H, H in nats"""
    LOG_RELATIVE_ENTROPY = 2
    """ln(H / H of the uniform distribution over the tokens that are not masked)"""
    LOG_TEMPERATURE = 3
    """ln T of the temperature at which the distribution has the entropy ``inputs[0]`` (bits)"""
    DEVIATION = 4
    """standard deviation of the logits that are not masked, nats"""
    SURPRISAL_ROOM = 5
    """ln of 2^-mu over the largest probability, where mu (bits) = 2 tau - eta * the sum of (surprisal - tau)
    over the reply's tokens; tau and eta are ``inputs``"""
    PREFIX_DEPTH = 6
    """how far the last token of top-H's prefix lies below the most probable token, nats, times -1; the prefix
    has the share ``inputs[0]`` of the entropy"""


class Terms(NamedTuple):
    """A formula with the numbers of one request, and the two numbers that its figure reads."""

    offset: float
    scale: float
    weight: float
    inputs: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class OneFormula:
    """A policy with one formula: the parameter it sets, the figure it reads, and the formula's terms.

    ``meaning``: the formula in words, for people. ``names``: the overrides that it reads.
    """

    sets: Literal["temperature", "min_p"]
    figure: Figure
    terms: Callable[[PolicyParams, FormulaParams], Terms]
    meaning: str
    names: tuple[str, ...]


ONE_FORMULA: Final[Mapping[PolicyName, OneFormula]] = MappingProxyType(
    {
        # Zhang et al., arXiv 2403.14541
        "edt": OneFormula(
            "temperature",
            Figure.INVERSE_ENTROPY,
            lambda p, f: Terms(0.0, p.temperature, f.edt_theta * math.log(f.edt_base)),
            "temperature * edt_base ^ (edt_theta / H), H in nats",
            ("edt_theta", "edt_base"),
        ),
        # llama.cpp's dynatemp_range and dynatemp_exponent
        "dynamic_temperature": OneFormula(
            "temperature",
            Figure.LOG_RELATIVE_ENTROPY,
            lambda p, f: Terms(
                max(0.0, p.temperature - f.dynatemp_range),
                p.temperature + f.dynatemp_range - max(0.0, p.temperature - f.dynatemp_range),
                f.dynatemp_exponent,
            ),
            "low + (high - low) * (H / largest H) ^ dynatemp_exponent, low and high = temperature - and + "
            "dynatemp_range",
            ("dynatemp_range", "dynatemp_exponent"),
        ),
        # temp_tune of Entropix
        "target_entropy": OneFormula(
            "temperature",
            Figure.LOG_TEMPERATURE,
            lambda p, f: Terms(0.0, 1.0, 1.0, (f.target_entropy, 0.0)),
            "the temperature at which the distribution has target_entropy bits",
            ("target_entropy",),
        ),
        # Tang et al., arXiv 2411.07641
        "top_n_sigma": OneFormula(
            "min_p",
            Figure.DEVIATION,
            lambda p, f: Terms(0.0, 1.0, -f.top_n_sigma),
            "keeps logits at least the largest - top_n_sigma * their standard deviation",
            ("top_n_sigma",),
        ),
        # Basu et al., arXiv 2007.14966, the second version of the authors' code
        "mirostat": OneFormula(
            "min_p",
            Figure.SURPRISAL_ROOM,
            lambda p, f: Terms(0.0, 1.0, 1.0, (f.mirostat_tau, f.mirostat_eta)),
            "keeps tokens of at most mu bits of surprisal; mu = 2 mirostat_tau at first, and each token "
            "takes mirostat_eta * (its surprisal - mirostat_tau) off",
            ("mirostat_tau", "mirostat_eta"),
        ),
        # Potraghloo et al., arXiv 2509.02510
        "top_h": OneFormula(
            "min_p",
            Figure.PREFIX_DEPTH,
            lambda p, f: Terms(0.0, 1.0, 1.0, (f.top_h_alpha, 0.0)),
            "keeps the most probable tokens whose renormalised entropy is at most top_h_alpha * H",
            ("top_h_alpha",),
        ),
    }
)
"""The policies with one formula, by name."""


def surprisal_limit(tau: Any, eta: Any, surprisal: Any, tokens: Any) -> Any:
    """Returns mirostat's mu (bits) behind ``tokens`` tokens of a total ``surprisal`` (bits).

    Numbers or tensors alike.
    """
    return 2 * tau - eta * (surprisal - tokens * tau)
