"""Properties of the bodies' models: any JSON is read, or refused in words."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from entropick_server.protocol.errors import ApiError
from entropick_server.protocol.fields import FIELDS, Place
from entropick_server.protocol.parsing import parse_body
from entropick_server.protocol.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    ModelRequest,
    TokenizeRequest,
)

MODELS: dict[Place, type[ModelRequest]] = {
    Place.CHAT: ChatRequest,
    Place.COMPLETIONS: CompletionRequest,
    Place.TOKENIZE: TokenizeRequest,
    Place.DETOKENIZE: DetokenizeRequest,
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXTS
SCALARS = SCALARS.filter(lambda value: value not in (float("inf"), float("-inf")))
NAMES = sorted({row.name.partition(".")[0] for row in FIELDS})
PARTS = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "refusal"]), "text": TEXTS, "refusal": TEXTS}),
    max_size=3,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant"])},
        optional={"content": TEXTS | PARTS | st.none(), "name": TEXTS, "refusal": TEXTS | st.none()},
    ),
    min_size=1,
    max_size=4,
)
JSON = st.recursive(
    SCALARS | MESSAGES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | TEXTS, inner, max_size=4)
    ),
    max_leaves=12,
)
SENSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "messages": MESSAGES,
    "prompt": TEXTS | st.lists(TEXTS, max_size=3) | st.lists(st.integers(0, 300), max_size=5),
    "tokens": st.lists(st.integers(0, 300), max_size=5),
    "stop": TEXTS | st.lists(TEXTS, max_size=3),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "n": st.integers(0, 3),
    "max_tokens": st.integers(0, 99),
    "logprobs": st.booleans() | st.integers(0, 5),
    "top_logprobs": st.integers(0, 20),
    "seed": st.integers(),
    "stream": st.booleans(),
}
BODIES = st.builds(
    lambda odd, good: {**odd, **good},
    st.dictionaries(st.sampled_from(NAMES) | TEXTS, JSON, max_size=4),
    st.fixed_dictionaries({}, optional=SENSIBLE),
)
PLACES = st.sampled_from(list(MODELS))


def read(body: Any, place: Place) -> ModelRequest | ApiError:
    try:
        return parse_body(json.dumps(body).encode(), MODELS[place], place)
    except ApiError as error:
        return error


@settings(max_examples=200, deadline=None)
@given(BODIES, PLACES)
def test_a_body_is_read_or_refused_in_words(body: dict[str, Any], place: Place) -> None:
    found = read(body, place)
    if not isinstance(found, ApiError):
        return
    assert found.status == 400
    assert found.message
    assert found.message.isprintable()
    assert len(found.message) <= 600
    assert not any(f"<{tag}>" in found.message for tag in ("whole", "parts"))
    if found.param is not None:
        name = found.param.split(".")[0].split("[")[0]
        assert name in MODELS[place].model_fields or name in NAMES


@settings(max_examples=150, deadline=None)
@given(BODIES, PLACES)
def test_an_accepted_body_reads_the_same_again(body: dict[str, Any], place: Place) -> None:
    found = read(body, place)
    if not isinstance(found, ApiError):
        again = read(found.model_dump(mode="json", exclude_unset=True), place)
        assert again == found


@settings(max_examples=150, deadline=None)
@given(BODIES, PLACES, st.sampled_from(NAMES))
def test_null_is_left_out(body: dict[str, Any], place: Place, name: str) -> None:
    without = {key: value for key, value in body.items() if key != name}
    fields = MODELS[place].model_fields
    if name in fields and fields[name].is_required():
        return
    first, second = read(without, place), read({**without, name: None}, place)
    assert isinstance(first, ApiError) == isinstance(second, ApiError)
    if isinstance(first, ApiError):
        assert first.body() == second.body()  # type: ignore[union-attr]
    else:
        assert first.model_dump() == second.model_dump()  # type: ignore[union-attr]


@settings(max_examples=150, deadline=None)
@given(MESSAGES)
def test_no_words_of_a_message_are_lost(messages: list[dict[str, Any]]) -> None:
    found = read({"messages": messages}, Place.CHAT)
    if isinstance(found, ApiError):
        assert any(m["role"] != "assistant" and not isinstance(m.get("content"), str) for m in messages)
        return
    assert isinstance(found, ChatRequest)
    for read_one, sent in zip(found.messages, messages, strict=True):
        content = sent.get("content")
        if isinstance(content, str) and content:
            assert read_one.text == content
        elif isinstance(content, list):
            words = [part[part["type"]] for part in content]
            assert read_one.parts == words
            assert "\n".join(words) in read_one.text
        else:
            refusal = sent.get("refusal") if sent["role"] == "assistant" else None
            assert read_one.text == (refusal or "")
