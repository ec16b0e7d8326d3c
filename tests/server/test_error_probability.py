"""The error probability on the wire: that of the rows, and absent where nothing tells."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import httpx
import pytest

from entropick_sampler.error_probability import (
    ANSWER_FEATURES,
    REPLY_FEATURES,
    VOTE_FEATURES,
    ErrorModel,
    Mix,
    Weight,
)
from entropick_sampler.signals import SIGNAL_NAMES

CHAT = "/v1/chat/completions"
HELLO: Any = [{"role": "user", "content": "Hello"}]
WIDE = (-1e9, 1e9)


def mix(bias: float, *names: str) -> Mix:
    """A mix that reads every one of some features, each with a weight of its own."""
    return Mix(bias, {name: Weight(0.01 * (3 + place), *WIDE) for place, name in enumerate(names)})


MODEL = ErrorModel(
    "d",
    100,
    40,
    reply=mix(0.3, *REPLY_FEATURES),
    answer=mix(0.2, *REPLY_FEATURES, *ANSWER_FEATURES),
    vote=mix(0.1, *REPLY_FEATURES, *ANSWER_FEATURES, *VOTE_FEATURES),
)


@pytest.fixture
def fitted(engine: Any, profile: Any) -> Any:
    """An engine whose profile has coefficients."""
    engine.profile = replace(profile, error=MODEL)
    engine.script = lambda request: list(b"it is 42, or so")
    plain, column = engine.token, SIGNAL_NAMES.index("surprisal")

    def token(*args: Any) -> Any:
        made = plain(*args)
        return replace(made, logprob=-made.signals[column] * math.log(2.0))

    engine.token = token
    return engine


async def told(client: httpx.AsyncClient, stream: bool = False, **fields: Any) -> dict[str, Any]:
    """The block of an answer's first choice, the rows of a stream together."""
    block = {"telemetry": "tokens", **fields.pop("entropick", {})}
    body = {"messages": HELLO, "seed": 3, **fields, "entropick": block}
    answer = await client.post(CHAT, json={**body, "stream": stream})
    assert answer.status_code == 200, answer.text
    if not stream:
        return dict(answer.json()["choices"][0]["entropick"])
    events = [e.removeprefix("data: ") for e in answer.text.strip().split("\n\n") if e.startswith("data: {")]
    blocks = [json.loads(event)["choices"][0].get("entropick", {}) for event in events]
    rows = [row for one in blocks for row in one.get("tokens", [])]
    return {"tokens": rows, **{k: v for one in blocks for k, v in one.items() if k != "tokens"}}


