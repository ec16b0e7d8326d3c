"""Genuineness on the wire: the request's field, and the summary of a choice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from entropick_sampler.genuineness.counts import HeadCounts
from entropick_sampler.genuineness.quadrants import Quadrant
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.signals import SIGNAL_NAMES, STEP_SIGNALS
from entropick_server.engine.types import Request, Token
from entropick_server.genuineness import genuineness_summary

CHAT = "/v1/chat/completions"


def asked(genuineness: Any = "scores") -> Request:
    return Request("r", (1,), SamplingParams(), PolicyConfig(genuineness=genuineness), 0.0)


def token(score: float | None, seed: float | None = None, counts: HeadCounts | None = None) -> Token:
    figures = {"genuineness": score, "genuineness_seed": seed, "entropy_window_variance": 1.0}
    signals = tuple(figures.get(name) for name in SIGNAL_NAMES)
    return Token(65, -1.0, signals, None, None, counts=counts)


def test_a_choice_at_its_end() -> None:
    scores = [None, 0.4, 0.3, 0.2, 0.1, 0.0, 0.6]
    summary = genuineness_summary(asked(), [token(score) for score in scores])
    assert summary is not None
    told = summary.model_dump(exclude_unset=True)
    assert told == {
        "form": "normalised",
        "window": 64,
        "score": 0.6,
        "pull": {"start": pytest.approx(0.2), "end": pytest.approx(0.24), "delta": pytest.approx(0.04)},
    }
    short = genuineness_summary(asked(), [token(None)] * 3)
    assert short is not None
    assert short.model_dump(exclude_unset=True) == {"form": "normalised", "window": 64, "score": None}


def test_shares_of_the_heads() -> None:
    counts = HeadCounts(6, 2, 2, 3, 1, 0, 2)
    told = genuineness_summary(asked("seed"), [token(0.1, 0.9, counts)])
    assert told is not None
    assert (told.form, told.score) == ("seed", 0.9)
    assert told.regions == {"genuine": 0.6, "mechanical": 0.2, "transition": 0.2}
    assert told.quadrants == {
        "genuine_committed": 3 / 8,
        "genuine_diffuse": 1 / 8,
        "mechanical_committed": 0.0,
        "mechanical_diffuse": 2 / 8,
        "transition": 2 / 8,
    }
    assert list(told.quadrants) == [q.label for q in Quadrant]
    without_cost = genuineness_summary(asked(), [token(0.1, counts=HeadCounts(6, 2, 2, 0, 0, 0, 0))])
    assert without_cost is not None
    assert without_cost.regions == told.regions
    assert without_cost.quadrants is None


def test_nothing_is_said_where_nothing_was_measured() -> None:
    blind = replace(token(None), signals=(1.0,) * len(STEP_SIGNALS) + (None,) * 8)
    assert genuineness_summary(asked(), [blind] * 20) is None
    assert genuineness_summary(asked(), []) is None
    assert genuineness_summary(asked(False), [token(0.3)] * 20) is None


@pytest.mark.parametrize("given", [None, True, False, "scores", "seed"])
async def test_the_field_reaches_the_engine(client: httpx.AsyncClient, engine: Any, given: Any) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "seed": 1}
    block = {} if given is None else {"entropick": {"genuineness": given}}
    answer = (await client.post(CHAT, json={**body, **block})).json()
    wanted = "scores" if given is None else given
    assert engine.requests[-1].policy.genuineness == wanted
    summary = answer["choices"][0]["entropick"]["summary"]
    assert ("genuineness" in summary) == (wanted is not False)
    if wanted:
        assert summary["genuineness"]["form"] == ("seed" if given == "seed" else "normalised")
        assert "regions" not in summary["genuineness"]


async def test_layer_entropy_is_asked_for_and_refused(serve: Any, engine: Any) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "seed": 1}
    lens = {"every": 4, "layers": [0]}
    async with serve(engine) as client:
        info = engine.info

        async def ask(given: Any) -> httpx.Response:
            return await client.post(CHAT, json={**body, "entropick": {"layer_entropy": given}})

        answer = await ask(lens)
        assert answer.status_code == 400
        assert "this engine cannot measure it" in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"] == "entropick.layer_entropy"
        for bad, param in (
            ({"every": 0}, "entropick.layer_entropy.every"),
            ({"every": 1.5}, "entropick.layer_entropy.every"),
            ({"layers": 3}, "entropick.layer_entropy.layers"),
            ({"layers": [-1]}, "entropick.layer_entropy.layers"),
            ({"layer": [1]}, "entropick.layer_entropy.layer"),
            (True, "entropick.layer_entropy"),
        ):
            answer = await ask(bad)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert (await ask(False)).status_code == 200
        assert info.layer_entropy is False
