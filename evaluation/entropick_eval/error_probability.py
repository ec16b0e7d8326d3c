"""Fits ``error_probability`` on stored replies of a model, judges it, and writes it into the model's profile.

``python -m entropick_eval.error_probability --results DIR --profile FILE`` reads what ``entropick eval``
stored of the arms ``greedy`` and, where there is any, ``sampling``. Coefficients come from the fit half
alone; the figures are of the test half, or, while nothing of it is stored, of parts of the fit half that the
fit did not see. The same results give the same file. docs/uncertainty.md says what it reached.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from entropick_sampler.error_probability import (
    ANSWER_FEATURES,
    REPLY_FEATURES,
    VOTE_FEATURES,
    ErrorModel,
    Mix,
)
from entropick_sampler.profile import Profile, ProfileError
from entropick_server.consensus.config import ConsensusConfig, StopConfig

from .arms import PRESETS, Arm
from .blocks import to_markdown
from .error_data import ATTENTION, Example, examples, voted_examples
from .error_judge import (
    Judged,
    Predict,
    by_mix,
    by_score,
    fit_mix,
    judge,
    on_families_left_out,
    on_known_families,
)
from .store import Store, StoreError
from .tasks import Item, TaskError, find_tasks, read_tasks, short_digest

RESAMPLES: Final = 1000
HOLDS: Final = 0.7
"""the mean AUROC within families that a mix must reach on families left out of the fit half to be shipped"""
VOTED: Final = (3, 5)
"""the numbers of replies of the votes whose winners the vote's mix is fitted on"""
ANSWERED: Final = (*REPLY_FEATURES, *ANSWER_FEATURES)
GREEDY: Final = Arm("greedy", PRESETS["greedy"])
SAMPLING: Final = Arm("sampling", PRESETS["sampling"])


@dataclass(frozen=True, slots=True)
class Line:
    """A predictor of wrong answers with its figures; None where there was too little to judge it by."""

    name: str
    known: Judged | None
    """fitted on other contents of the same families"""
    left_out: Judged | None
    """fitted on the other families"""


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference of the mean AUROC within families between two predictors, with its interval."""

    name: str
    known: tuple[float, float, float]
    left_out: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Findings:
    """The fit of a model's error probability and its judgement."""

    fit: int
    """replies of the fit half"""
    judged: int
    on_test: bool
    """whether the judged replies are the test half's; else they are the fit half's, each left out of its fit"""
    wrong: float
    """share of wrong replies among the judged"""
    mixes: tuple[Line, ...]
    scores: tuple[Line, ...]
    attention: tuple[Difference, ...]
    transfer: tuple[Line, ...]
    """the shipped mixes on replies of other arms"""
    model: ErrorModel | None
    """what holds, for the profile"""
    dropped: tuple[str, ...]
    """mixes that did not hold on families left out of the fit half"""
