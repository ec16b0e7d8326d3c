"""Fits the cut points of genuineness: replies of the calibration are given to the model again and measured.

A head of a reply gives a point (token cost, G) at every full window of the reply and at its end: the same
points that ``entropick_head_quadrant_total`` counts later. Most replies are shorter than a window, and their
windows hold what they have; so the cut points belong to replies of such lengths.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import numpy as np

from entropick_sampler.genuineness.quadrants import Cuts, calibrated_cuts, counted
from entropick_sampler.genuineness.reference import LEAST, WINDOW, elaboration_pull
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.signals import SIGNAL_NAMES

from ..engine.base import Engine, EngineError
from ..engine.types import Request, Token
from .samples import Sample

MOST_TOKENS: Final = 4096
"""tokens of all replies together, at most"""
_SCORE: Final = SIGNAL_NAMES.index("genuineness")


def replies_of(samples: Sequence[Sample], measured: Sequence[Sequence[Token]]) -> list[Sample]:
    """Returns the replies to measure, given or the model's own, taken from all over the samples.

    A reply whose window would hold too few values is left out; all have at most MOST_TOKENS together.
    """
    long_enough = [
        Sample(sample.prompt, tuple(token.token_id for token in tokens))
        for sample, tokens in zip(samples, measured, strict=True)
        if len(tokens) >= LEAST
    ]
    total = sum(len(sample.reply) for sample in long_enough)
    return long_enough[:: max(1, -(-total // MOST_TOKENS))]


async def measure_cuts(engine: Engine, replies: Sequence[Sample], concurrency: int) -> Cuts | None:
    """Measures the cut points over replies, at most ``concurrency`` at a time.

    Returns None where the engine knows no token cost, G is constant, or there is no reply.
    Raises EngineError.
    """
    if not replies or not _told(await _replay(engine, 0, replies[0])):
        return None
    gate = asyncio.Semaphore(concurrency)

    async def one(number: int, reply: Sample) -> list[Token]:
        async with gate:
            return await _replay(engine, number, reply)

    replayed = await asyncio.gather(*(one(i, reply) for i, reply in enumerate(replies, start=1)))
    scores, costs, falls = [], [], []
    for tokens in replayed:
        for token in counted(tokens):
            if (detail := token.detail) is not None:
                scores.append(np.array(detail.genuineness, np.float64).ravel())
                costs.append(np.array(detail.token_cost, np.float64).ravel())
        pull = elaboration_pull([x for token in tokens if (x := token.signals[_SCORE]) is not None])
        if pull is not None:
            falls.append(pull.delta)
    return calibrated_cuts(np.concatenate(scores), np.concatenate(costs), WINDOW, falls=falls)


def _told(tokens: Sequence[Token]) -> bool:
    """Tells whether an engine knows G and token cost by head."""
    detail = tokens[-1].detail
    return detail is not None and detail.genuineness is not None and detail.token_cost is not None


async def _replay(engine: Engine, number: int, sample: Sample) -> list[Token]:
    """Gives a reply to the model and returns the measured tokens."""
    request = Request(
        request_id=f"genuineness-{number}",
        prompt_token_ids=sample.prompt,
        sampling=SamplingParams(temperature=1.0, seed=number, max_tokens=len(sample.reply)),
        policy=PolicyConfig(policy="fixed", telemetry="full", genuineness=True),
        arrival=time.monotonic(),
        replayed_token_ids=sample.reply,
    )
    tokens: list[Token] = []
    async for output in engine.generate(request):
        if output.error is not None:
            raise EngineError(f"calibration stopped: {output.error}")
        tokens.extend(output.tokens)
    return tokens
