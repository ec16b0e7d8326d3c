"""The page for everyone: axe-core, the keyboard alone, a screen reader, narrow screens, long replies."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Server, Watched, ask, made_row, open_tab, set_range, settle, shot, stream_of
from .test_conversation import CAPITAL, STORY, TEXT

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "narrow": {"color_scheme": "dark", "viewport": {"width": 390, "height": 800}, "has_touch": True},
    "narrow-light": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}, "has_touch": True},
}
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


def faults_of(page: Any) -> list[str]:
    """What axe-core finds: serious and critical faults."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options=RULES).response["violations"]
    return [
        f"{v['id']} ({v['impact']}): {v['help']}: {[n['html'][:160] for n in v['nodes']][:3]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_no_serious_fault_in_any_view(
    open_page: Callable[..., Watched], server: Server, look: str
) -> None:
    page = open_page(server.url, **LOOKS[look]).page
    page.wait_for_selector("#ask")
    found: dict[str, list[str]] = {}

    def check(name: str) -> None:
        settle(page)
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        shot(page, f"{look}-{name}")
        faults = faults_of(page)
        if wide > 0:
            faults.append(f"the page is {wide} px wider than the window")
        if faults:
            found[name] = faults

    check("welcome")
    open_tab(page, "policy")
    page.fill("input[name=temperature]", "1.1")
    page.fill("input[name=seed]", "3")
    page.check("label:has-text('token costs') input")
    page.check("label:has-text('branches at doubtful') input")
    set_range(page, "explore_varentropy", 0.05)
    check("policy")
    if "narrow" in look:
        page.click(".close")
    ask(page, STORY)
    check("plain")
    page.click(".switch")
    check("colours")
    page.select_option("#signal", "strategy")
    check("strategy")
    page.locator(".tokens [data-i='7']").click()
    for tab in ("token", "plane", "time", "heads", "branches"):
        open_tab(page, tab)
        check(tab)
    if "narrow" in look:
        page.click(".close")
    page.click("nav >> text=Compare")
    page.fill(".compare textarea", CAPITAL)
    page.click(".compare button.primary")
    page.wait_for_function("() => document.querySelectorAll('.side .headline').length === 2", timeout=60_000)
    check("compare")
    page.click("nav >> text=Recent")
    page.wait_for_selector(".list")
    check("recent")
    page.click(".list tbody button >> nth=0")
    page.wait_for_selector(".recent .tokens")
    check("opened")
    assert found == {}


def test_everything_is_reached_by_keyboard_alone(open_page: Callable[..., Watched], server: Server) -> None:
    page = open_page(server.url).page
    page.wait_for_selector("#ask")

    def tab_to(script: str, most: int = 60) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate(f"(e => {script})(document.activeElement)"):
                return
        raise AssertionError(f"Tab does not reach {script}")

    tab_to("e.id === 'ask'")
    page.keyboard.type(CAPITAL)
    page.keyboard.press("Enter")
    page.wait_for_selector(".reply[aria-busy=false] .headline")
    settle(page)
    assert page.evaluate("document.activeElement.id") == "ask"
    tab_to("e.classList.contains('switch')", 80)
    page.keyboard.press("Space")
    settle(page)
    assert page.locator(".legend li").count() == 5
    tab_to("e.classList.contains('tokens')")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    settle(page)
    assert page.locator("#token-card").get_attribute("data-index") == "3"
    named = page.get_attribute(".tokens", "aria-activedescendant")
    assert page.get_attribute(f"#{named}", "aria-selected") == "true"
    assert "logits entropy" in page.inner_text(".said")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "token-card"
    tab_to("e.classList.contains('candidate')")
    page.keyboard.press("Enter")
    page.wait_for_selector(".reply[aria-busy=false] .given")
    page.wait_for_selector(".reply[aria-busy=false] .headline")
    tab_to("e.getAttribute('role') === 'tab'", 80)
    page.keyboard.press("ArrowRight")
    settle(page)
    assert page.get_attribute("#tab-plane", "aria-selected") == "true"
    assert page.evaluate("document.activeElement.id") == "tab-plane"


def focused(page: Any) -> str:
    """Where the keyboard is: an id, or a class, a role or the text of the element."""
    return page.evaluate(
        """() => { const e = document.activeElement;
        if (e === document.body) return 'body';
        return e.id.replace(/-a[0-9]+$/, '') || e.name || e.innerText.trim().split('\\n')[0]; }"""
    )


