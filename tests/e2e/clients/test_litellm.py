"""litellm, by the two of its providers with which people reach a server like this one."""

from typing import Any

import litellm
import pytest
from pydantic import BaseModel

MESSAGES = [{"role": "user", "content": "What is the capital of Ashland?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "throw_ball",
        "description": "Throws a ball.",
        "parameters": {
            "type": "object",
            "properties": {"colour": {"enum": ["red", "green"]}},
            "required": ["colour"],
            "additionalProperties": False,
        },
    },
}


class Ball(BaseModel):
    heavy: bool
    round: bool


@pytest.fixture(params=["openai", "hosted_vllm"])
def to(request: pytest.FixtureRequest, url: str, key: str, model: str) -> dict[str, Any]:
    """What each call needs to reach the server."""
    return {
        "model": f"{request.param}/{model}",
        "api_base": f"{url}/v1",
        "api_key": key,
        "num_retries": 0,
        "max_retries": 0,
    }


def test_a_reply(to: dict[str, Any]) -> None:
    reply = litellm.completion(**to, messages=MESSAGES, max_tokens=12, temperature=0, seed=1, n=2)
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert reply.choices[0].message.content == reply.choices[1].message.content
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_a_stream_is_the_reply(to: dict[str, Any]) -> None:
    fields = {**to, "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    whole = litellm.completion(**fields)
    chunks = list(litellm.completion(**fields, stream=True, stream_options={"include_usage": True}))
    built = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert built.choices[0].message.content == whole.choices[0].message.content
    assert built.usage.completion_tokens == whole.usage.completion_tokens
    assert built.usage.prompt_tokens == whole.usage.prompt_tokens


async def test_the_async_calls(to: dict[str, Any]) -> None:
    fields = {**to, "messages": MESSAGES, "max_tokens": 5, "temperature": 0}
    whole = await litellm.acompletion(**fields)
    stream = await litellm.acompletion(**fields, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content


def test_the_block_of_ours(to: dict[str, Any]) -> None:
    reply = litellm.completion(
        **to,
        messages=MESSAGES,
        max_tokens=5,
        extra_body={"entropick": {"policy": "fixed", "telemetry": "tokens"}},
    )
    block = reply.choices[0].provider_specific_fields["entropick"]
    assert len(block["tokens"]) == reply.usage.completion_tokens
    assert block["summary"]["policy"] == "fixed"


def test_text_completion(to: dict[str, Any]) -> None:
    if to["model"].startswith("hosted_vllm"):
        pytest.skip("litellm sends text completions of this provider as it sends those of openai")
    to = {**to, "model": to["model"].replace("openai/", "text-completion-openai/")}
    reply = litellm.text_completion(**to, prompt="Once upon a time", max_tokens=6, logprobs=1)
    assert reply.choices[0].text
    assert reply.usage.completion_tokens <= 6


def test_errors_become_its_exceptions(to: dict[str, Any]) -> None:
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**to, messages=[{"role": "user", "content": "word " * 20000}])
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**to, messages=MESSAGES, temperature=9)
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**{**to, "model": to["model"] + "-not"}, messages=MESSAGES)
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**{**to, "api_key": "wrong"}, messages=MESSAGES)


def test_a_schema(to: dict[str, Any]) -> None:
    reply = litellm.completion(**to, messages=MESSAGES, response_format=Ball, max_tokens=100)
    assert Ball.model_validate_json(reply.choices[0].message.content)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "throw_ball"}}])
def test_a_forced_call(to: dict[str, Any], choice: Any) -> None:
    fields = {
        **to,
        "messages": MESSAGES,
        "tools": [TOOL],
        "tool_choice": choice,
        "max_tokens": 200,
        "temperature": 0,
    }
    whole = litellm.completion(**fields)
    [call, *_] = whole.choices[0].message.tool_calls
    assert call.function.name == "throw_ball"
    built = litellm.stream_chunk_builder(list(litellm.completion(**fields, stream=True)))
    made = built.choices[0].message.tool_calls
    assert [one.function.arguments for one in made] == [
        one.function.arguments for one in whole.choices[0].message.tool_calls
    ]
    told = litellm.completion(
        **to,
        messages=[
            *MESSAGES,
            whole.choices[0].message.model_dump(),
            *({"role": "tool", "tool_call_id": one.id, "content": "thrown"} for one in made),
        ],
        tools=[TOOL],
        max_tokens=10,
    )
    assert told.choices[0].finish_reason
