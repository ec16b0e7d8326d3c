"""pydantic-ai: agents with text, structured output and tools, over chat completions and over responses."""

from typing import Any, Literal

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ToolOutput
from pydantic_ai.direct import model_request
from pydantic_ai.messages import ModelRequest, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

SETTINGS = ModelSettings(max_tokens=200, temperature=0)


class Ball(BaseModel):
    colour: Literal["red", "green"]
    heavy: bool


@pytest.fixture(params=[OpenAIChatModel, OpenAIResponsesModel], ids=["chat", "responses"])
def served(request: pytest.FixtureRequest, url: str, key: str, model: str) -> Any:
    return request.param(model, provider=OpenAIProvider(base_url=f"{url}/v1", api_key=key))


async def test_text_and_usage(served: Any) -> None:
    agent = Agent(served, instructions="Be brief.", model_settings=SETTINGS)
    result = await agent.run("hello")
    assert result.output
    assert result.usage.output_tokens > 0
    again = await agent.run("how are you", message_history=result.all_messages())
    assert again.output


async def test_a_stream_is_the_reply(served: Any) -> None:
    agent = Agent(served, model_settings=SETTINGS)
    whole = (await agent.run("hello")).output
    async with agent.run_stream("hello") as result:
        assert "".join([part async for part in result.stream_text(delta=True)]) == whole


@pytest.mark.parametrize("form", [ToolOutput, NativeOutput])
async def test_structured_output(served: Any, form: Any) -> None:
    agent = Agent(served, output_type=form(Ball), model_settings=SETTINGS)
    assert isinstance((await agent.run("A red ball lies in the garden.")).output, Ball)


async def test_a_streamed_object(served: Any) -> None:
    agent = Agent(served, output_type=NativeOutput(Ball), model_settings=SETTINGS)
    async with agent.run_stream("A red ball lies in the garden.") as result:
        assert isinstance(await result.get_output(), Ball)


@pytest.mark.parametrize("choice", ["required", ["look"], ["look", "throw"]], ids=str)
async def test_a_forced_call_and_its_result(served: Any, choice: Any) -> None:
    """Several names become OpenAI's ``allowed_tools``."""
    tools = [
        ToolDefinition(name=name, description="Does it.", parameters_json_schema=Ball.model_json_schema())
        for name in ("look", "throw", "kick")
    ]
    offered = ModelRequestParameters(function_tools=tools, allow_text_output=True)
    asked = ModelRequest(parts=[UserPromptPart("A red ball lies in the garden.")])
    settings = ModelSettings(max_tokens=200, temperature=0, tool_choice=choice)
    answer = await model_request(served, [asked], model_settings=settings, model_request_parameters=offered)
    calls = [part for part in answer.parts if isinstance(part, ToolCallPart)]
    assert calls
    assert {call.tool_name for call in calls} <= {"look", "throw", "kick"}
    if choice != "required":
        assert {call.tool_name for call in calls} <= set(choice)
    assert all(Ball.model_validate(call.args_as_dict()) for call in calls)
    returns = ModelRequest(
        parts=[ToolReturnPart(call.tool_name, "done", call.tool_call_id) for call in calls]
    )
    told = await model_request(
        served, [asked, answer, returns], model_settings=SETTINGS, model_request_parameters=offered
    )
    assert told.parts


async def test_errors(served: Any) -> None:
    with pytest.raises(ModelHTTPError) as caught:
        await Agent(served).run("word " * 20000)
    assert caught.value.status_code == 400
