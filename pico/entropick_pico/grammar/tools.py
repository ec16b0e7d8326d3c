"""Exchanges with tools: a call with arguments from the question, and an answer from the tool's result.

The names of the tools and of their parameters are drawn anew for each conversation, so they must be read
from the definitions.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from entropick_pico.grammar import world as w
from entropick_pico.grammar.prompts import ask
from entropick_pico.grammar.reply import Example, Reply

CALL: Final = "<tool_call>"
CALL_END: Final = "</tool_call>"
NO_TOOL: Final = "I have no tool for that."
WEATHERS: Final = w.words("sunny rainy snowy windy foggy cloudy")


@dataclass(frozen=True)
class Need:
    """A kind of question that a tool answers: its wordings, its parameters, its results and its answers."""

    names: tuple[str, ...]
    about: str
    parameters: Mapping[str, tuple[tuple[str, ...], str, Callable[[random.Random], Any]]]
    questions: tuple[str, ...]
    result: str
    values: Callable[[random.Random], Any]
    answer: str


def _number(low: int, high: int) -> Callable[[random.Random], int]:
    return lambda rng: rng.randint(low, high)


def _one(items: Sequence[str]) -> Callable[[random.Random], str]:
    return lambda rng: rng.choice(items)


NEEDS: Final = (
    Need(
        ("get_age", "age_of", "person_age"),
        "Tells the age of a person.",
        MappingProxyType({"name": (("name", "person", "who"), "string", _one(w.NAMES))}),
        ("how old is {name}?", "what is the age of {name}?", "tell me the age of {name}."),
        "age",
        _number(5, 99),
        "{name} is {value}.",
    ),
    Need(
        ("get_weather", "weather_at", "weather"),
        "Tells the weather at a place.",
        MappingProxyType({"place": (("place", "location", "where"), "string", _one(w.PLACES))}),
        (
            "how is the weather at the {place}?",
            "what is the weather at the {place}?",
            "weather at the {place}?",
        ),
        "weather",
        _one(WEATHERS),
        "The weather at the {place} is {value}.",
    ),
    Need(
        ("find_pet", "pet_of", "get_pet"),
        "Finds the pet of a person.",
        MappingProxyType({"name": (("name", "person", "owner"), "string", _one(w.NAMES))}),
        ("which pet does {name} have?", "what pet has {name}?", "tell me the pet of {name}."),
        "pet",
        _one(w.ANIMALS),
        "{name} has a pet, it is a {value}.",
    ),
    Need(
        ("get_price", "price_of", "price"),
        "Tells what a thing costs.",
        MappingProxyType(
            {
                "color": (("color", "paint"), "string", _one(w.COLORS)),
                "thing": (("thing", "item", "product"), "string", _one(w.OBJECTS)),
            }
        ),
        (
            "what does a {color} {thing} cost?",
            "how much is a {color} {thing}?",
            "the price of a {color} {thing}?",
        ),
        "price",
        _number(2, 99),
        "The price of a {color} {thing} is {value}.",
    ),
    Need(
        ("multiply", "times", "product_of"),
        "Multiplies two numbers.",
        MappingProxyType(
            {
                "a": (("a", "x", "left"), "integer", _number(11, 99)),
                "b": (("b", "y", "right"), "integer", _number(11, 99)),
            }
        ),
        ("multiply {a} by {b}.", "what is {a} times {b}?", "how much is {a} times {b}?"),
        "result",
        _number(121, 9801),
        "The answer is {value}.",
    ),
    Need(
        ("book_table", "reserve", "table_for"),
        "Books a table for some people.",
        MappingProxyType(
            {
                "name": (("name", "guest", "person"), "string", _one(w.NAMES)),
                "count": (("count", "people", "seats"), "integer", _number(2, 12)),
            }
        ),
        ("book a table for {count} people, my name is {name}.", "I am {name}, book a table for {count}."),
        "booked",
        lambda rng: rng.random() < 0.7,
        "{done}",
    ),
    Need(
        ("set_lamp", "lamp", "set_light"),
        "Sets the color of the lamp.",
        MappingProxyType({"color": (("color", "value", "light"), "string", _one(w.COLORS))}),
        ("set the lamp to {color}.", "make the lamp {color}.", "turn the lamp {color}."),
        "done",
        lambda rng: rng.random() < 0.7,
        "{done}",
    ),
)


@dataclass(frozen=True)
class Tool:
    """A tool as one conversation names it, and the kind of question it is for."""

    need: Need
    name: str
    keys: Mapping[str, str]
    described: bool

    @property
    def definition(self) -> dict[str, Any]:
        """Returns the definition in the form of OpenAI's ``tools``."""
        properties = {self.keys[key]: {"type": kind} for key, (_, kind, _) in self.need.parameters.items()}
        function: dict[str, Any] = {"name": self.name}
        if self.described:
            function["description"] = self.need.about
        function["parameters"] = {"type": "object", "properties": properties, "required": list(properties)}
        return {"type": "function", "function": function}


