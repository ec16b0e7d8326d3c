"""The recipe of error_probability: known coefficients come back, and stored rows give the server's number."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entropick_eval.arms import Arm
from entropick_eval.blocks import to_markdown
from entropick_eval.error_blocks import error_probability_blocks
from entropick_eval.error_data import features_of
from entropick_eval.error_findings import GREEDY, SAMPLING, Findings, find
from entropick_eval.error_judge import perfect_ece
from entropick_eval.error_probability import main, open_store
from entropick_eval.logistic import fit_logistic
from entropick_eval.prediction import ece
from entropick_eval.replies import read_reply
from entropick_eval.runner import Job, to_result
from entropick_eval.store import Result, Store
from entropick_eval.tasks import Item, parse_item
from entropick_sampler.error_probability import (
    ANSWER_FEATURES,
    REPLY_FEATURES,
    ErrorModel,
    Mix,
    RunningFigures,
    Weight,
)
from entropick_sampler.profile import THRESHOLDS, Profile
from entropick_sampler.signals import ATTENTION_SIGNALS, POLICY_SIGNALS
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
    rows = [{"token": part, "signals": {"surprisal": s, "logits_entropy": h}} for part, s, h in tokens]
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
    stored = to_result(
        Job(Arm("greedy", {"temperature": 0.0}), asked, 0), read_reply(answer), "c", 0, "scores"
    )
    features = features_of(stored, asked.check)
    assert features is not None
    running, figures, at = RunningFigures(), [], 0
    for part, s, h in tokens:
        running.add(s, h)
        figures.append(Figures(-s * math.log(2.0), h, at))
        at += len(part)
    served = estimate(MODEL, running, cut, text, figures, last_number)
    assert served is not None
    recipe = MODEL.probability(features, len(tokens))
    assert recipe == pytest.approx(served, abs=5e-3)  # stored figures are hundredths of a bit


def test_the_fit_recovers_known_coefficients() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal([0, 5, -2], [1, 10, 0.1], (60_000, 3))
    true, bias = np.array([1.5, -0.2, 8.0]), 14.0
    y = (rng.random(len(x)) < 1 / (1 + np.exp(-(x @ true + bias)))).astype(float)
    found = fit_logistic(x, y, penalty=0.0)
    assert found.weights == pytest.approx(true, rel=0.05)
    assert found.bias == pytest.approx(bias, rel=0.05)
    # at the optimum the mean prediction is the share that happened
    assert found.probabilities(x).mean() == pytest.approx(y.mean(), abs=1e-9)
    assert ece(found.probabilities(x), y) < 0.01


def test_the_fit_is_at_its_optimum_and_does_not_see_units() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 2))
    y = (rng.random(300) < 1 / (1 + np.exp(-2 * x[:, 0]))).astype(float)
    found = fit_logistic(x, y, penalty=5.0)
    spread = x.std(0)

    def loss(weights: Any, bias: float) -> float:
        logits = x @ weights + bias
        logs = np.logaddexp(0, logits) - y * logits
        return float(logs.sum() + 2.5 * ((weights * spread) ** 2).sum())

    best = loss(found.weights, found.bias)
    for step in (1e-3, -1e-3):
        assert loss(found.weights + np.array([step, 0]), found.bias) > best
        assert loss(found.weights + np.array([0, step]), found.bias) > best
        assert loss(found.weights, found.bias + step) > best
    scaled = fit_logistic(x * [100, 0.01] + [7, 3], y, penalty=5.0)
    assert scaled.weights * [100, 0.01] == pytest.approx(found.weights, rel=1e-6)


def test_a_fit_of_what_cannot_be_fitted() -> None:
    x = np.column_stack([np.arange(20.0), np.full(20, 3.0)])
    found = fit_logistic(x, (np.arange(20) >= 10).astype(float), penalty=1.0)
    assert found.weights[0] > 0  # a perfect split has an optimum by the penalty
    assert found.weights[1] == 0.0
    assert np.isfinite(found.bias)
    for bad in (np.zeros((0, 2)), np.full((20, 2), np.nan), np.zeros(20)):
        with pytest.raises(ValueError, match=r"feature"):
            fit_logistic(bad, np.zeros(len(bad)), penalty=1.0)


FAMILIES = ("sums", "words", "capitals", "colours")


def text_of(surprisal: float, wrong: bool, answered: bool) -> str:
    return "I do not know." if not answered else f"It is {77 if wrong else 42}."


def stored(item_id: str, rng: np.random.Generator, attention: bool = True) -> Result:
    """A made-up reply: the less likely its answer's token, the more often it is wrong."""
    doubt = float(rng.exponential(2.0))
    wrong = bool(rng.random() < 1 / (1 + math.exp(2.0 - doubt)))
    answered = bool(rng.random() < 0.9)
    text = text_of(doubt, wrong, answered)
    offsets = (0, 2, 5, len(text) - 1)
    signals: dict[str, tuple[float | None, ...]] = {
        "surprisal": (0.5, 0.1, round(doubt, 4), 0.2),
        "logits_entropy": (1.0, float(rng.random()), 1.0, 0.5),
        "offset": offsets,
    }
    if attention:
        signals |= {s.name: tuple(float(v) for v in rng.random(4)) for s in ATTENTION_SIGNALS}
    return Result(
        item=item_id, digest="", sample=0, code="c", text=text, finish="stop", tokens=4, spent=4,
        correct=None, latency=0.0, features={}, signals=signals,
    )  # fmt: skip


