"""Calibrate a model through the engine that serves it: texts in, measured tokens, a profile out.

The texts are teacher-forced as ordinary requests, so what calibration measures is what serving measures.
The numbers are made by :mod:`entropick_sampler.calibrate`; this module only reads files and drives.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import json
import sys
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from entropick_sampler.calibrate import Measured, fit
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.profile import DEFAULT_CLARIFY_TEXT, PROFILE_FILE, Profile, ProfileError
from entropick_sampler.signals import SIGNALS

from .engine.base import Engine, EngineError, Tokenizer
from .engine.torch_engine import TorchEngine
from .engine.types import EngineOptions, Request, Token

MAX_LINE_BYTES: Final = 1 << 20
BUILT_IN_TOKENS: Final = 48
ENOUGH_TOKENS: Final = 600
"""built-in prompts are answered again with other seeds until so many tokens were measured"""
MAX_ROUNDS: Final = 12
BUILT_IN_PROMPTS: Final[tuple[str, ...]] = (
    "What is the capital of France?",
    "Tell me a story about a fox.",
    "Name a number between one and ten.",
    "What should I cook tonight?",
    "Explain how a bicycle stays upright.",
    "Write a short poem about the sea.",
    "What is 17 plus 25?",
    "Who wrote the play Hamlet?",
    "Give me three names for a cat.",
    "What color is it?",
    "Translate 'good morning' into Spanish.",
    "List the days of the week.",
    "Why is the sky blue?",
    "Which one is better?",
    "Continue the sequence 2, 4, 8, 16.",
    "Describe your favourite room.",
    "How do I sort a list in Python?",
    "What happened yesterday?",
    "Recommend a book.",
    "Summarise the water cycle in one sentence.",
    "Pick a random city.",
    "When does it start?",
    "What is the opposite of cold?",
    "Write a sentence with the word lantern.",
)


class CalibrationDataError(ValueError):
    """A calibration file that cannot be used; the message names the line."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One text: ``prompt`` is given, ``reply`` is measured token by token.

    An empty reply lets the model write ``BUILT_IN_TOKENS`` tokens of its own. ``ambiguous``: indices of
    reply tokens at which a clarifying question would be right.
    """

    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    ambiguous: frozenset[int] = frozenset()


def read_samples(path: Path, tokenizer: Tokenizer, eos: Sequence[int], limit: int) -> list[Sample]:
    """Read a JSON Lines file; each line has one of the shapes below, tokens capped at ``limit``.

    ``{"messages": [..., {"role": "assistant", "content": text}], "ambiguous_at": [character offsets]}``,
    ``{"prompt": text, "completion": text}`` or ``{"text": text}``. Raises CalibrationDataError.
    """
    samples = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationDataError(f"{path.name} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if len(line) > MAX_LINE_BYTES:
            raise CalibrationDataError(f"line {number}: longer than {MAX_LINE_BYTES} characters")
        try:
            sample = _sample(json.loads(line), tokenizer, eos)
        except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CalibrationDataError(f"line {number}: {error}") from error
        if not sample.prompt:
            raise CalibrationDataError(f"line {number}: the prompt has no tokens")
        if len(sample.prompt) < limit and sample.reply:
            room = limit - len(sample.prompt)
            samples.append(Sample(sample.prompt, sample.reply[:room], sample.ambiguous))
    if not samples:
        raise CalibrationDataError(f"{path.name} has no usable line")
    return samples


def _sample(row: dict[str, Any], tokenizer: Tokenizer, eos: Sequence[int]) -> Sample:
    if "messages" in row:
        *before, last = row["messages"]
        if last["role"] != "assistant":
            raise ValueError("the last message must be the assistant's")
        reply = tokenizer.encode(last["content"], add_special_tokens=False)
        ambiguous = token_indices(reply, last["content"], row.get("ambiguous_at", ()), tokenizer)
        prompt = tokenizer.apply_chat_template(before, add_generation_prompt=True)
        return Sample(tuple(prompt), (*reply, *eos[:1]), ambiguous)
    if "prompt" in row:
        prompt = tokenizer.encode(row["prompt"], add_special_tokens=True)
        return Sample(tuple(prompt), tuple(tokenizer.encode(row["completion"], add_special_tokens=False)))
    if "text" in row:
        ids = tokenizer.encode(row["text"], add_special_tokens=True)
        return Sample(tuple(ids[:1]), tuple(ids[1:]))
    raise ValueError("expected one of the keys messages, prompt (with completion), text")


def token_indices(
    ids: Sequence[int], text: str, offsets: Iterable[int], tokenizer: Tokenizer
) -> frozenset[int]:
    """Index of the token that begins at each character offset (the next one where it falls inside one)."""
    pieces = [tokenizer.token_bytes(token) or b"" for token in ids]
    # some tokenizers put a space before a text
    starts, at = [], len(text.encode()) - len(b"".join(pieces))
    for piece in pieces:
        starts.append(at)
        at += len(piece)
    wanted = [len(text[:offset].encode()) for offset in offsets]
    found = (next((i for i, start in enumerate(starts) if start >= w), None) for w in wanted)
    return frozenset(i for i in found if i is not None)


def built_in_samples(tokenizer: Tokenizer) -> list[Sample]:
    """Prompts for a model that has no profile and no data: it writes the texts itself."""
    samples = []
    for text in BUILT_IN_PROMPTS:
        try:
            ids = tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True
            )
        except ValueError:  # a base model without a chat template
            ids = tokenizer.encode(text, add_special_tokens=True)
        samples.append(Sample(tuple(ids), ()))
    return samples


async def measure(
    engine: Engine, samples: Sequence[Sample], concurrency: int, first_seed: int = 0
) -> list[list[Token]]:
    """Run every sample through the engine, at most ``concurrency`` at a time; the tokens of each.

    A sample without a reply is answered by the model, up to the end of its answer. Raises EngineError.
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
            forced_token_ids=sample.reply,
        )
        tokens: list[Token] = []
        async with gate, contextlib.aclosing(_outputs(engine, request)) as outputs:
            async for emitted in outputs:
                tokens.extend(emitted)
        done += 1
        _progress(done, len(samples))
        return tokens

    return list(await asyncio.gather(*(one(i, s) for i, s in enumerate(samples))))


