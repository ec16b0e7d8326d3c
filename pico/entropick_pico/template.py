"""The chat template: roles, the definitions of tools, calls and their results, and how a reply is parsed.

A conversation is ChatML. Tools are written into the system turn, one line each, as a signature:
``get_age(name: string) - Tells the age of a person.`` A call is ``<tool_call>{"name": ..., "arguments":
{...}}</tool_call>``; a result is a turn of the role ``tool``.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from entropick_pico.grammar.tools import CALL, CALL_END

TOOLS: Final = "Tools:"

_HEADER: Final = (
    """\
{%- set system = messages[0].content if messages and messages[0].role == 'system' else none -%}
{%- if tools or system is not none -%}
{{- '<|im_start|>system\\n' + (system or '') -}}
{%- if tools -%}
{{- ('\\n' if system else '') + '"""
    + TOOLS
    + """' -}}
{%- for tool in tools -%}
{%- set function = tool.function if tool.function is defined else tool -%}
{{- '\\n' + function.name + '(' -}}
{%- if function.parameters is defined and function.parameters.properties is defined -%}
{%- for name, schema in function.parameters.properties.items() -%}
{{- name + ': ' + (schema.type if schema.type is string else 'any') + (', ' if not loop.last else '') -}}
{%- endfor -%}
{%- endif -%}
{{- ')' + (' - ' + function.description if function.description else '') -}}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
"""
)
_TURNS: Final = (
    """\
{%- for message in messages -%}
{%- if not (loop.first and message.role == 'system') -%}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') -}}
{%- for call in message.tool_calls or [] -%}
{%- set function = call.function if call.function is defined else call -%}
{%- set arguments = function.arguments if function.arguments is string else function.arguments | tojson -%}
{{- '"""
    + CALL
    + """{"name": ' + function.name | tojson + ', "arguments": ' + arguments + '}"""
    + CALL_END
    + """' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
)
CHAT: Final = _HEADER + _TURNS

RESPONSE: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "version": 1,
        "defaults": {"role": "assistant"},
        "start_anchor": "<|im_start|>assistant\n",
        "fields": {
            "content": {"content": "text", "close": "<|im_end|>"},
            "tool_calls": {
                "open": CALL,
                "close": CALL_END,
                "repeats": True,
                "content": "json",
                "transform": {"type": "function", "function": "{content}"},
            },
        },
    }
)
"""The ``response_template`` of transformers: text, then calls."""


def header(tools: Sequence[Mapping[str, Any]], system: str | None = None) -> str | None:
    """Returns the text of the system turn as the template writes it, or None where there is none."""
    if not tools:
        return system
    lines = [*([system] if system else []), TOOLS]
    for tool in tools:
        function = tool["function"]
        properties = function["parameters"]["properties"].items()
        signature = ", ".join(f"{name}: {schema['type']}" for name, schema in properties)
        about = function.get("description")
        lines.append(f"{function['name']}({signature})" + (f" - {about}" if about else ""))
    return "\n".join(lines)