def test_a_new_user_comes_from_the_first_page_to_a_rewound_reply_without_a_mouse(
    open_page: Callable[..., Watched], server: Server
) -> None:
    """Keyboard events alone, and few of them; wherever something goes away, the focus has a place."""
    page = open_page(server.url).page
    page.wait_for_selector(".skip", state="attached")

    def press(*keys: str) -> str:
        for key in keys:
            page.keyboard.press(key)
        settle(page)
        page.wait_for_timeout(60)
        return focused(page)

    def ended(replies: int) -> None:
        page.wait_for_function(
            """n => { const all = document.querySelectorAll('.reply');
            return all.length === n && all[n - 1].getAttribute('aria-busy') === 'false'
              && document.querySelector('.composer button[type=submit]') }""",
            arg=replies,
            timeout=120_000,
        )
        settle(page)

    # a question of the first page: its button goes away with the page
    assert press("Tab") == "Skip to the message"
    assert press("Enter") == "ask"
    assert press("Shift+Tab") == "Tell me a story."
    assert press("Enter") == "ask"
    ended(1)
    # one of one's own
    page.keyboard.type(CAPITAL)
    assert press("Enter") == "ask"
    ended(2)
    # from the field back into the reply: its foot, then its tokens
    assert press("Shift+Tab") == "About this reply"
    assert press("Shift+Tab") == "tokens"
    page.keyboard.down("c")
    settle(page)
    assert page.locator(".reply >> nth=1 >> .tokens .u0, .tokens .u1, .tokens .u2").count() > 0
    page.keyboard.up("c")
    # a token, its card, why it was picked, and back
    assert press("ArrowRight", "ArrowRight", "ArrowRight") == "tokens"
    assert press("Enter") == "token-card"
    assert press("Tab") == "Why this token"
    press("Enter")
    page.wait_for_selector(".why .rule")
    assert press("Escape") == "tokens"
    assert press("Enter", "Tab", "Tab") != "tokens"
    candidate = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert candidate.startswith("Go on with ")
    # its button goes away with the card: the keyboard goes on in the new reply
    assert press("Enter") == "tokens"
    ended(2)
    assert focused(page) == "tokens"
    reply = page.locator(".reply").last
    assert reply.locator(".given").count() == 3
    # another policy, by the panel's tabs
    for _ in range(12):
        if press("Tab") == "tab-token":
            break
    assert press("ArrowLeft") == "tab-policy"
    # the panel itself, then its first field
    assert press("Tab") == "panel-body"
    press("Tab")
    page.keyboard.type("fixed")
    settle(page)
    assert press("Escape") == "tokens"
    for _ in range(4):
        if press("Tab") == "ask":
            break
    with page.expect_request("**/v1/chat/completions") as sent:
        page.keyboard.type("Thanks.")
        press("Enter")
    assert sent.value.post_data_json["entropick"]["policy"] == "fixed"
    ended(3)
    # a new conversation: its button goes away, too
    assert press("Tab") == "New"
    assert press("Enter") == "ask"
    assert page.locator(".reply").count() == 0
    # an entry of the recent requests
    page.keyboard.press("Home")
    for _ in range(12):
        if press("Shift+Tab") == "Recent":
            break
    press("Enter")
    page.wait_for_selector(".list")
    for _ in range(8):
        press("Tab")
        if page.evaluate("document.activeElement.closest('tbody') !== null"):
            break
    assert press("Enter") == "main"
    page.wait_for_selector(".recent .tokens")


def test_a_screen_reader_hears_the_finished_reply_once(chat: Any) -> None:
    chat.evaluate(
        """() => { window.said = []; const live = document.querySelector('.said');
        new MutationObserver(() => window.said.push(live.textContent)).observe(live,
          {childList: true, characterData: true, subtree: true}); }"""
    )
    ask(chat, CAPITAL)
    settle(chat)
    said = [text for text in chat.evaluate("window.said") if text]
    assert said == [f"The reply: {chat.locator('.tokens').evaluate(TEXT)}"]
    assert chat.get_attribute(".said", "aria-live") == "polite"


