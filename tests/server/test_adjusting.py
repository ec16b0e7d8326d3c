"""From a body's adjustments to the engine's sampling fields."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from entropick_sampler.params import SamplingParams
from entropick_server.protocol.adjustments import AdjustmentFields
from entropick_server.protocol.errors import ApiError
from entropick_server.routes._adjusting import adjusted, bad_word_ids

from .support import ByteTokenizer


class Words:
    """Tokens are words with the space before them; "new" is cut in two unless it stands behind a space."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        ids = {
            "a": (1,),
            " a": (2,),
            "new": (3, 4),
            " new": (5,),
            "same": (6,),
            " same": (6,),
            "": (),
            " ": (7,),
        }
        return list(ids[text])


def test_a_word_counts_in_both_spellings_once() -> None:
    words: Any = Words()
    assert bad_word_ids([" a", "a", "new", "same"], words) == ((1,), (2,), (3, 4), (5,), (6,))
    with pytest.raises(ApiError, match="bad_words: every word"):
        bad_word_ids(["a", "  "], words)


def test_what_a_body_leaves_out_changes_nothing() -> None:
    base = SamplingParams(0.5, stop_token_ids=(2,))
    assert adjusted(base, AdjustmentFields(), ByteTokenizer()) == base  # type: ignore[call-arg]
    assert adjusted(base, AdjustmentFields(), ByteTokenizer(), 1.3).repetition_penalty == 1.3  # type: ignore[call-arg]


def test_a_body_becomes_sampling_fields() -> None:
    body = AdjustmentFields(
        presence_penalty=1,
        frequency_penalty=-0.5,
        repetition_penalty=1.2,
        logit_bias={"7": -100, "300": 2.5},  # type: ignore[dict-item]
        min_tokens=3,
        bad_words=["ab"],
        allowed_token_ids=[9, 8, 9],
    )
    assert adjusted(SamplingParams(), body, ByteTokenizer(), 1.3) == SamplingParams(
        presence_penalty=1.0,
        frequency_penalty=-0.5,
        repetition_penalty=1.2,
        logit_bias=((7, -100.0), (300, 2.5)),
        min_tokens=3,
        bad_words=((97, 98), (32, 97, 98)),
        allowed_token_ids=(9, 8),
    )


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
async def test_both_routes_hand_them_to_the_engine(
    client: httpx.AsyncClient, engine: Any, route: str
) -> None:
    body: dict[str, Any] = (
        {"prompt": "Hi"} if "chat" not in route else {"messages": [{"role": "user", "content": "Hi"}]}
    )
    body |= {"logit_bias": {"5": 1}, "presence_penalty": 2, "min_tokens": 2, "max_tokens": 4}
    assert (await client.post(route, json=body)).status_code == 200
    sampling = engine.requests[-1].sampling
    assert (sampling.logit_bias, sampling.presence_penalty, sampling.min_tokens) == (((5, 1.0),), 2.0, 2)
    assert sampling.repetition_penalty == 1.0


async def test_the_schema_names_their_limits(client: httpx.AsyncClient) -> None:
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    for name in ("ChatRequest", "CompletionRequest"):
        fields = schemas[name]["properties"]
        (bias,) = [kind for kind in fields["logit_bias"]["anyOf"] if kind["type"] == "object"]
        assert bias["additionalProperties"] == {"type": "number"}
        (penalty,) = [kind for kind in fields["presence_penalty"]["anyOf"] if kind["type"] == "number"]
        assert (penalty["minimum"], penalty["maximum"]) == (-2, 2)
