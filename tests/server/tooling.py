"""A tokenizer whose chat template has a place for tools, and replies that call them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.utils.chat_parsing.response_templates import load_response_template

from entropick_server.engine.reply_format.form import CallForm, Reading, ReplyFormat
from entropick_server.engine.reply_format.parser import without_calls

from .support import ByteTokenizer

TEMPLATE = load_response_template(
    {
        "start_anchor": "assistant: ",
        "fields": {
            "content": {"content": "text"},
            "reasoning_content": {"open": "<think>", "close": "</think>", "content": "text"},
            "tool_calls": {
                "open": "<tool_call>",
                "close": "</tool_call>",
                "repeats": True,
                "content": "json",
                "transform": {"type": "function", "function": "{content}"},
            },
        },
    }
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PLAIN = {"type": "function", "function": {"name": "now"}}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Zürich"}}</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


class Templated(ByteTokenizer):
    """A tokenizer whose chat template has a place for tools, and options."""

    def __init__(self) -> None:
        self.rendered: list[tuple[list[dict[str, Any]], list[Any], dict[str, Any]]] = []
        self.form = ReplyFormat(
            lambda ids: self.decode(ids, skip_special_tokens=False),
            True,
            Reading.of(without_calls(TEMPLATE), {}),
            Reading.of(TEMPLATE, {}),
            CallForm('<tool_call>{"name": "', '", "arguments": ', "}</tool_call>", ""),
        )

    def render_chat(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        template_options: Mapping[str, Any] | None = None,
    ) -> str:
        self.rendered.append((messages, list(tools), dict(template_options or {})))
        opening = "assistant: " if add_generation_prompt else ""
        if template_options and template_options.get("enable_thinking") is False:
            opening += "<think></think>"
        elif template_options and template_options.get("enable_thinking"):
            opening += "<think>"
        return "".join(f"{m['role']}: {m['content']}\n" for m in messages[-2:]) + opening
