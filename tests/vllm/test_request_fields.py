"""The table of request fields has every field that this version of vLLM knows."""

from __future__ import annotations

from typing import Any

import pytest

from entropick_server.protocol.fields import FIELDS, Place

chat = pytest.importorskip("vllm.entrypoints.openai.chat_completion.protocol")
completion = pytest.importorskip("vllm.entrypoints.openai.completion.protocol")
tokenize = pytest.importorskip("vllm.entrypoints.serve.tokenize.protocol")
base = pytest.importorskip("vllm.entrypoints.generate.base.protocol")


@pytest.mark.parametrize(
    ("theirs", "place"),
    [
        (chat.ChatCompletionRequest, Place.CHAT),
        (completion.CompletionRequest, Place.COMPLETIONS),
        (tokenize.TokenizeChatRequest, Place.TOKENIZE),
        (tokenize.TokenizeCompletionRequest, Place.TOKENIZE),
        (tokenize.DetokenizeRequest, Place.DETOKENIZE),
    ],
)
def test_every_field_of_vllm_is_in_the_table(theirs: Any, place: Place) -> None:
    known = {row.name for row in FIELDS if place in row.places}
    assert sorted(set(theirs.model_fields) - known) == []


@pytest.mark.parametrize("place", [Place.CHAT, Place.COMPLETIONS])
def test_stream_options(place: Place) -> None:
    known = {row.name for row in FIELDS if place in row.places}
    assert {f"stream_options.{name}" for name in base.StreamOptions.model_fields} <= known
