"""The guide's candidate score against the known answers (group 07)."""

import json
from pathlib import Path

import pytest
import torch

from entropick_sampler.score import host_confidence, score_candidates, seed_confidence
from entropick_sampler.signals import POLICY_SIGNALS, SIGNAL_NAMES
from entropick_sampler.stats import StepStats

GROUP = json.loads((Path(__file__).parents[1] / "golden" / "cases.json").read_text())["07_score_sample"]


def stats() -> StepStats:
    m = GROUP["metrics"]
    known = {
        "logits_entropy": m["logits_entropy"],
        "logits_varentropy": m["logits_varentropy"],
        "attention_entropy": m["attn_entropy"],
        "attention_varentropy": m["attn_varentropy"],
        "agreement_seed": m["agreement"],
        "interaction_strength": m["interaction_strength"],
    }
    values = torch.tensor([[known.get(s.name, 0.0) for s in POLICY_SIGNALS]], dtype=torch.float64)
    return StepStats(values, torch.ones_like(values, dtype=torch.bool))


def test_confidence() -> None:
    assert float(seed_confidence(stats())) == pytest.approx(GROUP["confidence"], abs=1e-12)


def test_confidence_on_the_host() -> None:
    values = dict(zip((s.name for s in POLICY_SIGNALS), stats().values[0].tolist(), strict=True))
    signals = [values.get(name) for name in SIGNAL_NAMES]
    assert host_confidence(signals) == pytest.approx(GROUP["confidence"], abs=1e-12)
    assert host_confidence([None] * len(signals)) == 1.0


def test_scores_and_their_order() -> None:
    logprobs = torch.log_softmax(torch.tensor([GROUP["logits"]], dtype=torch.float64), -1)
    scores = score_candidates(logprobs, stats())
    for candidate in GROUP["candidates"]:
        token = candidate["token"]
        assert float(logprobs[0, token]) == pytest.approx(candidate["logprob_nats"], abs=1e-9)
        assert float(scores[0, token]) == pytest.approx(candidate["score"], abs=1e-9)
    assert int(scores.argmax()) == int(logprobs.argmax())
