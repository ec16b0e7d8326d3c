"""Rows about single fields: sampling, choices, logit_bias, log probabilities, stop strings."""

from __future__ import annotations

from typing import Any, Final

from .cases import HELLO, Case, Row, field_refused, refused
from .wire import CHAT, PLAIN, encoded

_HUGE: Final = 10**18


def _not_finite(name: str, number: str, body: dict[str, Any] | None = None) -> Case:
    """Returns a case with a number that JSON does not have."""
    text = encoded({"messages": HELLO, **(body or {name: "@"})}).decode().replace('"@"', number)
    return refused(f"`{name}` {number}", text.encode())


def _fields(name: str, *values: Any, path: str = CHAT) -> tuple[Case, ...]:
    return tuple(field_refused(name, value, path) for value in values)


def _long_context() -> tuple[Case, ...]:
    long = [{"role": "user", "content": "many words " * 4000}]
    return (
        refused("a chat of 8,000 words", {"messages": long}),
        refused("a prompt of 8,000 words", {"prompt": "many words " * 4000}, path=PLAIN),
        refused("max_tokens 100,000", {"messages": HELLO, "max_tokens": 100_000}, param="max_tokens"),
    )


FIELD_ROWS: Final = (
    Row(
        7,
        "temperature NaN or Infinity",
        "400",
        tuple(_not_finite("temperature", number) for number in ("NaN", "Infinity", "-Infinity")),
    ),
    Row(8, "temperature -1, 1e9", "400", _fields("temperature", -1, 1e9, "1", True)),
    Row(9, "top_p 0, 1.1", "400", _fields("top_p", 0, 1.1)),
    Row(10, "max_tokens 0, -1, 1e18", "400", _fields("max_tokens", 0, -1, 1e18, _HUGE)),
    Row(
        11,
        "prompt and max_tokens over the context",
        "400 that names the limit",
        _long_context(),
        bounded_by=("max_model_len",),
    ),
    Row(
        12,
        "n 0, 1e6",
        "400",
        (*_fields("n", 0, 10**6), *_fields("n", 10**6, path=PLAIN)),
        bounded_by=("max_n",),
    ),
    Row(
        13,
        "best_of 1e6",
        "400",
        (*_fields("best_of", 10**6), *_fields("best_of", 10**6, path=PLAIN)),
        bounded_by=("max_n",),
    ),
    Row(14, "seed 2^63, -2^63-1", "400", _fields("seed", 2**63, -(2**63) - 1)),
    Row(
        15,
        "logit_bias: a key that is no integer",
        "400",
        _fields("logit_bias", {"a": 1}, {"1.0": 1}, {"²": 1}),
    ),
    Row(16, "logit_bias outside the vocabulary", "400", _fields("logit_bias", {"999999": 1}, {"-1": 1})),
    Row(
        17,
        "logit_bias NaN, 1e9",
        "400",
        (
            *(_not_finite("logit_bias", n, {"logit_bias": {"1": "@"}}) for n in ("NaN", "Infinity")),
            *_fields("logit_bias", {"1": 1e9}, {"1": "1"}),
        ),
    ),
    Row(
        18,
        "logit_bias with a million entries",
        "400 or 413",
        (
            refused(
                "a million entries (16 MB)",
                {"messages": HELLO, "logit_bias": {str(n): 1 for n in range(1_000_000)}},
                (400, 413),
            ),
            refused(
                "200,000 entries", {"messages": HELLO, "logit_bias": {str(n): 1 for n in range(200_000)}}
            ),
        ),
        bounded_by=("max_body_bytes",),
    ),
    Row(
        19,
        "top_logprobs 21, -1",
        "400",
        (
            *(field_refused("top_logprobs", value, logprobs=True) for value in (21, -1)),
            *_fields("logprobs", 21, -1, path=PLAIN),
        ),
    ),
    Row(
        20,
        "top_logprobs without logprobs",
        "400",
        (field_refused("top_logprobs", 2), field_refused("top_logprobs", 2, logprobs=False)),
    ),
    Row(
        21,
        "stream_options where stream is false",
        "400",
        (
            field_refused("stream_options", {"include_usage": True}),
            field_refused("stream_options", {}, stream=False),
        ),
    ),
    Row(
        33,
        'stop "", a thousand stops',
        "400",
        (
            refused('`stop` ""', {"messages": HELLO, "stop": ""}, param="stop[0]"),
            refused('`stop` ["a", ""]', {"messages": HELLO, "stop": ["a", ""]}, param="stop[1]"),
            refused("a thousand stop strings", {"messages": HELLO, "stop": ["x"] * 1000}, param="stop"),
        ),
    ),
)
"""the rows 7 to 21 and 33"""
