"""Response templates for models whose tokenizer brings none, in the declarative form of transformers.

Which one a model follows is found by its chat template (:mod:`.probe`); the beginning of the assistant's turn
(``start_anchor``) is the model's own and is filled in there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

_CALL: Final = {
    "type": "function",
    "function": {"name": "{content.name}", "arguments": "{content.arguments}"},
}
_EACH: Final = {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}}

THINK: Final = "<think>"
THINK_END: Final = "</think>"
REASONING: Final[Mapping[str, Any]] = MappingProxyType({"open": THINK, "close": THINK_END, "content": "text"})
"""the field of reasoning, of models whose chat template writes these marks"""

CALLS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        # Qwen 2.5 and 3, Hermes, SmolLM3: <tool_call>{"name": ..., "arguments": {...}}</tool_call>
        "hermes": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": _CALL,
        },
        # Qwen3-Coder: <tool_call><function=name><parameter=key>value</parameter></function></tool_call>
        "qwen_xml": {
            "open_pattern": r"<tool_call>\s*<function=(?P<name>[^>\s]+)>",
            "close_pattern": r"</function>\s*</tool_call>",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {
                "tag_pattern": r"<parameter=(?P<key>[^>\s]+)>\n?(?P<value>.*?)\n?</parameter>",
            },
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        # Mistral, newer: [TOOL_CALLS]name[CALL_ID]id[ARGS]{...}, several in a row, the id left out or not
        "mistral_args": {
            "open_pattern": r"\[TOOL_CALLS\](?P<name>[^\[\]{}\s]+)(?:\[CALL_ID\][^\[\]{}\s]*)?\[ARGS\]",
            "close_pattern": r"(?=\[TOOL_CALLS\])",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        # Mistral: [TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]
        "mistral": {
            "open": "[TOOL_CALLS]",
            "content": "json",
            "transform_each": True,
            "transform": _EACH,
        },
        # Llama 3: the whole reply is {"name": ..., "parameters": {...}}
        "llama3": {
            "open_pattern": r"\A\s*(?:<\|python_tag\|>)?(?=\{\s*\"name\")",
            "content": "json",
            "transform": {
                "type": "function",
                "function": {"name": "{content.name}", "arguments": "{content.parameters}"},
            },
        },
    }
)
"""name of a form -> the field of its calls"""
