"""Chat templates of every kind: whole texts or parts, and failures that are a 400 with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from entropick_server.calibration.samples import CalibrationDataError, built_in_samples, read_samples
from entropick_server.chat_template import ChatTemplate, ChatTemplateError, Forms
from entropick_server.engine.base import ModelLoadError
from entropick_server.engine.tokenizer import FastTokenizer, byte_map, read_chat_template

CHAT = "/v1/chat/completions"
WHOLE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
TRIMMED = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}"
PARTS = (
    "{% for m in messages %}[{{ m.role }}]"
    "{% for p in m.content %}{% if p.type == 'text' %}({{ p.text }}){% endif %}{% endfor %}{% endfor %}"
)
EITHER = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}({{ p['text'] }}){% endfor %}{% endif %}{% endfor %}"
)
USERS_PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'user' %}"
    "{% for p in m.content %}({{ p['text'] }}){% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
IN_PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]


def fast(template: str | None) -> FastTokenizer:
    """A token for each byte."""
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(byte_map()))}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend)
    made.chat_template = template
    return FastTokenizer(made)


@pytest.mark.parametrize(
    ("template", "forms", "of_text", "of_parts"),
    [
        (WHOLE, Forms(True, False), "[user]one", "[user]one\ntwo"),
        (TRIMMED, Forms(True, False), "[user]one", "[user]one\ntwo"),
        (PARTS, Forms(False, True), "[user](one)", "[user](one)(two)"),
        (EITHER, Forms(True, True), "[user]one", "[user](one)(two)"),
        (USERS_PARTS, Forms(False, True), "[user](one)", "[user](one)(two)"),
    ],
)
def test_no_words_vanish(template: str, forms: Forms, of_text: str, of_parts: str) -> None:
    made = ChatTemplate(fast(template))
    assert made.forms("user") == forms
    for content, shown in (("one", of_text), (IN_PARTS, of_parts)):
        assert made.render([{"role": "user", "content": content}]) == shown


def test_each_role_has_its_form() -> None:
    made = ChatTemplate(fast(USERS_PARTS))
    turns = [{"role": role, "content": IN_PARTS} for role in ("system", "user", "assistant")]
    assert made.render(turns) == "[system]one\ntwo[user](one)(two)[assistant]one\ntwo"
    assert made.forms("assistant") == Forms(True, False)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ tools | length }}", "TypeError: object of type 'NoneType' has no len()"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{% for i in range(1000000) %}x{% endfor %}", "OverflowError: Range too big"),
        ("{{ messages[0].content.missing.there }}", "has no attribute 'missing'"),
        ("{{ messages[0].content + 1 }}", "TypeError: "),
        ("{{ 'x'.encode('ascii').decode('utf-9') }}", "LookupError: "),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError: "),
        ("{{ ''.__class__.__mro__ }}", "refuses these messages: "),
        ("{{ raise_exception('roles must alternate') }}", "refuses these messages: roles must alternate"),
        ("{% for %}", "refuses these messages: "),
        (None, "no chat template"),
    ],
)
def test_a_failure_tells_why(template: str | None, reason: str) -> None:
    made = ChatTemplate(fast(template))
    with pytest.raises(ChatTemplateError) as caught:
        made.render([{"role": "user", "content": "x"}])
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400


def test_tools_and_documents_are_defined() -> None:
    template = "{{ tools is defined }} {{ documents is defined }} {{ tools is none }} {{ messages | length }}"
    assert ChatTemplate(fast(template)).render([{"role": "user", "content": "x"}]) == "True True True 1"


@pytest.mark.parametrize("template", ["{{ tools | length }}", "{{ 1 / 0 }}"])
async def test_a_failure_is_a_400(client: httpx.AsyncClient, engine: Any, template: str) -> None:
    real = fast(template)
    state = client.app.state.server  # type: ignore[attr-defined]
    engine.tokenizer.render_chat = real.render_chat
    messages = [{"role": "user", "content": "Hello"}]
    for route in (CHAT, "/tokenize"):
        answer = await client.post(route, json={"messages": messages})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "messages")
        assert "Error: " in error["message"]
    assert state.ready


async def test_parts_reach_a_template_of_parts(client: httpx.AsyncClient, engine: Any) -> None:
    engine.tokenizer.render_chat = fast(PARTS).render_chat
    for content, shown in (("Grüße", "[user](Grüße)"), (IN_PARTS, "[user](one)(two)")):
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
        assert (await client.post(CHAT, json=body)).status_code == 200
        assert bytes(engine.requests[-1].prompt_token_ids).decode() == shown


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ({"content": None}, ""),
        ({}, ""),
        ({"content": None, "tool_calls": []}, ""),
        ({"content": "said", "refusal": None, "annotations": []}, "said"),
        ({"content": None, "refusal": "I cannot"}, "I cannot"),
        ({"content": [{"type": "refusal", "refusal": "no"}, {"type": "text", "text": "x"}]}, "no\nx"),
        ({"content": []}, ""),
        ({"content": "named", "name": "ann"}, "named"),
    ],
)
async def test_messages_of_the_assistant(
    client: httpx.AsyncClient, engine: Any, message: dict[str, Any], shown: str
) -> None:
    hello = {"role": "user", "content": "Hello"}
    body = {"messages": [hello, {"role": "assistant", **message}, hello], "max_tokens": 1}
    answer = await client.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    text = bytes(engine.requests[-1].prompt_token_ids).decode()
    assert text == f"user: Hello\nassistant: {shown}\nuser: Hello\n"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages[0].content"),
        ({"role": "system", "content": None}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": ["x"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"text": "x"}]}, "messages[0].content[0].type"),
        ({"role": "assistant", "content": [{"type": "text", "text": 1}]}, "messages[0].content[0].text"),
        ({"role": "assistant", "content": [{"type": "image_url"}]}, "messages[0].content[0].type"),
        ({"role": "assistant", "content": [{}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": "x", "name": 1}, "messages[0].name"),
        ({"content": "x"}, "messages[0].role"),
    ],
)
async def test_the_path_of_a_wrong_field(
    client: httpx.AsyncClient, message: dict[str, Any], param: str
) -> None:
    answer = await client.post(CHAT, json={"messages": [message]})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert "must be a string." not in error["message"] or not param.endswith("content")
    assert "<" not in error["message"]


def test_calibration_takes_parts(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(
        '{"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, '
        '{"role": "assistant", "content": [{"type": "text", "text": "ab"}, '
        '{"type": "text", "text": "c"}]}]}\n'
    )
    for template, shown in ((WHOLE, "[user]Hi"), (PARTS, "[user](Hi)")):
        tokenizer = fast(template)
        (sample,) = read_samples(file, tokenizer, [7], 100)
        assert tokenizer.decode(list(sample.prompt), skip_special_tokens=False) == shown
        assert tokenizer.decode(list(sample.reply[:-1]), skip_special_tokens=False) == "ab\nc"
    with pytest.raises(CalibrationDataError, match=r"line 1: .*ZeroDivisionError"):
        read_samples(file, fast("{{ 1 / 0 }}"), [7], 100)


def test_a_model_whose_template_fails_is_calibrated_on_plain_texts() -> None:
    assert built_in_samples(fast("{{ tools | length }}")) == built_in_samples(fast(None))


def test_a_template_of_the_operator(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text("{% generation %}{{ messages[0].content }}!{% endgeneration %}")
    text = read_chat_template(str(file))
    backend = fast(WHOLE)._tokenizer
    made = FastTokenizer(backend, text)
    assert made.render_chat([{"role": "user", "content": "x"}], add_generation_prompt=True) == "x!"


@pytest.mark.parametrize(
    ("content", "why"), [(b"{% for %}", "line 1"), (b"\xff\xfe", "cannot be read"), (b" \n", "is empty")]
)
def test_a_file_that_is_no_template(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "chat.jinja"
    file.write_bytes(content)
    with pytest.raises(ModelLoadError, match=why):
        read_chat_template(str(file))
    with pytest.raises(ModelLoadError, match="cannot be read"):
        read_chat_template(str(tmp_path / "none"))
