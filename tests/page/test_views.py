"""What the page shows of a reply: colours, a token's card, rewind, plane, branches, recent, export."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import Server, Watched, ask, open_tab, set_range, settle, shot
from .test_conversation import CAPITAL, STORY, TEXT


def warm(page: Any, temperature: str = "1.2", seed: str = "5") -> None:
    """Asks for a temperature at which pico hesitates, and a seed."""
    open_tab(page, "policy")
    page.fill("input[name=temperature]", temperature)
    page.fill("input[name=seed]", seed)


def test_colours_show_the_level_of_the_signal_that_was_chosen(chat: Any, server: Server) -> None:
    warm(chat)
    ask(chat, STORY)
    series = server.record(chat)["series"]
    policy = server.get("/v1/policy")
    assert chat.locator("#signal").is_disabled()
    chat.click(".switch")
    levels = policy["quantile_levels"]
    for name in ("logits_entropy", "attention_entropy"):
        chat.select_option("#signal", name)
        settle(chat)
        cuts = [policy["profile"]["quantiles"][name][levels.index(q)] for q in (0.5, 0.75, 0.9, 0.95)]
        wanted = ["none" if v is None else sum(v >= cut for cut in cuts) for v in series[name]]
        assert len(set(wanted)) > 1
        assert shown_levels(chat) == [f"u-{level}" if level == "none" else f"u{level}" for level in wanted]
        unit = next(s["unit"] for s in policy["signals"] if s["name"] == name)
        assert unit in chat.inner_text(f"#signal option[value={name}]")
        assert chat.locator(".legend li").count() == 5
    help_text = next(s["help"] for s in policy["signals"] if s["name"] == "attention_entropy")
    assert help_text in chat.inner_text(".legend")
    chat.select_option("#signal", "strategy")
    settle(chat)
    assert shown_levels(chat) == [f"s-{name or 'off'}" for name in series["strategy"]]
    chat.click(".switch")
    settle(chat)
    assert set(shown_levels(chat)) == {""}


def shown_levels(page: Any) -> list[str]:
    """The class of each token that colours it."""
    return page.evaluate(
        """[...document.querySelectorAll('.tokens [role=option]')].map(
        t => [...t.classList].find(c => /^(u|s-)/.test(c)) ?? '')"""
    )


def test_every_signal_of_the_server_can_be_chosen(chat: Any, server: Server) -> None:
    names = [signal["name"] for signal in server.get("/v1/policy")["signals"]]
    options = chat.evaluate("[...document.querySelectorAll('#signal option')].map(o => o.value)")
    assert sorted(options) == sorted(["strategy", *names])
    ask(chat, STORY)
    chat.click(".switch")
    for name in names:
        chat.select_option("#signal", name)
        settle(chat)
        assert chat.locator(".legend li").count() >= 1


def test_levels_and_strategies_differ_without_their_colours(chat: Any) -> None:
    chat.click(".switch")
    ask(chat, STORY)
    for signal in ("logits_entropy", "strategy"):
        chat.select_option("#signal", signal)
        settle(chat)
        lines = chat.evaluate(
            """[...document.querySelectorAll('.legend .t')].map(t => {
            const style = getComputedStyle(t);
            return `${style.textDecorationLine} ${style.textDecorationStyle}`; })"""
        )
        # greedy and policy off are told apart by the ink
        assert len(set(lines)) >= 5, lines


def test_colours_show_while_c_is_held(chat: Any) -> None:
    ask(chat, STORY)
    chat.focus(".tokens")
    chat.keyboard.down("c")
    settle(chat)
    assert "" not in shown_levels(chat)
    chat.keyboard.up("c")
    settle(chat)
    assert set(shown_levels(chat)) == {""}
    chat.focus("#ask")
    chat.keyboard.type("cc")
    assert chat.input_value("#ask") == "cc"


def test_a_token_shows_its_figures_and_the_20_most_probable(chat: Any, server: Server) -> None:
    warm(chat)
    with chat.expect_response("**/v1/chat/completions") as answered:
        ask(chat, STORY)
    rows = rows_of(answered.value.text())
    # a token where a filter cut some of the first twenty and left some
    at = next(i for i, row in enumerate(rows) if i and 1 < drawable(row) < 20)
    open_tab(chat, "token")
    chat.hover(f".tokens [data-i='{at}']")
    settle(chat)
    card = chat.locator("#token-card")
    assert card.get_attribute("data-index") == str(at)
    listed = rows[at]["most_probable"]
    assert len(listed) >= 20
    shown = chat.evaluate(
        """[...document.querySelectorAll('.candidates tbody tr')].map(r => [
        r.querySelector('code').textContent, r.querySelector('td').textContent,
        r.querySelectorAll('td')[1].textContent, r.classList.contains('cut'),
        r.classList.contains('drawn')])"""
    )
    assert [row[0] for row in shown] == [visible(one["token"]) for one in listed]
    assert [row[3] for row in shown] == [one["cut_by"] is not None for one in listed]
    assert any(row[3] for row in shown), "nothing was cut at this token"
    assert [row[4] for row in shown] == [one["token_id"] == rows[at]["token_id"] for one in listed]
    for row, one in zip(shown, listed, strict=True):
        if one["cut_by"]:
            assert row[2] == f"cut by {one['cut_by'].replace('_', '-')}"
        if one["probability"] > 0.01:
            assert float(row[1].rstrip(" %")) == pytest.approx(100 * one["probability"], abs=0.06)
    entropy = rows[at]["signals"]["logits_entropy"]
    assert f"{entropy:.2f}" in chat.inner_text(".figures >> nth=0")
    chat.hover(f".tokens [data-i='{at - 1}']")
    settle(chat)
    assert card.get_attribute("data-index") == str(at - 1)
    chat.click(f".tokens [data-i='{at}']")
    chat.hover(f".tokens [data-i='{at - 1}']")
    settle(chat)
    assert card.get_attribute("data-index") == str(at), "a click keeps the token"
    shot(chat, "token")


def drawable(row: dict[str, Any]) -> int:
    """How many of the most probable tokens could be drawn."""
    return sum(one["cut_by"] is None for one in row["most_probable"])


def rows_of(stream: str) -> list[dict[str, Any]]:
    """The telemetry rows of a stream."""
    rows: list[dict[str, Any]] = []
    for line in stream.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                rows += choice.get("entropick", {}).get("tokens") or []
    return rows


def visible(text: str) -> str:
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "(nothing)"


def test_a_candidate_rewinds_the_reply_and_the_model_goes_on(chat: Any, server: Server) -> None:
    warm(chat)
    ask(chat, STORY)
    before = chat.locator(".tokens").evaluate(TEXT)
    series = server.record(chat)["series"]
    at = max(range(2, len(series["token"]) - 1), key=lambda i: series["logits_entropy"][i])
    open_tab(chat, "token")
    chat.click(f".tokens [data-i='{at}']")
    settle(chat)
    choice = chat.locator("button.candidate").first
    label = choice.locator("code").inner_text()
    with chat.expect_request("**/v1/chat/completions") as sent:
        choice.click()
    asked = sent.value.post_data_json["entropick"]["rewind"]
    assert asked["index"] == at
    chat.wait_for_selector(".reply[aria-busy=false] .headline")
    shown = chat.evaluate("[...document.querySelectorAll('.tokens [role=option]')].map(t => t.textContent)")
    kept = [token.strip() for token in series["token"][:at]]
    assert [token.strip() for token in shown[:at]] == kept
    assert visible(shown[at].strip()) == label.strip("␣")
    assert len(shown) > at + 1, "the model did not go on"
    after = chat.locator(".tokens").evaluate(TEXT)
    assert after != before
    assert after.startswith("".join(series["token"][:at]))
    assert chat.locator(".tokens .given").count() == at + 1
    assert chat.locator(".reply").count() == 1
    # the conversation goes on from the new reply
    with chat.expect_request("**/v1/chat/completions") as sent:
        ask(chat, "Thanks.")
    assert sent.value.post_data_json["messages"][1]["content"] == after
    shot(chat, "rewound")


def test_the_plane_holds_every_token_and_the_thresholds_in_force(chat: Any, server: Server) -> None:
    warm(chat)
    ask(chat, STORY)
    series = server.record(chat)["series"]
    open_tab(chat, "plane")
    plane = chat.locator("svg.plane")
    placed = sum(h is not None and v is not None for h, v in zip(*both(series), strict=True))
    assert plane.get_attribute("data-points") == str(placed)
    dots = chat.evaluate(
        """[...document.querySelectorAll('.dots')]
        .map(p => p.getAttribute('d').match(/M/g).length).reduce((a, b) => a + b)"""
    )
    assert dots == placed
    before = chat.get_attribute(".r-greedy rect", "width")
    open_tab(chat, "policy")
    set_range(chat, "greedy_entropy", 2)
    open_tab(chat, "plane")
    settle(chat)
    assert float(chat.get_attribute(".r-greedy rect", "width")) > float(before)
    chat.hover(".tokens [data-i='3']")
    settle(chat)
    assert f"{series['logits_entropy'][3]:.3g}"[:4] in chat.inner_text(".now-note")
    shot(chat, "plane")


def both(series: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    return series["logits_entropy"], series["logits_varentropy"]


def test_timelines_follow_the_reply(chat: Any, server: Server) -> None:
    ask(chat, STORY)
    series = server.record(chat)["series"]
    open_tab(chat, "time")
    chat.wait_for_selector(".timeline canvas")
    assert chat.locator(".timeline").count() == 4
    values = series["logits_entropy"]
    label = chat.get_attribute(".timeline .plot >> nth=0", "aria-label")
    assert label.startswith(f"logits entropy along {len(values)} tokens")
    drawn = chat.evaluate(
        """() => { const c = document.querySelector('.timeline canvas');
        return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0); }"""
    )
    assert drawn
    chat.click("summary:has-text('Which signals')")
    chat.check("label:has-text('genuineness') >> nth=0")
    chat.wait_for_function("() => document.querySelectorAll('.timeline').length === 5")
    shot(chat, "timeline")


def test_the_heads_show_one_cell_each_and_the_plane_of_genuineness(chat: Any, server: Server) -> None:
    open_tab(chat, "policy")
    chat.check("label:has-text('token costs') input")
    with chat.expect_response("**/v1/chat/completions") as answered:
        ask(chat, STORY)
    rows = rows_of(answered.value.text())
    open_tab(chat, "heads")
    chat.click(".tokens [data-i='20']")
    settle(chat)
    detail = rows[20]["detail"]
    heads = sum(len(layer) for layer in detail["attention_entropy"])
    assert chat.get_attribute(".heat", "data-cells") == str(heads)
    assert f"{detail['attention_entropy'][0][0]:.2f}"[:3] in chat.inner_text(".heat tbody td >> nth=0")
    known = sum(
        g is not None and x is not None
        for gs, xs in zip(detail["genuineness"], detail["token_cost"], strict=True)
        for g, x in zip(gs, xs, strict=True)
    )
    assert known > 0
    assert chat.get_attribute("svg.phase", "data-points") == str(known)
    shot(chat, "heads")


def test_branches_are_a_tree_with_scores(chat: Any) -> None:
    warm(chat, "0.9", "3")
    chat.check("label:has-text('branches at doubtful') input")
    set_range(chat, "explore_varentropy", 0.05)
    with chat.expect_response("**/v1/chat/completions") as answered:
        ask(chat, STORY)
    opened = [
        (i, row["branches"]) for i, row in enumerate(rows_of(answered.value.text())) if "branches" in row
    ]
    assert opened
    open_tab(chat, "branches")
    assert chat.locator(".tree > li").count() == len(opened)
    _, branches = opened[0]
    first = chat.locator(".tree > li").first
    assert first.locator("li").count() == len(branches)
    texts = first.locator(".branch-text").all_inner_texts()
    assert [text.strip() for text in texts] == [b["text"].strip() for b in branches]
    [kept] = [i for i, b in enumerate(branches) if b["chosen"]]
    assert "kept" in first.locator("li").nth(kept).get_attribute("class")
    assert re.search(r"score −?\d", first.locator(".score").first.inner_text())
    first.locator("button").click()
    assert chat.locator(".tokens .here").get_attribute("data-i") == str(opened[0][0])
    shot(chat, "branches")


def test_sliders_act_on_the_next_request(chat: Any, server: Server) -> None:
    open_tab(chat, "policy")
    assert "as the preset has them" in chat.inner_text(".overrides")
    policy = server.get("/v1/policy")
    shown = float(chat.input_value("input[type=range][name=greedy_entropy]"))
    assert shown == pytest.approx(policy["presets"]["calibrated"]["greedy_entropy"], abs=0.01)
    set_range(chat, "greedy_entropy", 0.0)
    set_range(chat, "greedy_varentropy", 0.0)
    assert "2 of the policy" in chat.inner_text(".overrides")
    with chat.expect_request("**/v1/chat/completions") as sent:
        ask(chat, CAPITAL)
    assert sent.value.post_data_json["entropick"]["overrides"] == {
        "greedy_entropy": 0,
        "greedy_varentropy": 0,
    }
    head = server.record(chat)
    assert head["summary"]["strategies"]["greedy"] == 0
    shot(chat, "policy")
    chat.click("button:has-text('Put back')")
    with chat.expect_request("**/v1/chat/completions") as sent:
        ask(chat, CAPITAL)
    assert "overrides" not in sent.value.post_data_json["entropick"]
    head = server.record(chat)
    assert head["summary"]["strategies"]["greedy"] > 0


def test_two_policies_side_by_side_on_one_seed(chat: Any) -> None:
    chat.click("nav >> text=Compare")
    chat.fill(".compare textarea", STORY)
    bodies: list[Any] = []
    chat.on("request", lambda r: bodies.append(r.post_data_json) if "completions" in r.url else None)
    chat.click(".compare button.primary")
    chat.wait_for_function("() => document.querySelectorAll('.side .headline').length === 2", timeout=60_000)
    chat.wait_for_selector(".compare button:has-text('Compare')")
    assert len(bodies) == 2
    assert bodies[0]["messages"] == bodies[1]["messages"]
    assert bodies[0]["seed"] == bodies[1]["seed"] == 7
    assert [b["entropick"]["policy"] for b in bodies] == ["entropix", "fixed"]
    sides = [
        chat.evaluate(f"[...document.querySelectorAll('.side')][{i}].querySelector('.tokens').textContent")
        for i in (0, 1)
    ]
    if sides[0] != sides[1]:
        assert re.search(r"They part at token \d+", chat.inner_text(".parting"))
    chat.select_option(".compare select >> nth=0", "fixed")
    chat.click(".compare button.primary")
    chat.wait_for_selector("text=Both replies are the same, token by token.", timeout=60_000)
    shot(chat, "compare")


def test_a_recent_request_opens_again_with_its_series(chat: Any, server: Server) -> None:
    ask(chat, CAPITAL)
    text = chat.locator(".tokens").evaluate(TEXT)
    series = server.record(chat)["series"]
    chat.click("nav >> text=Recent")
    chat.wait_for_selector(".list")
    assert chat.locator(".list tbody tr").count() == len(server.get("/v1/requests")["data"])
    shot(chat, "recent")
    chat.click(".list tbody button >> nth=0")
    chat.wait_for_selector(".recent .tokens")
    assert chat.locator(".tokens").evaluate(TEXT) == text
    chat.click(".switch")
    open_tab(chat, "token")
    values = series["logits_entropy"]
    at = values.index(max(values))
    chat.click(f".tokens [data-i='{at}']")
    assert f"{values[at]:.3g}"[:4] in chat.inner_text("#token-card")
    assert re.search(r"min.p\s0\.0\d+$", chat.inner_text(".how"))
    shot(chat, "opened")


def test_a_token_tells_why_it_was_picked_in_the_servers_words(chat: Any, server: Server) -> None:
    warm(chat, temperature="1.5")
    ask(chat, STORY)
    open_tab(chat, "token")
    chat.click(".tokens [data-i='0']")
    chat.click("summary:has-text('Why this token')")
    rows = explained(chat, server)
    for at, row in enumerate(rows):
        if at:  # a second click on the first would let it go
            chat.evaluate("i => document.querySelector(`.tokens [data-i='${i}']`).click()", at)
        chat.wait_for_selector(f"#token-card[data-index='{at}'] .why .rule")
        assert chat.inner_text(".why .rule") == row["rule"]
        assert row["how"] in chat.inner_text(".why")
    assert len({row["rule"] for row in rows}) > 1
    shot(chat, "why")
    # of a rewound reply the kept tokens are told by the reply that they come from
    chat.click(".tokens [data-i='4']")
    chat.click(".candidate >> nth=0")
    chat.wait_for_selector(".reply[aria-busy=false] .given")
    chat.wait_for_selector(".reply[aria-busy=false] .headline")
    chat.click(".tokens [data-i='2']")
    chat.wait_for_selector(".why >> text=kept from an earlier reply")
    chat.click(".tokens [data-i='4']")
    chat.wait_for_selector(".why .rule >> text=named by the request")


def explained(page: Any, server: Server) -> list[dict[str, Any]]:
    """The rows of the server's explanation of the newest reply."""
    server.record(page)
    answer_id = page.locator(".reply").last.get_attribute("data-id")
    return server.get(f"/v1/requests/{answer_id}/explanation")["choices"][0]["tokens"]


