"""langchain-openai: LangChain's standard tests of chat models, with tools, tool_choice, structured output, JSON mode.

The standard tests ask two things: does the server speak the protocol, and is the model clever? Tests of the second
kind are named below with the reason; they fail where they begin to pass, so that the list only shrinks.
"""

import os
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

MODEL = os.environ["ENTROPICK_E2E_MODEL"]
PICO = MODEL == "pico"


def clever(*, on: bool, reason: str) -> pytest.MarkDecorator:
    """Expects a failure of a model that is too small for what the test asks; the server's part is tested apart."""
    return pytest.mark.xfail(on, reason=f"needs a clever model: {reason}", raises=AssertionError, strict=True)


class TestStandard(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": MODEL,
            "base_url": os.environ["ENTROPICK_E2E_URL"] + "/v1",
            "api_key": os.environ["ENTROPICK_E2E_KEY"],
            "seed": 1,
            "max_retries": 0,
            "max_tokens": 300,
            "stream_usage": True,
        }

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return MODEL
