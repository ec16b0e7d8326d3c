"""Talking with the model in the page: the stream, the stop button, errors, the key."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import (
    Server,
    Watched,
    ask,
    begin_anew,
    made_row,
    open_tab,
    settle,
    shot,
    start_server,
    stream_of,
)

STORY = "Tell me a story."
CAPITAL = "What is the capital of Falnia?"


def test_a_reply_streams_and_is_what_the_api_says(chat: Any, server: Server) -> None:
    chat.evaluate(
        """() => { window.counts = []; new MutationObserver(() => {
          const tokens = document.querySelector('.tokens');
          const busy = document.querySelector('.reply')?.getAttribute('aria-busy');
          if (tokens) window.counts.push([Number(tokens.dataset.count), busy]);
        }).observe(document.getElementById('app'), {subtree: true, childList: true, attributes: true}); }"""
    )
    chat.route("**/v1/chat/completions", lambda route: longer(route, 300))
    ask(chat, STORY)
    growing = [count for count, busy in chat.evaluate("window.counts") if busy == "true"]
    assert len(set(growing)) >= 3, "the reply did not grow step by step"
    assert growing == sorted(growing)
    chat.unroute("**/v1/chat/completions")
    begin_anew(chat)
    ask(chat, STORY)
    newest = server.record(chat)
    plain = httpx.post(
        f"{server.url}/v1/chat/completions",
        json={
            "messages": [{"role": "user", "content": STORY}],
            "max_tokens": 400,
            "seed": newest["summary"]["seed"],
        },
        timeout=60,
    ).json()
    assert chat.locator(".tokens").evaluate(TEXT) == plain["choices"][0]["message"]["content"]
    assert chat.locator(".tokens").get_attribute("data-count") == str(plain["usage"]["completion_tokens"])


def longer(route: Any, tokens: int) -> None:
    """Lets a request through that goes on behind the end of the model's reply."""
    route.continue_(post_data={**route.request.post_data_json, "ignore_eos": True, "max_tokens": tokens})


TEXT = """tokens => { const copy = tokens.cloneNode(true);
  copy.querySelectorAll('.mark').forEach(mark => mark.remove()); return copy.textContent; }"""


def test_a_second_message_goes_out_with_the_conversation_before_it(chat: Any) -> None:
    ask(chat, CAPITAL)
    first = chat.locator(".tokens").evaluate(TEXT)
    with chat.expect_request("**/v1/chat/completions") as sent:
        ask(chat, "Thanks.")
    assert sent.value.post_data_json["messages"] == [
        {"role": "user", "content": CAPITAL},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Thanks."},
    ]
    begin_anew(chat)


def test_one_number_comes_first_and_colours_only_when_asked_for(chat: Any) -> None:
    ask(chat, STORY)
    assert chat.locator(".headline").get_attribute("data-kind") in ("hesitation", "error_probability")
    text = chat.inner_text(".headline")
    rows = chat.locator(".tokens [role=option]").count()
    if chat.locator(".headline").get_attribute("data-kind") == "hesitation":
        assert f"{rows} tokens" in text
    assert chat.locator(".tokens [class*=' u']").count() == 0
    assert chat.locator(".tokens [class*=' s-']").count() == 0


def test_the_number_is_the_error_probability_where_there_is_one(chat: Any) -> None:
    summary = {"error_probability": 0.316, "strategies": {}, "signals": {}, "seed": 1}
    final = {
        "choices": [
            {
                "index": 0,
                "delta": {"content": "Yes"},
                "finish_reason": "stop",
                "entropick": {"tokens": [made_row(0, "Yes", 2.0)], "summary": summary},
            }
        ]
    }
    chat.route("**/v1/chat/completions", lambda route: route.fulfill(body=stream_of([final])))
    ask(chat, "Is it?")
    assert chat.inner_text(".headline").split("\n")[0].startswith("32 % likely to be wrong")


def test_hesitations_are_counted_as_the_servers_definition_says(chat: Any, server: Server) -> None:
    open_tab(chat, "policy")
    chat.fill("input[name=temperature]", "1.2")
    ask(chat, STORY)
    definition = server.get("/v1/policy")["hesitation"]
    series = server.record(chat)["series"]
    pairs = zip(series[definition["signal"]], series["forced"], strict=True)
    # a token of an inserted text was not drawn
    values = [value for value, forced in pairs if not forced]
    counted = sum(value >= definition["from"] for value in values)
    assert counted > 0
    assert chat.inner_text(".headline").startswith(f"Hesitated at {counted} of {len(values)} tokens")


def test_stop_ends_the_reply_and_keeps_what_came(chat: Any, server: Server) -> None:
    open_tab(chat, "policy")
    chat.fill("input[name=max_tokens]", "900")
    chat.route("**/v1/chat/completions", lambda route: longer(route, 900))
    chat.fill("#ask", STORY)
    chat.press("#ask", "Enter")
    chat.wait_for_function("() => document.querySelector('.tokens')?.dataset.count > 5")
    chat.click("button:has-text('Stop')")
    chat.wait_for_selector(".reply[aria-busy=false]")
    settle(chat)
    count = int(chat.locator(".tokens").get_attribute("data-count"))
    assert 5 < count < 900
    assert chat.locator(".problem").count() == 0
    chat.click("summary:has-text('About this reply')")
    assert "stopped by you" in chat.inner_text(".foot")