async def _outputs(engine: Engine, request: Request) -> AsyncGenerator[tuple[Token, ...]]:
    async for output in engine.generate(request):
        if output.error is not None:
            raise EngineError(f"calibration stopped: {output.error}")
        yield output.tokens


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\rcalibrating {done}/{total}" + ("\n" if done == total else ""))
        sys.stderr.flush()


def collect(samples: Sequence[Sample], measured: Sequence[Sequence[Token]]) -> Measured:
    """The table that ``fit`` wants: one row a measured token."""
    columns = [i for i, signal in enumerate(SIGNALS) if signal.known_before_draw]
    rows = [[token.signals[i] for i in columns] for tokens in measured for token in tokens]
    ambiguous = [
        i in sample.ambiguous
        for sample, tokens in zip(samples, measured, strict=True)
        for i in range(len(tokens))
    ]
    return Measured(
        torch.tensor([[0.0 if x is None else x for x in row] for row in rows], dtype=torch.float64),
        torch.tensor([[x is not None for x in row] for row in rows]),
        torch.tensor(ambiguous),
    )


async def calibrate_engine(
    engine: Engine,
    model_hash: str,
    data: Path | None = None,
    clarify_text: str = DEFAULT_CLARIFY_TEXT,
    concurrency: int = 16,
) -> Profile:
    """A profile for the model that ``engine`` serves, from a file or from the built-in prompts.

    Raises CalibrationDataError for a bad file, ValueError for too little data.
    """
    info = engine.info
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
        samples = read_samples(data, engine.tokenizer, info.eos_token_ids, info.max_model_len)
        data_hash = hashlib.sha256(data.read_bytes()).hexdigest()
        measured = await measure(engine, samples, concurrency)
    return fit(
        collect(samples, measured),
        model_hash=model_hash,
        data_hash=data_hash,
        layers=info.monitored_layers,
        date=datetime.date.today().isoformat(),
        clarify_text=clarify_text,
    )


async def calibrate_first(engine: TorchEngine) -> Profile:
    """What an engine does at first start of a model without a profile: the built-in prompts."""
    return await calibrate_engine(engine, engine.model_hash)


def calibrate_model(
    model: str, data: Path, output: Path | None, options: EngineOptions, clarify_text: str | None = None
) -> Path:
    """Load a model, calibrate it on a file, write the profile; returns its path.

    ``output`` defaults to the profile file beside the weights of a local model; ``clarify_text`` to that of
    the profile in force. Raises ModelLoadError, CalibrationDataError, ValueError.
    """
    return asyncio.run(_calibrate_file(model, data, output, options, clarify_text))


async def _calibrate_file(
    model: str, data: Path, output: Path | None, options: EngineOptions, clarify_text: str | None
) -> Path:
    path = output or Path(model) / PROFILE_FILE
    # an old profile may be one that no engine would take: of it only the text is kept
    engine = TorchEngine(replace(options, model=model, calibrate=False, use_profile=False))
    await engine.start()
    try:
        text = clarify_text or _known_text(Path(model) / PROFILE_FILE)
        profile = await calibrate_engine(engine, engine.model_hash, data, text, options.max_num_seqs)
    finally:
        await engine.close()
    profile.save(path)
    return path


def _known_text(path: Path) -> str:
    if not path.is_file():
        return DEFAULT_CLARIFY_TEXT
    try:
        return Profile.load(path).clarify_text
    except ProfileError:
        return DEFAULT_CLARIFY_TEXT