def name_tool(rng: random.Random, need: Need, described: bool) -> Tool:
    """Draws the names of a tool and of its parameters."""
    keys = {key: rng.choice(names) for key, (names, _, _) in need.parameters.items()}
    return Tool(need, rng.choice(need.names), MappingProxyType(keys), described)


def offer(rng: random.Random, wanted: Need) -> tuple[Tool, ...]:
    """Returns up to four tools in any order, the tool for ``wanted`` among them."""
    needs = [wanted, *rng.sample([need for need in NEEDS if need is not wanted], rng.randint(0, 3))]
    described = rng.random() < 0.5
    return tuple(name_tool(rng, need, described) for need in rng.sample(needs, len(needs)))


def call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """Returns a call as the chat template writes it."""
    return CALL + json.dumps({"name": name, "arguments": dict(arguments)}, ensure_ascii=False) + CALL_END


def tool_talk(rng: random.Random, kind: str | None = None) -> list[Example]:
    """Returns exchanges with tools: a call and the answer from its result, sometimes twice, or a refusal.

    ``kind`` "call" (most of them) or "no_tool" decides which; an answer has kind "report". The definitions
    stand in the first example.
    """
    need = rng.choice(NEEDS)
    if (kind or ("no_tool" if rng.random() < 0.12 else "call")) == "no_tool":
        return [_refusal(rng, need)]
    tools = offer(rng, need)
    talk = _exchange(rng, next(tool for tool in tools if tool.need is need))
    if rng.random() < 0.2:
        talk += _exchange(rng, rng.choice(tools))
    return [replace(talk[0], tools=tuple(tool.definition for tool in tools)), *talk[1:]]


def _refusal(rng: random.Random, need: Need) -> Example:
    """Return a question for which there is no tool."""
    _, user, key = _question(rng, need)
    others = rng.sample([other for other in NEEDS if other is not need], rng.randint(1, 3))
    described = rng.random() < 0.5
    tools = tuple(name_tool(rng, other, described).definition for other in others)
    reply = Reply(rng).sure("tool", NO_TOOL.split()[0]).say(NO_TOOL[len(NO_TOOL.split()[0]) :])
    return reply.finish(user, "no_tool", NO_TOOL, key=key, tools=tools)


def _question(rng: random.Random, need: Need) -> tuple[dict[str, Any], str, str]:
    """Draw the values of the parameters, the question, and the key of the input."""
    values = {key: draw(rng) for key, (_, _, draw) in need.parameters.items()}
    user = ask(rng, [question.format(**values) for question in need.questions])
    return values, user, " ".join(["tool", need.names[0], *map(str, values.values())])


def _exchange(rng: random.Random, tool: Tool) -> list[Example]:
    """Return a call of ``tool`` and the answer from its result."""
    values, user, key = _question(rng, tool.need)
    text = call_text(tool.name, {tool.keys[name]: value for name, value in values.items()})
    call = Reply(rng).sure("tool", CALL).say(text[len(CALL) :]).finish(user, "call", text, key=key)
    return [call, _report(rng, tool.need, values, key)]


def _report(rng: random.Random, need: Need, values: Mapping[str, Any], key: str) -> Example:
    """Return the answer to a result that was drawn at random, so that it cannot be known."""
    value = need.values(rng)
    done = "It is done." if value is True else "That failed."
    before, placed, after = need.answer.format(done=done, value="\n", **values).partition(" \n")
    said = before.split()[0]
    reply = Reply(rng)
    if placed:
        reply.say(before).sure("report", f" {value}").say(after)
    else:
        reply.sure("report", said).say(before[len(said) :])
    gold = f"{before} {value}{after}" if placed else before
    return reply.finish(json.dumps({need.result: value}), "report", gold, key=key, role="tool")