def test_a_refusal_is_shown_in_the_servers_words(open_page: Callable[..., Watched], server: Server) -> None:
    watched = open_page(server.url)
    watched.expected.append("status of 400")
    chat = watched.page
    chat.wait_for_selector("#ask")
    open_tab(chat, "policy")
    chat.fill("input[name=temperature]", "9")
    chat.fill("#ask", CAPITAL)
    with chat.expect_response("**/v1/chat/completions") as answered:
        chat.press("#ask", "Enter")
    message = answered.value.json()["error"]["message"]
    chat.wait_for_selector(".problem")
    assert message in chat.inner_text(".problem")
    assert "temperature" in message
    chat.fill("input[name=temperature]", "")
    chat.click("button:has-text('Ask again')")
    chat.wait_for_selector(".headline")
    assert chat.locator(".problem").count() == 0


def test_an_error_in_the_stream_is_shown_beside_what_came(chat: Any) -> None:
    delta = {
        "index": 0,
        "delta": {"content": "One"},
        "finish_reason": None,
        "entropick": {"tokens": [made_row(0, "One", 1.0)]},
    }
    body = stream_of([{"choices": [delta]}], done=False)
    body += (
        'data: {"error": {"message": "The model\'s logits are not finite.", "code": "generation_failed"}}\n\n'
    )
    chat.route("**/v1/chat/completions", lambda route: route.fulfill(body=body))
    ask(chat, "Go on.")
    assert chat.inner_text(".tokens") == "One"
    assert "The reply broke off. The model's logits are not finite." in chat.inner_text(".problem")


def test_a_server_that_dies_in_mid_stream_is_said_plainly(
    open_page: Callable[..., Watched], tmp_path: Path
) -> None:
    server = start_server(tmp_path / "log", "--log-level", "warning")
    try:
        watched = open_page(server.url)
        watched.expected += ["ERR_", "Failed to load resource"]
        page = watched.page
        page.wait_for_selector("#ask")
        page.route("**/v1/chat/completions", lambda route: longer(route, 900))
        page.fill("#ask", STORY)
        page.press("#ask", "Enter")
        page.wait_for_function("() => document.querySelector('.tokens')?.dataset.count > 3")
        os.kill(server.process.pid, signal.SIGKILL)
        page.wait_for_selector(".problem", timeout=20_000)
        assert "The reply broke off." in page.inner_text(".problem")
        assert "The connection" in page.inner_text(".problem")
        assert int(page.locator(".tokens").get_attribute("data-count")) > 3
        shot(page, "died")
        page.click("button:has-text('Ask again')")
        page.wait_for_selector(".problem:has-text('cannot be reached')")
    finally:
        server.stop()


@pytest.mark.parametrize("wrong", ["wrong", "secret2"])
def test_a_wrong_key_is_refused_and_the_right_one_lets_in(
    open_page: Callable[..., Watched], keyed: Server, wrong: str
) -> None:
    watched = open_page(keyed.url)
    watched.expected += ["401"]
    page = watched.page
    page.wait_for_selector("#key")
    shot(page, "key")
    page.fill("#key", wrong)
    page.press("#key", "Enter")
    page.wait_for_selector("[role=alert]")
    assert "does not take this key" in page.inner_text("[role=alert]")
    assert page.evaluate("sessionStorage.length") == 0
    page.fill("#key", "secret")
    page.press("#key", "Enter")
    page.wait_for_selector("#ask")
    ask(page, CAPITAL)
    assert page.locator(".tokens").count() == 1
    assert "secret" not in page.content()
    assert page.evaluate("Object.values(localStorage).includes('secret')") is False
    page.click("button:has-text('Forget the key')")
    page.wait_for_selector("#key")
    assert page.evaluate("sessionStorage.length") == 0


def test_markup_in_a_token_is_text_everywhere(chat: Any, tmp_path: Path) -> None:
    evil = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script></script><!--'
    probable = [
        {"token": evil, "token_id": 0, "probability": 0.6, "final_probability": 1.0, "cut_by": None},
        {"token": f"{evil}2", "token_id": 1, "probability": 0.4, "final_probability": 0.0, "cut_by": "top_p"},
    ]
    branches = [{"text": evil, "token_ids": [0], "score": 1.0, "chosen": True}]
    row = made_row(0, evil, 1.5, most_probable=probable, branches=branches)
    choice = {"index": 0, "delta": {"content": evil}, "finish_reason": "stop", "entropick": {"tokens": [row]}}
    chat.route("**/v1/chat/completions", lambda route: route.fulfill(body=stream_of([{"choices": [choice]}])))
    ask(chat, evil)
    chat.click(".switch")
    chat.click(".tokens [data-i='0']")
    assert chat.inner_text(".tokens") == evil
    for tab in ("token", "plane", "time", "heads", "branches", "policy"):
        open_tab(chat, tab)
        settle(chat)
    chat.click("summary:has-text('About this reply')")
    with chat.expect_download() as download:
        chat.click("button:has-text('Export as a page')")
    saved = tmp_path / "evil.html"
    download.value.save_as(saved)
    assert chat.evaluate("window.hacked") is None
    assert chat.locator("#app img, #app script").count() == 0
    shared = chat.context.new_page()
    shared.goto(saved.as_uri())
    assert shared.inner_text(".tokens") == evil
    shared.hover(".tokens span")
    assert shared.evaluate("window.hacked") is None
    assert shared.locator("main img, main script").count() == 0


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    started = start_server(tmp_path_factory.mktemp("keyed") / "log", "--log-level", "warning", key="secret")
    yield started
    started.stop()
