"""The openai package for Python."""

import json
from enum import Enum

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

QUESTION = [{"role": "user", "content": "What is the capital of Ashland?"}]


class Colour(Enum):
    red = "red"
    green = "green"


class Ball(BaseModel):
    colour: Colour
    heavy: bool


class Weather(BaseModel):
    """Gets the weather of a place."""

    place: Colour
    days: int


@pytest.fixture(scope="session")
def client(url: str, key: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def test_models(client: OpenAI, model: str) -> None:
    assert [one.id for one in client.models.list()] == [model]
    assert client.models.retrieve(model).object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_a_wrong_key_and_a_wrong_model(client: OpenAI, url: str) -> None:
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="another", messages=QUESTION)
    assert caught.value.code == "model_not_found"


def test_a_reply_and_its_usage(client: OpenAI, model: str) -> None:
    reply = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=20, temperature=0)
    assert reply.choices[0].message.content
    assert reply.choices[0].finish_reason in ("stop", "length")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.completion_tokens <= 20


def test_a_stream_is_the_reply(client: OpenAI, model: str) -> None:
    fields = {"model": model, "messages": QUESTION, "max_tokens": 20, "temperature": 0}
    whole = client.chat.completions.create(**fields)
    chunks = list(
        client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.usage for chunk in chunks if chunk.usage] == [whole.usage]
    assert chunks[-1].choices == []


def test_the_accumulator_of_a_stream(client: OpenAI, model: str) -> None:
    fields = {"model": model, "messages": QUESTION, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**fields, logprobs=True, top_logprobs=2)
    with client.chat.completions.stream(**fields, logprobs=True, top_logprobs=2) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done", "logprobs.content.delta"} <= kinds
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].logprobs.content == whole.choices[0].logprobs.content


async def test_the_async_client(url: str, key: str, model: str) -> None:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        reply = await client.chat.completions.create(model=model, messages=QUESTION, max_tokens=5)
        assert reply.choices[0].message.content
        stream = await client.chat.completions.create(
            model=model, messages=QUESTION, max_tokens=5, stream=True
        )
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason


def test_the_raw_answer_has_the_id_of_the_request(client: OpenAI, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=QUESTION, max_tokens=2, extra_headers={"X-Request-Id": "e2e-7"}
    )
    assert raw.request_id == "e2e-7"
    assert raw.parse()._request_id == "e2e-7"


def test_completions(client: OpenAI, model: str) -> None:
    reply = client.completions.create(model=model, prompt="Once upon a time", temperature=0)
    assert reply.usage.completion_tokens <= 16
    assert reply.choices[0].text
    several = client.completions.create(model=model, prompt=["One", "Two"], n=2, max_tokens=3, seed=1)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    stream = client.completions.create(model=model, prompt="Once upon a time", temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == reply.choices[0].text


def test_echo_with_log_probabilities(client: OpenAI, model: str) -> None:
    reply = client.completions.create(
        model=model, prompt="Once upon a time", max_tokens=0, echo=True, logprobs=1
    )
    [choice] = reply.choices
    assert choice.text == "Once upon a time"
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in choice.logprobs.token_logprobs[1:])
    assert len(choice.logprobs.text_offset) == len(choice.logprobs.tokens)


def test_penalties_bias_seed_and_stop(client: OpenAI, model: str) -> None:
    fields = {"model": model, "messages": QUESTION, "max_tokens": 12, "seed": 3}
    ask = client.chat.completions.create
    plain = ask(**fields).choices[0].message.content
    assert ask(**fields).choices[0].message.content == plain
    assert ask(**fields, presence_penalty=1.5, frequency_penalty=1.5).choices[0].message.content is not None
    banned = ask(**fields, logit_bias={"300": -100}).choices[0].message.content
    assert isinstance(banned, str)
    stopped = ask(**fields, stop=[plain[3:5]]).choices[0]
    assert stopped.finish_reason == "stop"
    assert plain[3:5] not in stopped.message.content


def test_the_uncertainty_of_each_token(client: OpenAI, model: str) -> None:
    reply = client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=8, extra_body={"entropick": {"telemetry": "tokens"}}
    )
    block = reply.choices[0].model_extra["entropick"]
    assert len(block["tokens"]) == reply.usage.completion_tokens
    assert block["tokens"][0]["signals"]["logits_entropy"] >= 0


def test_errors_name_the_field(client: OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=QUESTION, temperature=9)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="This model's maximum context length is") as caught:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "word " * 20000}])
    assert caught.value.code == "context_length_exceeded"


