"""instructor: objects out of replies, by tools, JSON mode and JSON schemas."""

from typing import Literal

import instructor
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

MESSAGES = [{"role": "user", "content": "A red ball lies in the garden."}]
# of each the server makes sure that the reply has the form, whatever the model
FORCED = [
    instructor.Mode.TOOLS,
    instructor.Mode.TOOLS_STRICT,
    instructor.Mode.JSON_SCHEMA,
]


class Ball(BaseModel):
    """A ball."""

    colour: Literal["red", "green"]
    heavy: bool
    kilograms: int = Field(ge=0, le=9)


def wrapped(mode: instructor.Mode, url: str, key: str) -> instructor.Instructor:
    return instructor.from_openai(OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0), mode=mode)


@pytest.mark.parametrize("mode", FORCED, ids=lambda mode: mode.value)
def test_an_object(mode: instructor.Mode, url: str, key: str, model: str) -> None:
    ball, reply = wrapped(mode, url, key).create_with_completion(
        model=model, messages=MESSAGES, response_model=Ball, max_tokens=150, max_retries=1
    )
    assert isinstance(ball, Ball)
    assert reply.usage.completion_tokens > 0


@pytest.mark.parametrize(
    "mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA], ids=lambda mode: mode.value
)
def test_an_object_that_grows(mode: instructor.Mode, url: str, key: str, model: str) -> None:
    parts = list(
        wrapped(mode, url, key).create_partial(
            model=model, messages=MESSAGES, response_model=Ball, max_tokens=150, max_retries=1
        )
    )
    assert len(parts) > 1
    assert Ball.model_validate(parts[-1].model_dump())


def test_a_reply_that_does_not_validate_is_asked_for_again(url: str, key: str, model: str) -> None:
    """The history then has the wrong call and a message of role tool with the reason."""
    tried: list[int] = []

    class Odd(BaseModel):
        number: int = Field(ge=0, le=9)

        def model_post_init(self, context: object) -> None:
            tried.append(self.number)
            if len(tried) == 1:
                raise ValueError("try again")

    odd = wrapped(instructor.Mode.TOOLS, url, key).create(
        model=model, messages=MESSAGES, response_model=Odd, max_tokens=150, max_retries=3
    )
    assert odd.number == tried[-1]
    assert len(tried) > 1
