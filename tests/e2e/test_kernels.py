"""A served request tells the same whichever implementation of the kernels served it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from entropick_sampler.signals import STEP_SIGNALS

if sys.platform != "linux":  # where `.[dev]` brings Triton its absence is a failure
    pytest.importorskip("triton")

QUESTIONS = ("What is the capital of Arlen?", "Tell me about the harbor.", "Pick a number.")
REQUESTS = [
    {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 5,
        "seed": seed,
        "temperature": temperature,
        "logprobs": True,
        "top_logprobs": 2,
        "entropick": {"policy": policy, "preset": preset, "telemetry": "full"},
    }
    for seed, (question, policy, preset, temperature) in enumerate(
        [
            (QUESTIONS[0], "entropix", "calibrated", None),
            (QUESTIONS[1], "entropix", "seed", None),
            (QUESTIONS[2], "fixed", "seed", 1.0),
        ]
    )
]


def answers(url: str) -> list[dict[str, Any]]:
    with httpx.Client(base_url=url, timeout=120) as client:
        done = [client.post("/v1/chat/completions", json=body) for body in REQUESTS]
    assert [r.status_code for r in done] == [200] * len(done), [r.text for r in done]
    return [r.json()["choices"][0] for r in done]


def numbers(value: Any, path: str = "") -> dict[str, float]:
    """Every number of a JSON value by its path."""
    if isinstance(value, dict):
        return {k: v for name, item in value.items() for k, v in numbers(item, f"{path}.{name}").items()}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in numbers(item, f"{path}.{i}").items()}
    return {path: value} if isinstance(value, int | float) and not isinstance(value, bool) else {}


def test_torch_and_triton_give_the_same_telemetry(
    run_server: Callable[..., tuple[str, Callable[[], int]]],
) -> None:
    """Triton in its interpreter: attention, logits statistics, random numbers and draws are its kernels."""
    torch_url, _ = run_server("--kernels", "torch")
    triton_url, _ = run_server("--kernels", "triton", TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    for expected, got in zip(answers(torch_url), answers(triton_url), strict=True):
        assert got["message"]["content"] == expected["message"]["content"]
        rows = got["entropick"]["tokens"]
        assert rows
        assert all(set(row["signals"]) >= {s.name for s in STEP_SIGNALS} for row in rows)
        ours, theirs = numbers(got), numbers(expected)
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)


def test_triton_without_a_gpu_is_a_clear_error(
    run_server: Callable[..., tuple[str, Callable[[], int]]],
) -> None:
    with pytest.raises(RuntimeError, match="the Triton kernels need triton and CUDA tensors"):
        run_server("--kernels", "triton", "--device", "cpu")