def made_store(folder: Path, n: int = 150, samples: int = 4, test: bool = True) -> list[Item]:
    """Writes made-up results of both arms to a folder and returns their items."""
    rng = np.random.default_rng(3)
    items = []
    results = Store(folder, "model")
    for family in FAMILIES:
        for number in range(n):
            split = "test" if test and number % 2 else "fit"
            one = parse_item(
                {"id": f"{family}/{number}/n", "family": family, "split": split, "prompt": "q", "answer": 42},
                "s",
            )
            items.append(one)
            results.add(GREEDY, replace(stored(one.id, rng), digest=one.digest))
            for sample in range(samples):
                drawn = replace(stored(one.id, rng), digest=one.digest, sample=sample)
                results.add(SAMPLING, drawn)
    results.fold()
    return items


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Findings]:
    folder = tmp_path_factory.mktemp("results")
    items = made_store(folder)
    found = find(items, open_store(folder), resamples=20)
    assert found is not None
    return folder, found


def test_what_the_recipe_finds(made: tuple[Path, Findings]) -> None:
    _, found = made
    assert (found.fit, found.judged, found.on_test) == (300, 300, True)
    lines = {line.name: line for line in found.mixes}
    answer = lines["reply and answer"]
    assert answer.known is not None
    assert answer.left_out is not None
    # no predictor can do better than the drawn probabilities: about .82 here
    assert 0.7 < answer.known.within[0] < 0.9
    assert answer.known.within[1] <= answer.known.within[0] <= answer.known.within[2]
    assert answer.known.brier < answer.known.base
    assert answer.known.ece < 0.1
    assert set(answer.known.families) == set(FAMILIES)
    noise = lines["attention signals alone"].known
    assert noise is not None
    assert abs(noise.pooled[0] - 0.5) < 0.1
    gain = found.attention[0]
    assert gain.known[0] < 0.02
    assert {line.name for line in found.scores} >= {"perplexity", "largest entropy", "agreement, mean"}
    assert "winner of a vote of 3 or 5" in lines
    assert "reply, answer and 4 samples" in lines
    assert [line.name for line in found.transfer][-1] == "reply and answer, on `min_p_02`"
    model = found.model
    assert model is not None
    assert model.answer is not None
    assert model.answer.weights["answer_sum"].weight < 0
    assert model.longest == 4


def test_coefficients_come_from_the_fit_half_alone(made: tuple[Path, Findings], tmp_path: Path) -> None:
    _, found = made
    items = made_store(tmp_path)
    results = Store(tmp_path, "model")
    results.load([GREEDY, SAMPLING])
    for one in items:
        if one.split == "test":
            old = results.get(GREEDY, one, 0, None)
            assert old is not None
            results.add(GREEDY, replace(old, text="It is 3.", finish="length"))
    other = find(items, results, resamples=2)
    results.close()
    assert other is not None
    assert other.model == found.model
    assert other.wrong != found.wrong


def test_a_mix_that_does_not_hold_is_not_shipped(tmp_path: Path) -> None:
    """Here right and wrong are coins, so nothing holds."""
    items = made_store(tmp_path, n=60, samples=0, test=False)
    results = Store(tmp_path, "model")
    results.load([GREEDY, SAMPLING])
    rng = np.random.default_rng(4)
    for one in items:
        old = results.get(GREEDY, one, 0, None)
        assert old is not None
        results.add(GREEDY, replace(old, text=f"It is {rng.choice([77, 42])}."))
    found = find(items, results, resamples=2)
    results.close()
    assert found is not None
    assert not found.on_test
    assert (found.model, found.dropped) == (None, ("reply", "answer"))
    shown = to_markdown("t", error_probability_blocks(found))
    assert shown.count("is not shipped") == 2
    assert "MISSED: mean AUROC within known families" in shown
    assert "NOT measured: pooled AUROC of *reply, answer and 4 samples*" in shown


def test_the_command_writes_the_profile_twice_the_same(
    made: tuple[Path, Findings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, found = made
    tasks = tmp_path / "tasks.jsonl"
    lines = [
        {
            "id": f"{family}/{n}/n",
            "family": family,
            "split": ("fit", "test")[n % 2],
            "prompt": "q",
            "answer": 42,
        }
        for family in FAMILIES
        for n in range(150)
    ]
    tasks.write_text("\n".join(map(json.dumps, lines)))
    profile = tmp_path / "p.toml"
    names = {s.name: (0.0,) * 9 for s in POLICY_SIGNALS}
    Profile("m", "d", (0,), "2026-01-01", 1, names, dict.fromkeys(THRESHOLDS, 0.5)).save(profile)
    before = Profile.load(profile)
    line = ["--results", str(folder), "--tasks", str(tasks), "--profile", str(profile), "--resamples", "2"]
    assert main(line) == 0
    written = profile.read_bytes()
    assert Profile.load(profile) == replace(before, error=found.model)
    assert "reached: pooled AUROC" in capsys.readouterr().out
    assert main(line) == 0
    assert profile.read_bytes() == written
    assert main(["--results", str(tmp_path / "none"), "--tasks", str(tasks)]) == 1
    assert "name one of its folders" in capsys.readouterr().err
    assert profile.read_bytes() == written


def test_chance_makes_an_error_of_calibration() -> None:
    even = np.full(150, 0.5)
    # 15 bins of 10 coins: the mean distance of a bin from one half is .123, but equal probabilities share
    # what happened to all of them
    assert perfect_ece(even) == pytest.approx(0.033, abs=0.01)
    spread = np.linspace(0.01, 0.99, 3000)
    assert 0.01 < perfect_ece(spread) < 0.04
