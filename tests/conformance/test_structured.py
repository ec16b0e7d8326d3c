"""Structured output on every engine: replies validate, and the engines say and measure the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import httpx
import jsonschema
import pytest

from random_schemas import SchemaMaker

from .conftest import Server

BRANCH = {"width": 3, "depth": 4, "on": ["adaptive", "explore", "high_uncertainty"], "budget": 4}
SCHEMA = {
    "type": "object",
    "properties": {
        "town": {"type": "string", "maxLength": 12},
        "size": {"enum": ["small", "big", "ünsure"]},
        "digits": {"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 3},
    },
    "required": ["town", "size", "digits"],
    "additionalProperties": False,
}


def ask(url: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What is the capital of Falnia?"}]
    body = {"messages": messages, "seed": 5, "temperature": 1, "max_tokens": 240, **fields}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def by_schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}


def check(answer: dict[str, Any], schema: Any) -> int:
    """Validates the choices that came to their end, and counts them."""
    ended = [choice for choice in answer["choices"] if choice["finish_reason"] == "stop"]
    for choice in ended:
        document = json.loads(choice["message"]["content"])
        jsonschema.validate(document, schema, jsonschema.Draft202012Validator)
    return len(ended)


@pytest.mark.parametrize(
    "entropick", [{"policy": "fixed"}, {"preset": "seed"}, {"preset": "seed", "branch": BRANCH}]
)
def test_random_schemas(server: str, entropick: dict[str, Any]) -> None:
    maker, ended = SchemaMaker(21), 0
    made = (maker.schema() for _ in range(100))
    # pico writes fractions without an end
    schemas = [schema for schema in made if '"number"' not in json.dumps(schema)][:6]
    for seed, schema in enumerate(schemas):
        fields = {"response_format": by_schema(schema), "seed": seed, "n": 2, "entropick": entropick}
        ended += check(ask(server, **fields), schema)
    assert ended >= 6


def test_other_forms(server: str) -> None:
    for fields, options in (
        ({"guided_choice": ["yes", "no", "naïve"]}, {"yes", "no", "naïve"}),
        ({"structured_outputs": {"regex": "(foo|bar){2}"}}, {"foofoo", "foobar", "barfoo", "barbar"}),
        ({"guided_json": {"const": [1, "x"]}}, None),
    ):
        (choice,) = ask(server, **fields)["choices"]
        assert choice["finish_reason"] == "stop"
        text = choice["message"]["content"]
        assert text in options if options else json.loads(text) == [1, "x"]


@pytest.mark.skipif(not find_spec("vllm"), reason="needs a second engine")
@pytest.mark.parametrize("entropick", [{}, {"branch": BRANCH}])
def test_engines_agree(running: Callable[[str], Server], entropick: dict[str, Any]) -> None:
    fields = {
        "response_format": by_schema(SCHEMA),
        "n": 3,
        "logprobs": True,
        "top_logprobs": 2,
        "entropick": {"preset": "seed", "telemetry": "tokens", "genuineness": False, **entropick},
    }
    ours, theirs = (ask(running(engine).url, **fields)["choices"] for engine in ("torch", "vllm"))
    for a, b in zip(ours, theirs, strict=True):
        assert a["message"]["content"] == b["message"]["content"]
        assert a["finish_reason"] == b["finish_reason"]
        rows = list(zip(a["entropick"]["tokens"], b["entropick"]["tokens"], strict=True))
        for one, other in rows:
            assert one.get("only_choice") == other.get("only_choice")
            assert (one["token_id"], one["strategy"]) == (other["token_id"], other["strategy"])
            assert one["signals"] == pytest.approx(other["signals"], rel=2e-3, abs=2e-3)
        assert sum("only_choice" in one for one, _ in rows) > 5
        (left, right) = (c["entropick"]["summary"]["only_choice_tokens"] for c in (a, b))
        assert left == right == sum("only_choice" in one for one, _ in rows)
