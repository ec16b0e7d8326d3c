"""Runs texts through an engine and fits a profile to the measured tokens."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from entropick_sampler.calibrate import MeasuredTokens, fit
from entropick_sampler.calibrate_opening import MeasuredOpenings, with_opening
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.profile import DEFAULT_CLARIFY_TEXT, Profile, ProfileError
from entropick_sampler.signals import SIGNALS

from ..engine.base import Engine, EngineError
from ..engine.profiles import calibrated_path, default_cache
from ..engine.types import Request, Token
from .cuts import measure_cuts, replies_of
from .samples import BUILT_IN_PROMPTS, BUILT_IN_TOKENS, Sample, built_in_samples, read_samples

ENOUGH_TOKENS: Final = 600
"""built-in prompts are answered again with other seeds until so many tokens were measured"""
MAX_ROUNDS: Final = 12
ANSWERED: Final = 100
"""labelled prompts of kind ``other`` that the model answers, about: their replies count for the quantiles"""
IN_FLIGHT: Final = 16
"""requests that calibration has in an engine at the same time, where the caller names no other number"""


async def measure(
    engine: Engine, samples: Sequence[Sample], concurrency: int, first_seed: int = 0
) -> list[list[Token]]:
    """Runs every sample through the engine and returns the tokens of each.

    At most ``concurrency`` requests are in the engine at the same time; the caller must not ask for more than
    the engine runs at once. A sample without a reply is answered by the model, up to the end of its answer.
    Raises EngineError.
    """
    gate = asyncio.Semaphore(concurrency)
    done = 0

    async def one(number: int, sample: Sample) -> list[Token]:
        nonlocal done
        sampling = SamplingParams(
            temperature=1.0,
            seed=first_seed + number,
            max_tokens=len(sample.reply) or BUILT_IN_TOKENS,
            stop_token_ids=() if sample.reply else engine.info.eos_token_ids,
        )
        request = Request(
            request_id=f"calibration-{first_seed + number}",
            prompt_token_ids=sample.prompt,
            sampling=sampling,
            policy=PolicyConfig(policy="fixed"),
            arrival=time.monotonic(),
            replayed_token_ids=sample.reply,
        )
        async with gate:
            tokens = await _tokens(engine, request)
        done += 1
        _progress(done, len(samples))
        return tokens

    return list(await asyncio.gather(*(one(i, s) for i, s in enumerate(samples))))


async def measure_openings(engine: Engine, samples: Sequence[Sample], concurrency: int) -> MeasuredOpenings:
    """Measures the whole first-token distribution of each labelled prompt; raises EngineError."""
    gate = asyncio.Semaphore(concurrency)
    vocabulary = engine.info.vocab_size
    logprobs = np.full((len(samples), vocabulary), -np.inf, dtype=np.float32)
    done = 0

    async def one(number: int, prompt: tuple[int, ...]) -> None:
        nonlocal done
        sampling = SamplingParams(temperature=0.0, max_tokens=1, logprobs=vocabulary)
        request = Request(
            request_id=f"opening-{number}",
            prompt_token_ids=prompt,
            sampling=sampling,
            policy=PolicyConfig(policy="fixed"),
            arrival=time.monotonic(),
        )
        async with gate:
            (token,) = await _tokens(engine, request)
        ids, values = zip(*token.top_logprobs, strict=True)
        logprobs[number, np.array(ids)] = values
        done += 1
        _progress(done, len(samples))

    await asyncio.gather(*(one(i, sample.prompt) for i, sample in enumerate(samples)))
    return MeasuredOpenings(
        logprobs,
        tuple(sample.kind for sample in samples if sample.kind is not None),
        tuple(sample.group for sample in samples),
    )


async def _tokens(engine: Engine, request: Request) -> list[Token]:
    """Returns all tokens of a request; raises EngineError."""
    tokens: list[Token] = []
    async for output in engine.generate(request):
        if output.error is not None:
            raise EngineError(f"calibration stopped: {output.error}")
        tokens.extend(output.tokens)
    return tokens


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\rcalibrating {done}/{total}" + ("\n" if done == total else ""))
        sys.stderr.flush()


def ordinary(samples: Sequence[Sample]) -> list[Sample]:
    """Returns the samples of ordinary use, whose replies count for the quantiles.

    Questions that lack a piece are none.
    """
    answered = [sample for sample in samples if sample.kind == "other"]
    given = [sample for sample in samples if sample.kind is None]
    return given + answered[:: max(1, len(answered) // ANSWERED)]


def collect(samples: Sequence[Sample], measured: Sequence[Sequence[Token]]) -> MeasuredTokens:
    """Builds the table that ``fit`` reads, with a row for each measured token."""
    columns = [i for i, signal in enumerate(SIGNALS) if signal.known_before_draw]
    rows = [[token.signals[i] for i in columns] for tokens in measured for token in tokens]
    ambiguous = [
        i in sample.ambiguous
        for sample, tokens in zip(samples, measured, strict=True)
        for i in range(len(tokens))
    ]
    return MeasuredTokens(
        torch.tensor([[0.0 if x is None else x for x in row] for row in rows], dtype=torch.float64),
        torch.tensor([[x is not None for x in row] for row in rows]),
        torch.tensor(ambiguous),
    )


async def calibrate_engine(
    engine: Engine,
    data: Path | None = None,
    clarify_text: str = DEFAULT_CLARIFY_TEXT,
    concurrency: int = IN_FLIGHT,
) -> Profile:
    """Makes a profile for the model that ``engine`` serves, from a file or from the built-in prompts.

    Raises CalibrationDataError for a bad file, ValueError for too little data.
    """
    info = engine.info
    openings: MeasuredOpenings | None = None
    if data is None:
        prompts = built_in_samples(engine.tokenizer)
        data_hash = hashlib.sha256("\n".join(BUILT_IN_PROMPTS).encode()).hexdigest()
        samples, measured = [], []
        for round_ in range(MAX_ROUNDS):
            measured += await measure(engine, prompts, concurrency, round_ * len(prompts))
            samples += prompts
            if sum(map(len, measured)) >= ENOUGH_TOKENS:
                break
    else:
        read = read_samples(data, engine.tokenizer, info.eos_token_ids, info.max_model_len)
        data_hash = hashlib.sha256(data.read_bytes()).hexdigest()
        labelled = [sample for sample in read if sample.kind is not None]
        samples = ordinary(read)
        measured = await measure(engine, samples, concurrency)
        if labelled:
            openings = await measure_openings(engine, labelled, concurrency)
    profile = fit(
        collect(samples, measured),
        model_hash=engine.model_hash,
        data_hash=data_hash,
        layers=info.monitored_layers,
        date=datetime.date.today().isoformat(),
        clarify_text=clarify_text,
    )
    cuts = await measure_cuts(engine, replies_of(samples, measured), concurrency)
    profile = replace(profile, genuineness=cuts)
    return profile if openings is None else with_opening(profile, openings)


async def calibrate_first(engine: Engine, concurrency: int = IN_FLIGHT) -> Profile:
    """Makes a profile from the built-in prompts, at the first start of a model without a profile."""
    return await calibrate_engine(engine, concurrency=concurrency)


def calibrate_model(
    engine: Engine,
    data: Path,
    output: Path | None = None,
    clarify_text: str | None = None,
    concurrency: int = IN_FLIGHT,
    cache: Path | None = None,
) -> tuple[Path, Profile]:
    """Starts an engine, calibrates its model on a file, writes the profile and closes the engine.

    The caller must build the engine with ``calibrate=False, use_profile=False``, because an engine may refuse
    the old profile. ``output`` defaults to the place where serving looks (``cache``: the user's folder of
    profiles), ``clarify_text`` to that of the profile which lies there.

    Returns the path that was written, and the profile. Raises ModelLoadError, EngineError,
    CalibrationDataError, ValueError, OSError.
    """
    return asyncio.run(_calibrate_file(engine, data, output, clarify_text, concurrency, cache))


async def _calibrate_file(
    engine: Engine,
    data: Path,
    output: Path | None,
    clarify_text: str | None,
    concurrency: int,
    cache: Path | None,
) -> tuple[Path, Profile]:
    await engine.start()
    try:
        info = engine.info
        home = calibrated_path(
            info.source, cache or default_cache(), engine.model_hash, info.monitored_layers
        )
        profile = await calibrate_engine(engine, data, clarify_text or _known_text(home), concurrency)
    finally:
        await engine.close()
    path = output or home
    profile.save(path)
    return path, profile


def _known_text(path: Path) -> str:
    """Returns the clarifying text of the profile that is there already, else the default."""
    if not path.is_file():
        return DEFAULT_CLARIFY_TEXT
    try:
        return Profile.load(path).clarify_text
    except ProfileError:
        return DEFAULT_CLARIFY_TEXT
