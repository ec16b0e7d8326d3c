"""Chat templates in the ways in which models write calls of tools, each with a reply that it would write."""

from __future__ import annotations

from typing import Final, NamedTuple

_TURNS: Final = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.tool_calls %}CALLS{% else %}{{ message.content }}{% endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
OPEN{% endif -%}"""
_EACH: Final = "{% for call in message.tool_calls %}{% set f = call.function %}"
_HERMES: Final = (
    _EACH
    + '{{ "\\n" if not loop.first else "" }}<tool_call>\n{"name": "{{ f.name }}", "arguments": '
    + "{{ f.arguments | tojson }}}\n</tool_call>{% endfor %}"
)
_XML: Final = (
    _EACH
    + "<tool_call>\n<function={{ f.name }}>\n{% for k, v in f.arguments.items() %}"
    + "<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}"
)
_MISTRAL: Final = (
    "[TOOL_CALLS] ["
    + _EACH
    + "{% if call.id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}"
    + '{{ ", " if not loop.first else "" }}{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}, '
    + '"id": "{{ call.id }}"}{% endfor %}]'
)
_MISTRAL_ARGS: Final = (
    _EACH + "[TOOL_CALLS]{{ f.name }}[CALL_ID]{{ call.id }}[ARGS]{{ f.arguments | tojson }}{% endfor %}"
)
_LLAMA: Final = (
    "{% if message.tool_calls | length != 1 %}{{ raise_exception('one call') }}{% endif %}"
    + _EACH
    + '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}{% endfor %}'
)


class Style(NamedTuple):
    """A chat template, two calls (of f and g) as its model writes them, and whether a call can be forced."""

    template: str
    calls: str
    forced: bool = True
    several: bool = True


def _template(calls: str, opening: str = "") -> str:
    return _TURNS.replace("CALLS", calls).replace("OPEN", opening)


STYLES: Final = {
    "hermes": Style(
        _template(_HERMES),
        '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
    ),
    "xml": Style(
        _template(_XML),
        "<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=g>\n</function>\n</tool_call>",
        forced=False,
    ),
    "mistral": Style(
        _template(_MISTRAL),
        '[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]',
        several=False,
    ),
    "mistral_args": Style(
        _template(_MISTRAL_ARGS),
        '[TOOL_CALLS]f[ARGS]{"x": 1}[TOOL_CALLS]g[CALL_ID]123[ARGS]{}',
    ),
    "headless": Style(
        "{{ tools | tojson }}{% for message in messages %}{% if message.role == 'user' %}"
        "[INST]{{ message.content }}[/INST]"
        "{% elif message.role == 'tool' %}[RESULT]{{ message.content }}[/RESULT]{% else %}"
        + _HERMES
        + "<|im_end|>{% endif %}{% endfor %}",
        '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>',
    ),
    "llama3": Style(_template(_LLAMA), '{"name": "f", "parameters": {"x": 1}}', several=False),
}
THINKING: Final = _template(
    _HERMES, "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
"""of Qwen 3: the model opens its reasoning itself"""
OPENED: Final = _template("{{ message.content.split('</think>') }}", "<think>\n")
"""of DeepSeek R1: the prompt opens the reasoning; no tools"""
NO_TOOLS: Final = (
    _TURNS[_TURNS.index("{%- for message") :]
    .replace(
        "{% if message.tool_calls %}CALLS{% else %}{{ message.content }}{% endif %}", "{{ message.content }}"
    )
    .replace("OPEN", "")
)
