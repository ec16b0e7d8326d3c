"""Tools told as text, to a model whose chat template has no place for them.

The text is the one that Qwen 2.5's chat template writes (the Hermes form), and so are calls and their results
in the history. What a template sees are a system message and turns of user and assistant, in turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .parser import CALLS_FIELD

TOLD_FORM: Final = "hermes"
"""the form of the table in which calls are told and read"""
TOLD_CALL: Final = ('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n")
"""the texts before a call's name, before its arguments, behind these, and between two calls"""
_TOOLS: Final = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> \
XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
_RESULT: Final = "<tool_response>\n{result}\n</tool_response>"
TOLD_MARKS: Final = (
    "<tools>",
    "</tools>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
"""the marks in these texts"""
_APART: Final = "\n\n"
"""between the text of the tools and a message's own"""


@dataclass(frozen=True, slots=True)
class Telling:
    """The place where tools are told: the system message or, in a template without it, the user's first."""

    in_system: bool

    @property
    def place(self) -> str:
        """Returns the place in words."""
        return "the system message" if self.in_system else "the first message of the user"

    def turns(
        self, turns: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Returns a conversation in which tools, calls and results are text.

        ``tools``: their definitions. Results, and what the user says beside them, are one turn of the user.
        """
        shown = _with_results(turns)
        if not tools:
            return shown
        lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        text = _TOOLS.format(tools=lines)
        role = "system" if self.in_system else "user"
        own = [at for at, turn in enumerate(shown) if turn["role"] == role]
        if not own or (self.in_system and own[0] > 0):
            return [{"role": role, "content": text}, *shown]
        content = _text(shown[own[0]])
        both = (content, text) if self.in_system else (text, content)
        shown[own[0]]["content"] = _APART.join(part for part in both if part)
        return shown


def _with_results(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a conversation in which calls and results are text."""
    shown: list[dict[str, Any]] = []
    joins = False
    """the turn before holds results"""
    for turn in turns:
        is_result = turn["role"] == "tool"
        if is_result:
            turn = {"role": "user", "content": _RESULT.format(result=_text(turn))}
        elif turn.get(CALLS_FIELD):
            turn = _without_calls(turn)
        if shown and turn["role"] == shown[-1]["role"] == "user" and (is_result or joins):
            shown[-1]["content"] = f"{_text(shown[-1])}\n{_text(turn)}"
        else:
            shown.append(dict(turn))
        joins = is_result
    return shown


def _without_calls(turn: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an assistant's turn with its calls written behind its text."""
    begin, middle, end, between = TOLD_CALL
    functions = [call["function"] for call in turn[CALLS_FIELD]]
    calls = (
        f"{begin}{f['name']}{middle}{json.dumps(f['arguments'], ensure_ascii=False)}{end}" for f in functions
    )
    content = "\n".join(part for part in (_text(turn), between.join(calls)) if part)
    return {**{key: value for key, value in turn.items() if key != CALLS_FIELD}, "content": content}


def _text(turn: Mapping[str, Any]) -> str:
    """Returns the text of a turn, of which each part is a line."""
    content = turn.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)
