"""The recipe of error_probability: known coefficients come back, and stored rows give the server's number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entropick_eval.arms import Arm
from entropick_eval.error_data import features_of
from entropick_eval.replies import read_reply
from entropick_eval.runner import Job, to_result
from entropick_sampler.error_probability import (
    ANSWER_FEATURES,
    REPLY_FEATURES,
    ErrorModel,
    Mix,
    RunningFigures,
    Weight,
)
from entropick_server.answers import last_number
from entropick_server.consensus.weights import Figures
from entropick_server.error_estimate import estimate

from .support import item

NAMES = (*REPLY_FEATURES, *ANSWER_FEATURES)
MODEL = ErrorModel(
    "d", 1, 40, answer=Mix(0.2, {name: Weight(0.01 * (3 + n), -1e9, 1e9) for n, name in enumerate(NAMES)})
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    tokens=st.lists(
        st.tuples(st.sampled_from(["4", "2", " ", ".", "é", "北", "so"]), st.floats(0, 20), st.floats(0, 15)),
        min_size=1,
        max_size=20,
    ),
    cut=st.booleans(),
)
def test_stored_rows_give_the_servers_number(tokens: list[tuple[str, float, float]], cut: bool) -> None:
    """What the recipe reads from a stored reply, rounded as it is stored, is what the server told."""
    text = "".join(part for part, _, _ in tokens)
    rows = [
        {"token": part, "signals": {"surprisal": s, "logits_entropy": h, "repeated_suffix": at % 3}}
        for at, (part, s, h) in enumerate(tokens)
    ]
    answer = {
        "choices": [
            {
                "message": {"content": text},
                "finish_reason": "length" if cut else "stop",
                "entropick": {"tokens": rows},
            }
        ],
        "usage": {"completion_tokens": len(tokens)},
    }
    asked = item(1, 42)
    stored = to_result(Job(Arm("greedy", {"temperature": 0.0}), asked, 0), read_reply(answer), "c", 0, "all")
    features = features_of(stored, asked.check)
    assert features is not None
    running, figures, at = RunningFigures(), [], 0
    for number, (part, s, h) in enumerate(tokens):
        running.add(s, h, number % 3)
        figures.append(Figures(-s * math.log(2.0), h, at))
        at += len(part)
    served = estimate(MODEL, running, cut, text, figures, last_number)
    assert served is not None
    recipe = MODEL.probability(features, len(tokens))
    assert recipe == pytest.approx(served, abs=1e-3)