def test_messages_in_all_forms(client: OpenAI, model: str) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "hello"}], "name": "anna"},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "user", "content": "how are you"},
    ]
    reply = client.chat.completions.create(
        model=model, messages=messages, max_completion_tokens=4, reasoning_effort="low", user="a", store=False
    )
    assert reply.choices[0].message.role == "assistant"


# -- structured output ---------------------------------------------------------------------------------


def test_a_parsed_reply(client: OpenAI, model: str) -> None:
    reply = client.chat.completions.parse(
        model=model, messages=QUESTION, response_format=Ball, max_tokens=100
    )
    assert isinstance(reply.choices[0].message.parsed, Ball)
    with client.chat.completions.stream(
        model=model, messages=QUESTION, response_format=Ball, max_tokens=100
    ) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Ball)


def test_json_mode(client: OpenAI, model: str) -> None:
    ask = [{"role": "user", "content": "Give me JSON."}]
    reply = client.chat.completions.create(
        model=model, messages=ask, response_format={"type": "json_object"}, max_tokens=400, temperature=0
    )
    [choice] = reply.choices
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    else:  # a small model need not end; what it wrote begins as an object does
        assert choice.finish_reason == "length"
        assert choice.message.content.lstrip().startswith("{")


def test_a_choice_and_a_pattern(client: OpenAI, model: str) -> None:
    for more, right in (
        ({"structured_outputs": {"choice": ["yes", "no"]}}, {"yes", "no"}),
        ({"guided_regex": "a{2,3}"}, {"aa", "aaa"}),
    ):
        reply = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=10, extra_body=more)
        assert reply.choices[0].message.content in right


# -- tools ---------------------------------------------------------------------------------------------

NAMED = {"type": "function", "function": {"name": "Weather"}}


def test_a_forced_call(client: OpenAI, model: str) -> None:
    tools = [openai.pydantic_function_tool(Weather)]
    for choice in (NAMED, "required"):
        reply = client.chat.completions.parse(
            model=model, messages=QUESTION, tools=tools, tool_choice=choice, max_tokens=200, temperature=0
        )
        calls = reply.choices[0].message.tool_calls
        assert reply.choices[0].finish_reason in ("tool_calls", "stop")
        assert all(isinstance(call.function.parsed_arguments, Weather) for call in calls)
        assert calls[0].id
        with client.chat.completions.stream(
            model=model, messages=QUESTION, tools=tools, tool_choice=choice, max_tokens=200, temperature=0
        ) as stream:
            streamed = stream.get_final_completion().choices[0].message.tool_calls
        assert [call.function.arguments for call in streamed] == [call.function.arguments for call in calls]


def test_a_call_in_the_history(client: OpenAI, model: str) -> None:
    tools = [openai.pydantic_function_tool(Weather)]
    first = (
        client.chat.completions.create(
            model=model, messages=QUESTION, tools=tools, tool_choice=NAMED, max_tokens=200, temperature=0
        )
        .choices[0]
        .message
    )
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "sunny"}
    reply = client.chat.completions.create(
        model=model, messages=[*QUESTION, first, result], tools=tools, tool_choice="none", max_tokens=20
    )
    assert reply.choices[0].message.content
    assert not reply.choices[0].message.tool_calls


# -- responses -----------------------------------------------------------------------------------------


def test_a_response(client: OpenAI, model: str) -> None:
    fields = {"model": model, "input": "hello", "max_output_tokens": 20, "temperature": 0}
    response = client.responses.create(**fields)
    assert response.output_text
    assert response.status in ("completed", "incomplete")
    assert response.usage.output_tokens <= 20
    with client.responses.stream(**fields) as stream:
        events = list(stream)
        assert stream.get_final_response().output_text == response.output_text
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == response.output_text


def test_a_parsed_response(client: OpenAI, model: str) -> None:
    response = client.responses.parse(model=model, input="hello", text_format=Ball, max_output_tokens=100)
    assert isinstance(response.output_parsed, Ball)


def test_a_call_in_a_response(client: OpenAI, model: str) -> None:
    response = client.responses.create(
        model=model,
        input="hello",
        tools=[
            {
                "type": "function",
                "name": "Weather",
                "parameters": Weather.model_json_schema(),
                "strict": False,
            }
        ],
        tool_choice={"type": "function", "name": "Weather"},
        max_output_tokens=200,
    )
    [call] = [item for item in response.output if item.type == "function_call"]
    assert Weather.model_validate_json(call.arguments)
    answered = client.responses.create(
        model=model,
        input=[
            {"role": "user", "content": "hello"},
            call,
            {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
        ],
        max_output_tokens=10,
    )
    assert answered.output_text
