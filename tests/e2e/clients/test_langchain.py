"""langchain-openai: LangChain's standard tests of chat models, with tools, structured output and JSON mode.

The standard tests ask two things: does the server speak the protocol, and is the model clever? Tests of the
second kind are named below with the reason; they fail where they begin to pass: the list only shrinks.
"""

import json
import os
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

URL = os.environ["ENTROPICK_E2E_URL"]
KEY = os.environ["ENTROPICK_E2E_KEY"]
MODEL = os.environ["ENTROPICK_E2E_MODEL"]


def closing_bias() -> dict[str, int]:
    """Biases for the tokens that end a JSON string: no schema tells a small model when a joke is over.

    The one that ends the object too has more, or the model goes on with keys that an open schema admits.
    """
    found = {}
    for text, bias in (('",', 5), ('"}', 8)):
        request = urllib.request.Request(
            f"{URL}/tokenize",
            json.dumps({"prompt": text, "add_special_tokens": False}).encode(),
            {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            ids = json.load(answer)["tokens"]
        found[str(ids[0])] = bias
    return found


BIAS = closing_bias()


def clever(reason: str, *models: str) -> Callable[[Any], Any]:
    """Expects a failure of these models, which are too small for what the test asks."""
    return pytest.mark.xfail(MODEL in models, reason=f"needs a clever model: {reason}", strict=True)


class TestStandard(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": MODEL,
            "base_url": f"{URL}/v1",
            "api_key": KEY,
            "temperature": 0,
            "max_retries": 0,
            "max_tokens": 300,
            "stream_usage": True,
            "logit_bias": BIAS,
        }

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return MODEL

    @clever("JSON with the keys that the prompt asks for, without a schema", "pico")
    def test_json_mode(self, model: BaseChatModel) -> None:
        super().test_json_mode(model)

    # greedy, smollm2 makes the forced call again and again where one was asked for
    @pytest.mark.parametrize("model", [{}, {"output_version": "v1"}], indirect=True)
    @clever("an end behind the first call", "smollm2")
    def test_tool_calling(self, model: BaseChatModel) -> None:
        super().test_tool_calling(model)

    @clever("an end behind the first call", "smollm2")
    async def test_tool_calling_async(self, model: BaseChatModel) -> None:
        await super().test_tool_calling_async(model)

    @clever("an end behind the first call", "smollm2")
    def test_tool_calling_with_no_arguments(self, model: BaseChatModel) -> None:
        super().test_tool_calling_with_no_arguments(model)

    @pytest.mark.parametrize("model", [{}, {"output_version": "v1"}], indirect=True)
    @clever("a call of a tool that no tool_choice asks for", "pico", "smollm2")
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)

    @clever("Chinese and Japanese names out of the prompt", "pico")
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None:
        super().test_unicode_tool_call_integration(model)


def served(**more: Any) -> ChatOpenAI:
    return ChatOpenAI(**{**TestStandard().chat_model_params, **more})


@tool
def weather(place: str) -> str:
    """Gets the weather of a place."""
    return f"It is sunny in {place}."


def test_an_agent_loop_whose_calls_are_forced() -> None:
    """What test_agent_loop shows of the server, with a model that calls nothing by itself."""
    question = HumanMessage("What is the weather at the beach?")
    call = served().bind_tools([weather], tool_choice="weather").invoke([question])
    [made] = call.tool_calls
    told = served().bind_tools([weather]).invoke([question, call, weather.invoke(made)])
    assert isinstance(told, AIMessage)
    assert call.response_metadata["finish_reason"] in ("tool_calls", "stop")


def test_names_of_any_script_in_a_forced_call() -> None:
    """What the standard test of Unicode shows of the server: a schema's names arrive as they are."""
    schema = {
        "title": "customer",
        "description": "Makes a customer.",
        "type": "object",
        "properties": {"name": {"enum": ["你好啊集团", "こんにちは株式会社"]}},
        "required": ["name"],
        "additionalProperties": False,
    }
    model = served(logit_bias=None).bind_tools([schema], tool_choice="customer")
    assert model.invoke("hello").tool_calls[0]["args"]["name"] in schema["properties"]["name"]["enum"]
    parts = None
    for chunk in model.stream("hello"):
        parts = chunk if parts is None else parts + chunk
    assert parts.tool_calls[0]["args"]["name"] in schema["properties"]["name"]["enum"]


def test_json_mode_writes_json() -> None:
    """What the standard test of JSON mode shows of the server, whatever the keys."""
    structured = served(logit_bias=None).with_structured_output(
        {"title": "any", "type": "object"}, method="json_mode"
    )
    asked = "Tell me a joke about cats. Return the result as a JSON with 'setup' and 'punchline' keys."
    assert isinstance(structured.invoke(f"{asked} Return nothing other than JSON."), dict)
