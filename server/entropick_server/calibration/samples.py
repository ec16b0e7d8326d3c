"""The texts of a calibration, from a file or from the built-in prompts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from entropick_sampler.calibrate_opening import KINDS, Kind

from ..chat_template import ChatTemplate, ChatTemplateError
from ..engine.base import Tokenizer

MAX_LINE_BYTES: Final = 1 << 20
BUILT_IN_TOKENS: Final = 48
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
    """An error in a calibration file; the message names the line."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A text of which ``prompt`` is given and ``reply`` is measured token by token.

    An empty reply lets the model write ``BUILT_IN_TOKENS`` tokens of its own. ``ambiguous``: indices of
    reply tokens at which a clarifying question would be right. ``kind``: the kind of a labelled prompt, whose
    first token's distribution is measured; ``group``: the group that it is left out with.
    """

    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    ambiguous: frozenset[int] = frozenset()
    kind: Kind | None = None
    group: str = ""


def read_samples(path: Path, tokenizer: Tokenizer, eos: Sequence[int], limit: int) -> list[Sample]:
    """Reads the samples of a JSON Lines file and cuts each at ``limit`` tokens.

    A line has one of these shapes:

    ``{"messages": [..., {"role": "assistant", "content": text}], "ambiguous_at": [character offsets]}``,
    ``{"prompt": text, "completion": text}`` or ``{"text": text}``. A labelled prompt has a ``kind`` and no
    reply: ``{"messages": [..., {"role": "user", "content": text}], "kind": kind, "template": name}``, or
    ``prompt`` without ``completion``; of its template's name the part before a slash is the group. Raises
    CalibrationDataError.
    """
    samples = []
    template = ChatTemplate(tokenizer)
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
            sample = read_sample(json.loads(line), tokenizer, template, eos)
        except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CalibrationDataError(f"line {number}: {error}") from error
        if not sample.prompt:
            raise CalibrationDataError(f"line {number}: the prompt has no tokens")
        if len(sample.prompt) < limit and sample.kind is not None:
            samples.append(sample)
        elif len(sample.prompt) < limit and sample.reply:
            room = limit - len(sample.prompt)
            samples.append(Sample(sample.prompt, sample.reply[:room], sample.ambiguous))
    if not samples:
        raise CalibrationDataError(f"{path.name} has no usable line")
    return samples


def read_sample(
    row: dict[str, Any], tokenizer: Tokenizer, template: ChatTemplate, eos: Sequence[int]
) -> Sample:
    """Reads the sample of one line, of a shape that :func:`read_samples` describes; no other key is read.

    Raises KeyError, TypeError, ValueError or AttributeError for a line of another shape.
    """
    if "messages" in row:
        *before, last = row["messages"]
        if last["role"] == "user" and "kind" in row:
            return _labelled(row, template.encode(row["messages"]))
        if last["role"] != "assistant":
            raise ValueError("the last message must be the assistant's")
        content = last["content"]
        text = content if isinstance(content, str) else "\n".join(part["text"] for part in content)
        reply = tokenizer.encode(text, add_special_tokens=False)
        ambiguous = token_indices(reply, text, row.get("ambiguous_at", ()), tokenizer)
        return Sample(tuple(template.encode(before)), (*reply, *eos[:1]), ambiguous)
    if "prompt" in row:
        prompt = tokenizer.encode(row["prompt"], add_special_tokens=True)
        if "kind" in row and "completion" not in row:
            return _labelled(row, prompt)
        return Sample(tuple(prompt), tuple(tokenizer.encode(row["completion"], add_special_tokens=False)))
    if "text" in row:
        ids = tokenizer.encode(row["text"], add_special_tokens=True)
        return Sample(tuple(ids[:1]), tuple(ids[1:]))
    raise ValueError("expected one of the keys messages, prompt (with completion), text")


def _labelled(row: dict[str, Any], prompt: Sequence[int]) -> Sample:
    kind = row["kind"]
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}")
    group = str(row.get("template") or row.get("id") or prompt).partition("/")[0]
    return Sample(tuple(prompt), (), kind=kind, group=group)


def token_indices(
    ids: Sequence[int], text: str, offsets: Iterable[int], tokenizer: Tokenizer
) -> frozenset[int]:
    """Returns the indices of the tokens that begin at some character offsets of a text.

    An offset inside a token stands for the token behind it.
    """
    spelled = [tokenizer.token_bytes(token) or b"" for token in ids]
    # some tokenizers put a space before a text
    starts, at = [], len(text.encode()) - len(b"".join(spelled))
    for part in spelled:
        starts.append(at)
        at += len(part)
    wanted = [len(text[:offset].encode()) for offset in offsets]
    found = (next((i for i, start in enumerate(starts) if start >= w), None) for w in wanted)
    return frozenset(i for i in found if i is not None)


def built_in_samples(tokenizer: Tokenizer) -> list[Sample]:
    """Returns the prompts for a model without profile and data, which writes the texts itself."""
    samples = []
    template = ChatTemplate(tokenizer)
    for text in BUILT_IN_PROMPTS:
        try:
            ids = template.encode([{"role": "user", "content": text}])
        except ChatTemplateError:  # a base model without a chat template, or with one that fails
            ids = tokenizer.encode(text, add_special_tokens=True)
        samples.append(Sample(tuple(ids), ()))
    return samples
