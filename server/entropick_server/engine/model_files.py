"""The files that describe a model, read so that a broken file is told in a sentence that names it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateSyntaxError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from .base import ModelLoadError
from .templates.renderer import TemplateProcessError
from .templates.worker import environment

_MOST_CHARACTERS: Final = 300
"""of a reason: some of transformers' have pages of advice"""
_CONFIG: Final = "config.json"
_GENERATION: Final = "generation_config.json"
_TOKENIZER: Final = (
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
_BACKEND: Final = "tokenizer.json"
_AGAIN: Final = "get that file again from where the model came from"
_PLAIN: Final = (
    OSError,
    ValueError,
    ImportError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TemplateProcessError,
)
"""errors whose messages need no name of their kind"""
_LIMITS: Final = {
    "temperature": (0.0, math.inf),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "top_k": (-1, math.inf),
    "max_new_tokens": (1, math.inf),
    "repetition_penalty": (0.0, math.inf),
}
"""a number of the generation config -> the least and the most"""
_WHOLE: Final = ("top_k", "max_new_tokens")


@contextmanager
def reading(model: str, folder: Path | None = None, names: Sequence[str] = ()) -> Iterator[None]:
    """Turns every error about a model's files into a ModelLoadError of one sentence.

    ``names``: the files of ``folder`` that are read, of which the first that is broken is named.
    """
    try:
        yield
    except ModelLoadError:
        raise
    except Exception as error:
        broken = None if folder is None else _first_broken(folder, names, error)
        told = f"{broken}; {_AGAIN}" if broken else _place(folder, names) + _reason(error)
        raise ModelLoadError(f"{model} cannot be loaded: {told}") from error


def read_config(model: str, folder: Path) -> PreTrainedConfig:
    """Reads the configuration of a model. Raises ModelLoadError."""
    with reading(model, folder, [_CONFIG]):
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return config


def read_tokenizer(model: str, folder: Path, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """Reads the tokenizer of a model. Raises ModelLoadError.

    ``chat_template``: the text of a template instead of its own, which then may be none.
    """
    with reading(model, folder, _TOKENIZER):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    given = tokenizer.chat_template
    for text in given.values() if isinstance(given, dict) else [] if given is None else [given]:
        try:
            environment().parse(text if isinstance(text, str) else "")
        except TemplateSyntaxError as error:
            raise ModelLoadError(
                f"{model} cannot be loaded: its chat template is no template: line {error.lineno}: {error} "
                "(--chat-template names another)"
            ) from error
        if not isinstance(text, str):
            raise ModelLoadError(f"{model} cannot be loaded: its chat template is no text")
    return tokenizer


def read_generation(model: str, folder: Path) -> GenerationConfig | None:
    """Reads the generation config of a model, which may have none. Raises ModelLoadError."""
    if not (folder / _GENERATION).is_file():
        return None
    with reading(model, folder, [_GENERATION]):
        found = GenerationConfig.from_pretrained(folder)
        for name, (least, most) in _LIMITS.items():
            value = getattr(found, name)
            if value is None:
                continue
            kind = int if name in _WHOLE else (int, float)
            if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
                what = "a whole number" if name in _WHOLE else "a number"
                limits = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
                raise ValueError(f"{name} must be {what} {limits}; it is {str(value)[:40]!r}")
    return found


def _place(folder: Path | None, names: Sequence[str]) -> str:
    """Returns the beginning of a sentence about some files, none of which is known to be broken."""
    if folder is None or len(names) < 2:
        return "".join(f"{name}: " for name in names)
    there = ", ".join(name for name in names if (folder / name).is_file())
    return f"its tokenizer ({there or 'it has no ' + _BACKEND}): "


def _first_broken(folder: Path, names: Sequence[str], error: Exception) -> str | None:
    """Returns the name of the first file that cannot be what it must be, with the reason.

    ``error``: what its reader raised.
    """
    for name in names:
        try:
            text = (folder / name).read_text(encoding="utf-8")
            value: Any = json.loads(text) if name.endswith(".json") else {}
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as reason:
            return f"{name} is no {'JSON' if name.endswith('.json') else 'UTF-8 text'}: {_reason(reason)}"
        if not isinstance(value, dict):
            return f"{name} is no JSON object"
        if name == _BACKEND and (told := _no_tokenizer(value, folder / name, error)) is not None:
            return f"{name} is no tokenizer: {told}"
    return None


def _no_tokenizer(value: dict[str, Any], path: Path, error: Exception) -> str | None:
    """Returns why the JSON of tokenizer.json makes no tokenizer; None where it makes one."""
    try:
        PreTrainedTokenizerFast(tokenizer_file=str(path))  # type: ignore[no-untyped-call]
    except Exception as reason:  # noqa: BLE001 - what the library raises is plain Exception
        return _missing(value, reason) or _reason(reason)
    # transformers reads more of it than the library must have
    return _missing(value, error)


def _missing(value: dict[str, Any], error: Exception) -> str | None:
    """Returns the name that a reader of JSON missed in it; None where it raised for another reason."""
    name = error.args[0] if isinstance(error, KeyError) and error.args else None
    return f"it has no {name!r}" if isinstance(name, str) and name not in value else None


def _reason(error: Exception) -> str:
    """Returns the message of an error as one line."""
    kind = "" if isinstance(error, _PLAIN) or type(error) is Exception else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())[:_MOST_CHARACTERS]