def by_hand(
    block: dict[str, Any],
    cut: bool,
    answer: tuple[int, int] | str | None,
    vote: tuple[float, int] | None = None,
    number: bool = True,
) -> float:
    """The number from the rows of a reply; ``answer``: the rows of it, None: there is none."""
    drawn = [
        (row["signals"]["surprisal"], row["signals"]["logits_entropy"], row["forced"])
        for row in block["tokens"]
    ]
    free = [(s, h) for s, h, forced in drawn if not forced]
    n = len(free)
    groups = [sum(s for s, _ in free[at : at + 4]) / min(4, n) for at in range(max(1, n - 3))]
    values = [
        -sum(s for s, _ in free) / n,
        -sum(s for s, _ in free),
        -max(s for s, _ in free),
        -max(groups),
        -free[0][0],
        sum(h for _, h in free) / n,
        max(h for _, h in free),
        free[0][1],
        sum(h - s for s, h in free) / n,
        min(h - s for s, h in free),
        math.log2(n),
        float(cut),
    ]
    bias = MODEL.reply.bias  # type: ignore[union-attr]
    if answer != "not asked":
        bias = MODEL.answer.bias  # type: ignore[union-attr]
        if answer is None:
            values += [1.0] + [0.0] * 10
        else:
            begin, end = answer  # type: ignore[misc]
            own = [(s, h) for s, h, forced in drawn[begin:end] if not forced]
            values += [
                0.0,
                float(number),
                -sum(s for s, _ in own) / len(own),
                -sum(s for s, _ in own),
                -max(s for s, _ in own),
                max(h for _, h in own),
                own[0][1],
                min(h - s for s, h in own),
                math.log2(len(own)),
                math.log2(1 + begin),
                math.log2(1 + len(drawn) - end),
            ]
    if vote is not None:
        bias = MODEL.vote.bias  # type: ignore[union-attr]
        values += [vote[0], math.log2(vote[1])]
    logit = bias + sum(0.01 * (3 + place) * value for place, value in enumerate(values))
    return 1 / (1 + math.exp(-logit))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "cut", "answer"),
    [
        ({}, False, "not asked"),
        ({"max_tokens": 7}, True, "not asked"),
        ({"temperature": 0, "entropick": {"answer": "last_number"}}, False, (6, 8)),
        ({"entropick": {"answer": "last_number"}}, False, (6, 8)),
        ({"entropick": {"answer": {"regex": "is [0-9]"}}}, False, (3, 7)),
        ({"entropick": {"answer": "text"}}, False, (0, 15)),
        ({"entropick": {"answer": {"regex": "none"}}}, False, None),
        ({"max_tokens": 5, "entropick": {"answer": "last_number"}}, True, None),
        # what stands behind a stop string is no answer, its tokens are part of the reply
        ({"stop": " 42", "entropick": {"answer": "last_number"}}, False, None),
        ({"stop": ", or", "entropick": {"answer": "last_number"}}, False, (6, 8)),
    ],
)
async def test_the_number_is_that_of_the_rows(
    fitted: Any, serve: Any, fields: dict[str, Any], cut: bool, answer: Any, stream: bool
) -> None:
    async with serve(fitted) as client:
        block = await told(client, stream, **fields)
    expected = by_hand(block, cut, answer, number=fields.get("entropick") == {"answer": "last_number"})
    assert block["summary"]["error_probability"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("level", ["summary", "tokens", "full"])
@pytest.mark.parametrize("per_step", [1, 4])
async def test_telemetry_and_steps_do_not_change_it(
    fitted: Any, serve: Any, level: str, per_step: int
) -> None:
    fields = {"answer": "last_number"}
    async with serve(fitted) as client:
        plain = (await told(client, entropick=fields))["summary"]["error_probability"]
        fitted.per_step = per_step
        for stream in (False, True):
            block = await told(client, stream, entropick={**fields, "telemetry": level})
            assert block["summary"]["error_probability"] == plain


async def test_absent_where_nothing_tells(fitted: Any, serve: Any, engine: Any, profile: Any) -> None:
    """No fit, a longer reply than those of the fit, no mix for what is known, figures that were lost."""

    async def absent(**fields: Any) -> bool:
        async with serve(fitted) as client:
            return "error_probability" not in (await told(client, **fields))["summary"]

    assert not await absent()
    fitted.script = lambda request: list(b"x" * 40)
    assert await absent()
    fitted.script = lambda request: list(b"42")
    for mixes, asked in (({"reply": None}, {}), ({"answer": None}, {"answer": "text"})):
        fitted.profile = replace(profile, error=replace(MODEL, **mixes))
        assert await absent(entropick=asked)
        assert not await absent(entropick={} if asked else {"answer": "text"})
    fitted.profile = profile
    assert await absent()
    assert await absent(entropick={"answer": "text"})
    fitted.profile = None
    assert await absent()
    fitted.profile = replace(profile, error=MODEL)
    plain = fitted.token
    lost = (None,) * len(SIGNAL_NAMES)
    fitted.token = lambda *args: replace(plain(*args), signals=lost, logprob=math.nan)
    assert await absent()
    assert await absent(entropick={"answer": "text"})


async def test_every_choice_has_its_own(fitted: Any, serve: Any) -> None:
    fitted.script = lambda request: list(b"so 4" if request.choice else b"none")
    async with serve(fitted) as client:
        body = {
            "messages": HELLO,
            "n": 2,
            "seed": 3,
            "entropick": {"answer": "last_number", "telemetry": "tokens"},
        }
        choices = (await client.post(CHAT, json=body)).json()["choices"]
        for choice, answer in zip(choices, (None, (3, 4)), strict=True):
            block = choice["entropick"]
            expected = by_hand(block, False, answer)
            assert block["summary"]["error_probability"] == pytest.approx(expected, abs=1e-12)
        recent = (await client.get("/v1/requests")).json()
        shown = {str(entry["choice"]): entry["summary"] for entry in recent["data"]}
        assert shown["1"]["error_probability"] == choices[1]["entropick"]["summary"]["error_probability"]


TEXTS = ("4", "it is 4", "so 5", "none", "5!", "thus 5")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asked", [{"consensus": {"extract": "last_number"}}, {"answer": "last_number"}])
async def test_the_winner_of_a_vote(fitted: Any, serve: Any, asked: Any, stream: bool) -> None:
    fitted.script = lambda request: list(TEXTS[request.choice].encode())
    vote = {"weight": "none", "stop": "all", "k": 6, **asked.get("consensus", {})}
    async with serve(fitted) as client:
        block = await told(client, stream, entropick={**asked, "consensus": vote})
        assert block["summary"]["consensus"]["answer"] == "5"
        # two of the five others say 5 as well
        expected = by_hand(block, False, (3, 4), (0.4, 5))
        assert block["summary"]["error_probability"] == pytest.approx(expected, abs=1e-12)
        # a vote of one reply is no vote
        one = {**vote, "stop": {"rule": "cascade", "answer_bits": 1000}}
        block = await told(client, stream, entropick={**asked, "consensus": one})
        assert block["summary"]["consensus"]["replies"] == 1
        assert block["summary"]["error_probability"] == pytest.approx(
            by_hand(block, False, (0, 1)), abs=1e-12
        )
        fitted.profile = replace(fitted.profile, error=replace(MODEL, vote=None))
    async with serve(fitted) as client:
        block = await told(client, stream, entropick={**asked, "consensus": vote})
        expected = by_hand(block, False, (3, 4))
        assert block["summary"]["error_probability"] == pytest.approx(expected, abs=1e-12)


async def test_a_servers_consensus_takes_the_answer_from_the_request(fitted: Any, serve: Any) -> None:
    fitted.script = lambda request: list(TEXTS[request.choice].encode())
    async with serve(fitted, consensus={"extract": "text", "k": 6, "stop": "all"}) as client:
        block = await told(client, entropick={"answer": "last_number"})
        assert block["summary"]["consensus"]["replies"] == 6
        assert block["summary"]["consensus"]["answered"] == 5


@pytest.mark.parametrize(
    ("block", "param", "words"),
    [
        ({"answer": "number"}, "entropick.answer", "must be one of 'last_number'"),
        ({"answer": "similar"}, "entropick.answer", "must be one of"),
        ({"answer": 5}, "entropick.answer", "must be one of"),
        ({"answer": []}, "entropick.answer", "must be one of"),
        ({"answer": {}}, "entropick.answer", "must be one of"),
        ({"answer": {"regex": "(?=a)"}}, "entropick.answer", "RE2"),
        ({"answer": {"regex": "x" * 513}}, "entropick.answer", "1 to 512 characters"),
        ({"answer": {"json_path": "a"}}, "entropick.answer", "json_path"),
        ({"answer": {"regex": "a", "json_path": "$.a"}}, "entropick.answer", "must be one of"),
        ({"answer": "text", "consensus": {"extract": "text"}}, "entropick.answer", "not together"),
        ({"anser": "text"}, "entropick.anser", "did you mean 'answer'?"),
    ],
)
async def test_refusals(client: httpx.AsyncClient, engine: Any, block: Any, param: str, words: str) -> None:
    answer = await client.post(CHAT, json={"messages": HELLO, "entropick": block})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert words in error["message"]
    assert param in error["message"]
    assert engine.requests == []