def test_a_reopened_reply_is_explained_and_says_what_was_not_kept(chat: Any, server: Server) -> None:
    ask(chat, CAPITAL)
    rows = explained(chat, server)
    chat.click("nav >> text=Recent")
    chat.click(".list tbody button >> nth=0")
    chat.wait_for_selector(".recent .tokens")
    chat.click(".tokens [data-i='1']")
    chat.click("summary:has-text('Why this token')")
    chat.wait_for_selector(".why .rule")
    assert chat.inner_text(".why .rule") == rows[1]["rule"]
    assert chat.locator("#token-card .candidate").count() == 0
    assert "not its other candidates" in chat.inner_text("#token-card")
    open_tab(chat, "heads")
    assert "not the figures of its heads" in chat.inner_text(".panel-body")


def test_a_reply_that_the_server_forgot_is_said_to_be_so(
    open_page: Callable[..., Watched], server: Server
) -> None:
    watched = open_page(server.url)
    watched.expected.append("404 (Not Found)")
    page = watched.page
    page.wait_for_selector("#ask")
    ask(page, CAPITAL)
    gone = {"error": {"message": "No finished request of this id.", "code": "request_not_found"}}
    page.route("**/explanation", lambda route: route.fulfill(status=404, json=gone))
    page.click(".tokens [data-i='0']")
    page.click("summary:has-text('Why this token')")
    page.wait_for_selector(".why .problem >> text=does not remember")