def test_dark_and_light_can_be_chosen(chat: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    seen = []
    for _ in range(3):
        chat.click("button[aria-label^='Colours of the page']")
        settle(chat)
        seen.append(chat.evaluate(ground))
    assert len(set(seen)) == 2
    chat.reload()
    chat.wait_for_selector("#ask")
    assert chat.evaluate(ground) == seen[-1]


def test_a_reply_of_2000_tokens_stays_smooth(chat: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sea", " salt", " wind", ".\n", " of", " the", " un", "known", " and", " light"]
    detail = {
        "layers": list(range(12)),
        **{
            name: [[0.1 * h + 0.2 * layer for h in range(12)] for layer in range(12)]
            for name in ("attention_entropy", "interaction_strength", "attention_to_previous", "genuineness")
        },
        "per_layer": {},
    }
    probable = [
        {
            "token": f" word{i}",
            "token_id": i,
            "probability": 1 / (i + 2),
            "final_probability": 0.05,
            "cut_by": None,
        }
        for i in range(20)
    ]
    chunks = []
    for i in range(2000):
        text = words[i % len(words)]
        row = made_row(i, text, (i * 7 % 31) / 6, detail=detail, most_probable=probable)
        choice = {
            "index": 0,
            "delta": {"content": text},
            "finish_reason": None,
            "entropick": {"tokens": [row]},
        }
        chunks.append({"choices": [choice]})
    session = chat.context.new_cdp_session(chat)
    # of the page's thread alone: what other processes take of this machine does not count
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(1000 * m["value"] for m in metrics if m["name"] == "TaskDuration")

    # the page's own modules, fed from here
    chat.evaluate(
        """async (rows) => {
        const { store } = await import('./page/state.js');
        const { addChunk, newAnswer } = await import('./page/answer.js');
        const chunks = JSON.parse(rows);
        const answer = newAnswer({});
        for (const chunk of chunks.slice(0, 1960)) addChunk(answer, chunk);
        const turns = [{role: 'user', text: 'x'}, {role: 'assistant', answer}];
        let next = 1960;
        window.store = store;
        window.changes = {
          token: () => { addChunk(answer, chunks[next]); next += 1; store.touch(); },
          hover: i => store.set({ selected: {answer, index: 31 * i, pinned: false} }),
          paint: i => store.set({ signal: i % 2 ? 'surprisal' : 'logits_varentropy' }),
        };
        store.set({ turns, colours: true, tab: 'time' });
        }""",
        json.dumps(chunks),
    )

    def cost(change: str, updates: int, tab: str) -> float:
        """Milliseconds of an update: script, style, layout and paint."""
        chat.evaluate("tab => { store.set({ tab }); }", tab)
        chat.wait_for_timeout(500)
        before = spent()
        chat.evaluate(
            """async ([change, updates]) => {
            for (let i = 0; i < updates; i += 1) {
              changes[change](i);
              await new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)));
            } }""",
            [change, updates],
        )
        return (spent() - before) / updates

    costs = {
        "a new token (timelines open)": cost("token", 40, "time"),
        "pointing at a token": cost("hover", 40, "token"),
        "another signal": cost("paint", 10, "token"),
    }
    assert chat.get_attribute(".tokens", "data-count") == "2000"
    with capsys.disabled():
        for what, milliseconds in costs.items():
            print(f"\n2,000 tokens, {what}: {milliseconds:.1f} ms of the page's thread an update", end="")
    assert costs["a new token (timelines open)"] < 45
    assert costs["pointing at a token"] < 60
    assert costs["another signal"] < 250


def test_nothing_of_a_stream_is_lost_however_its_bytes_are_cut(chat: Any) -> None:
    text = "Grüße 🙂 — 北京\n"
    rows = [made_row(i, character, 1.0) for i, character in enumerate(text)]
    chunks = [
        {
            "choices": [
                {
                    "index": 0,
                    "delta": {"content": r["token"]},
                    "finish_reason": None,
                    "entropick": {"tokens": [r]},
                }
            ]
        }
        for r in rows
    ]
    data = stream_of(chunks).replace("\n", "\r\n")
    yielded = chat.evaluate(
        """async (text) => {
        const { events } = await import('./page/sse.js');
        const bytes = new TextEncoder().encode(text);
        const out = {};
        for (const size of [1, 2, 3, 7, 1000000]) {
          const stream = new ReadableStream({ start(c) {
            for (let i = 0; i < bytes.length; i += size) c.enqueue(bytes.slice(i, i + size)); c.close(); } });
          let read = '';
          for await (const data of events(stream)) {
            if (data !== '[DONE]') read += JSON.parse(data).choices[0].delta.content;
          }
          out[size] = read;
        }
        return out; }""",
        data,
    )
    assert set(yielded.values()) == {text}


def test_on_a_narrow_screen_the_chosen_token_is_not_covered_by_its_card(
    open_page: Callable[..., Watched], server: Server
) -> None:
    page = open_page(server.url, **LOOKS["narrow"]).page
    page.wait_for_selector("#ask")
    page.click(".switch")
    ask(page, STORY)
    page.evaluate("scrollTo(0, 0)")
    count = int(page.get_attribute(".tokens", "data-count"))
    page.evaluate("i => document.querySelector(`[data-i='${i}']`).click()", count - 2)
    page.wait_for_selector(".panel.open")
    settle(page)
    token = page.locator(".tokens .here").bounding_box()
    panel = page.locator(".panel").bounding_box()
    assert token["y"] > 0
    assert token["y"] + token["height"] < panel["y"]
    page.click(".close")
    settle(page)
    assert page.locator(".panel").bounding_box()["height"] < 60