def test_the_entropy_behind_each_layer_is_the_servers(chat: Any, server: Server) -> None:
    warm(chat)
    chat.check("label:has-text('entropy behind each layer') input")
    with chat.expect_request("**/v1/chat/completions") as sent:
        ask(chat, STORY)
    body = {**sent.value.post_data_json, "stream": False}
    body.pop("stream_options")
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    rows = answer["choices"][0]["entropick"]["tokens"]
    open_tab(chat, "heads")
    for at in (0, 3, len(rows) - 1):
        chat.evaluate("i => document.querySelector(`.tokens [data-i='${i}']`).click()", at)
        settle(chat)
        shown = chat.locator(".lens tr").all_inner_texts()
        wanted = {int(layer): bits for layer, bits in rows[at]["layer_entropy"].items()}
        assert [int(line.split()[0]) for line in shown] == sorted(wanted)
        for line in shown:
            layer, figure = line.split()
            assert abs(float(figure) - wanted[int(layer)]) <= 0.005 * abs(wanted[int(layer)]) + 0.00006
    shot(chat, "layers")


def test_the_export_as_json_is_the_series_of_the_server(chat: Any, server: Server, tmp_path: Path) -> None:
    warm(chat, seed="")
    ask(chat, STORY)
    chat.click("summary:has-text('About this reply')")
    with chat.expect_download() as download:
        chat.click("button:has-text('Export as JSON')")
    download.value.save_as(tmp_path / "reply.json")
    exported = json.loads((tmp_path / "reply.json").read_text())
    head = server.record(chat)
    series = head["series"]
    assert exported["id"] == head["id"]
    assert exported["summary"] == head["summary"], "the seed with all its digits, too"
    assert [row["token_id"] for row in exported["tokens"]] == series["token_id"]
    for name in (signal["name"] for signal in exported["signals"]):
        kept = [row["signals"].get(name) for row in exported["tokens"]]
        assert kept == series[name], name
    assert exported["text"] == "".join(row["text"] for row in exported["tokens"])


def test_the_exported_page_needs_nothing_else(chat: Any, browser: Any, tmp_path: Path) -> None:
    warm(chat)
    ask(chat, STORY)
    text = chat.locator(".tokens").evaluate(TEXT)
    chat.click("summary:has-text('About this reply')")
    with chat.expect_download() as download:
        chat.click("button:has-text('Export as a page')")
    saved = tmp_path / "reply.html"
    download.value.save_as(saved)
    context = browser.new_context(offline=True)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.goto(saved.as_uri())
    assert page.inner_text(".tokens").rstrip("∎").strip() == text.strip()
    assert page.locator(".tokens .u1, .tokens .u2, .tokens .u3, .tokens .u4").count() > 0
    page.hover(".tokens span >> nth=2")
    assert "logits entropy" in page.inner_text(".card")
    assert page.locator(".card li").count() >= 20
    page.focus(".tokens")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute(".tokens", "aria-activedescendant") == "t3"
    assert asked == [saved.as_uri()]
    assert faults == []
    shot(page, "exported")
    context.close()
