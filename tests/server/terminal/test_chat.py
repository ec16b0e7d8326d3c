"""``entropick chat`` as a person meets it: in a terminal, in a pipe, with servers that fail."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..tooling import Templated
from .conftest import DONE, sse
from .support import CHAT, environment, piped, terminal

Start = Callable[..., str]
CLEAR = "\x1b[2J"


def says(engine: Any, text: str) -> None:
    engine.script = lambda request: list(text.encode())


def coloured(text: str) -> list[str]:
    """The stretches with a ground of their own."""
    return re.findall(r"\x1b\[[0-9;]*48;2;[0-9;]*m(.*?)\x1b\[0m", text)


def test_colours_legend_bars_and_one_number(engine: Any, listen: Start) -> None:
    says(engine, "a b <c>")
    with terminal("--url", listen(), "--seed", "1") as t:
        greeting = t.until("> ")
        assert "fake at http://" in greeting
        assert coloured(greeting) == [" 0.5 to 2 ", " 2 to 4 ", " 4 to 6 ", " 6 and more "]
        t.type("Hi\r")
        shown = t.until("or more)")
        # entropies of the fake engine: 0.1, 0.8, 1.5, 2.2, 2.9, 3.6, 4.3, the end's 0.0; the second is forced
        assert "a\x1b[" in shown
        assert coloured(shown) == [" ", "b", " ", "<", "c", ">"]
        assert "▁▂▃▅▆▇█▁" in shown
        assert "entropy, 0 to 4.3 bits" in shown
        assert "Hesitated at 5 of 7 tokens (surprisal of 1 bit or more)" in shown
        t.until("> ")
        t.type("/strategy\r")
        again = t.until("> ")
        assert " high uncertainty " in coloured(again)
        # the last reply once more, in the other colours
        assert coloured(again)[-4:] != []
        assert "forced" in again
        t.type("/polcy\r")
        assert "did you mean /policy?" in t.until("> ")
        t.type("/quit\r")
        assert t.end() == 0
    assert engine.requests[0].sampling.seed == 1


@pytest.mark.parametrize("plain", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_plain_where_there_is_no_colour(engine: Any, listen: Start, plain: dict[str, str]) -> None:
    says(engine, "hello")
    with terminal("--url", listen(), **plain) as t:
        greeting = t.until("> ")
        t.type("Hi\r")
        shown = t.until("or more)")
        t.until("> ")
        t.type("\x04")
        assert t.end() == 0
    assert "plain below" not in greeting
    assert "hello" in shown
    assert "48;" not in t.text
    if "TERM" in plain:
        assert "\x1b" not in t.text


def test_256_colours_where_there_are_no_more(engine: Any, listen: Start) -> None:
    with terminal("--url", listen(), TERM="xterm-256color", COLORTERM="") as t:
        greeting = t.until("> ")
        t.type("\x04")
        t.end()
    assert "48;5;" in greeting
    assert "48;2;" not in greeting


def test_a_pipe_gets_the_replies_alone(engine: Any, listen: Start) -> None:
    says(engine, "hello\nyou")
    run = piped("Hi\n\n/policy fixed\nAgain\n", "--url", listen())
    assert run.stdout == "hello\nyou\n" * 2
    assert run.stderr == "policy: fixed, from the next reply on\n"
    assert run.returncode == 0
    assert [request.policy.policy for request in engine.requests] == ["entropix", "fixed"]
    # the conversation went on
    assert len(engine.requests[1].prompt_token_ids) > len(engine.requests[0].prompt_token_ids)


def test_reasoning_is_shown_and_is_no_part_of_the_answer(engine: Any, listen: Start) -> None:
    engine.tokenizer = Templated()
    says(engine, "<think>Hmm.</think>Four.")
    url = listen()
    with terminal("--url", url) as t:
        t.until("> ")
        t.type("Hi\r")
        shown = t.until("> ")
        t.type("Again\r")
        t.until("> ")
        t.type("\x04")
        t.end()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "Hmm." in plain
    assert "Four." in plain
    assert "think" not in plain
    assert piped("Hi\n", "--url", url).stdout == "Four.\n"
    said = [message for message in engine.tokenizer.rendered[-2][0] if message["role"] == "assistant"]
    assert [message["content"] for message in said] == ["Four."]


def test_controls_of_a_reply_never_reach_the_terminal(engine: Any, listen: Start) -> None:
    says(engine, f"{CLEAR}\x1b]0;title\x07\x9b5n\rfake> \u202eexe")
    with terminal("--url", listen()) as t:
        t.until("> ")
        t.type("Hi\r")
        shown = t.until("or more)")
        t.type("/quit\r")
        t.end()
    own = re.sub(r"\x1b\[[0-9;]*m|\x1b\[\?2004[hl]|\x1b\[K", "", t.text)
    assert not set(own) & {"\x1b", "\x07", "\x9b", "\u202e", "\x08"}
    assert "\r" not in own.replace("\r\n", "").replace("\r", "", own.count("\r\x1b")) or "␍" in shown
    assert "␛" in shown
    run = piped("Hi\n", "--url", listen())
    assert run.stdout == "␛[2J␛]0;title␇\\x9b5n␍fake> \\u202eexe\n"


def test_ctrl_c_stops_the_reply_and_keeps_the_conversation(engine: Any, listen: Start) -> None:
    engine.delay = 0.05
    says(engine, "x" * 100)
    with terminal("--url", listen()) as t:
        t.until("> ")
        t.type("One\r")
        t.until("x")
        t.type("\x03")
        assert "Stopped." in t.until("> ")
        end = time.monotonic() + 10
        while engine.running and time.monotonic() < end:
            time.sleep(0.01)
        assert engine.running == {}
        engine.delay = 0.0
        says(engine, "fine")
        t.type("Two\r")
        assert "fine" in re.sub(r"\x1b\[[0-9;]*m", "", t.until("or more)"))
        t.until("> ")
        time.sleep(1)  # the line editor shows its prompt a moment before it hears Ctrl-C
        t.type("\x03")
        assert "leaves" in t.until("> ")
        t.type("\x04")
        assert t.end() == 0
    prompt = bytes(i for i in engine.requests[1].prompt_token_ids if i < 256).decode()
    assert re.search(r"user: One\nassistant: x+\nuser: Two", prompt)


def test_a_probability_of_error_comes_before_the_count(other: Any) -> None:
    """Of a server that speaks as ours does; the estimate itself is tested elsewhere."""
    rows = [{"token": "4", "signals": {"logits_entropy": 0.5}}]
    last = {"delta": {}, "finish_reason": "stop", "entropick": {"summary": {"error_probability": 0.07}}}
    first = {"delta": {"content": "4"}, "finish_reason": None, "entropick": {"tokens": rows}}
    url, _ = other(
        *(b"data: " + json.dumps({"choices": [c]}).encode() + b"\n\n" for c in (first, last)), DONE
    )
    with terminal("--url", url) as t:
        t.until("> ")
        t.type("2+2?\r")
        assert "Probability that the answer is wrong: 7%" in t.until("%")


def test_another_server_is_talked_to_plainly(other: Any) -> None:
    url, bodies = other(b": ping\n\n", sse("Good "), sse("day\x1b[2J"), sse(finish="stop"), DONE)
    with terminal("--url", f"{url}/v1/") as t:
        assert "tells nothing of its tokens" in t.until("> ")
        t.type("Hello\r")
        shown = t.until("> ")
        assert "Good day␛[2J" in shown
        assert "Hesitated" not in shown
        t.type("/signal surprisal\r")
        assert "needs an entropick server" in t.until("> ")
        t.type("/quit\r")
        assert t.end() == 0
    assert bodies == [
        {"model": "other-model", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    ]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ((sse("Go"),), "ended the reply in the middle"),
        ((sse("Go"), b'data: {"error": {"message": "out of \\u001bmemory"}}\n\n'), "gave this reply up"),
        ((b"data: {broken\n\n",), "no JSON"),
    ],
)
def test_a_reply_that_breaks_off_says_so(other: Any, script: tuple[bytes, ...], said: str) -> None:
    url, _ = other(*script)
    run = piped("Hello\n", "--url", url)
    assert said in run.stderr
    assert "\x1b" not in run.stderr
    assert run.returncode == 1
    assert run.stdout == ("Go\n" if b"Go" in script[0] else "")


def test_a_server_that_dies_in_mid_reply(engine: Any, listen: Start) -> None:
    engine.delay = 0.05
    says(engine, "x" * 200)
    with terminal("--url", listen(drain_seconds=0)) as t:
        t.until("> ")
        t.type("Hi\r")
        t.until("x")
        engine.ready = False
        said = t.until("> ")
        assert "gave this reply up" in said or "broke in mid-reply" in said
        # the conversation is still there
        t.type("/save /dev/null/x\r")
        assert "cannot be written" in t.until("> ")
        t.type("Again\r")
        t.until("> ")
        t.type("/quit\r")
        assert t.end() == 0


def test_a_wrong_key_and_none(listen: Start) -> None:
    url = listen(api_key="right")
    assert piped("Hi\n", "--url", url, "--api-key", "right").returncode == 0
    assert piped("Hi\n", "--url", url, ENTROPICK_API_KEY="right").returncode == 0
    for key, said in ((["--api-key", "wrong"], "refuses the API key"), ([], "ENTROPICK_API_KEY")):
        run = piped("Hi\n", "--url", url, *key)
        assert (run.returncode, run.stdout) == (1, "")
        assert run.stderr.startswith("entropick: error: ")
        assert said in run.stderr
        assert "wrong" not in run.stderr
        assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--url", "http://127.0.0.1:9"], "No server answers at http://127.0.0.1:9"),
        (["--url", "ftp://127.0.0.1:9"], "must begin with http"),
        (["--url", "http://[::1"], "no URL of a server"),
        (["--url", "http://127.0.0.1:x"], "no URL of a server"),
    ],
)
def test_no_server_there(arguments: list[str], said: str) -> None:
    run = piped("Hi\n", *arguments)
    assert (run.returncode, run.stdout) == (1, "")
    assert said in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_page_of_something_else(other: Any) -> None:
    url, _ = other(models=None)
    assert "no server of OpenAI's API: it has no /v1/models" in piped("Hi\n", "--url", url).stderr
    url, _ = other(models=[])
    assert "names no model" in piped("Hi\n", "--url", url).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "gpt"], "no model gpt at http"),
        (["--signal", "entropy"], "did you mean"),
        (["--policy", "entropx"], "did you mean entropix?"),
        (["--branch", "widht=3"], "did you mean width?"),
    ],
)
def test_options_are_checked_before_the_first_message(listen: Start, arguments: list[str], said: str) -> None:
    run = piped("Hi\n", "--url", listen(), *arguments)
    assert (run.returncode, run.stdout) == (1, "")
    assert said in run.stderr


def test_a_value_that_the_server_refuses_is_told_and_not_kept(engine: Any, listen: Start) -> None:
    run = piped("/branch width=99\nHi\n/branch off\nHi\n", "--url", listen())
    assert "entropick.branch.width" in run.stderr
    assert run.stdout.count("fine.") == 1
    assert run.returncode == 1
    assert len(engine.requests) == 1


def test_it_waits_for_a_server_that_loads(engine: Any, listen: Start) -> None:
    engine.load_gate.clear()
    url = listen()
    loop_of_the_server: list[threading.Timer] = [threading.Timer(1.5, lambda: engine.load_gate.set())]
    with terminal("--url", url) as t:
        t.until("still loading")
        loop_of_the_server[0].start()
        t.until("> ")
        t.type("/quit\r")
        assert t.end() == 0


def test_news_of_a_vote_are_shown_while_it_lasts(engine: Any, listen: Start) -> None:
    engine.delay = 0.05
    says(engine, "7")
    with terminal("--url", listen(), "--consensus", "extract=last_number k=3") as t:
        t.until("> ")
        t.type("3+4?\r")
        assert "1 of 1 replies" in t.until("replies")
        t.until("or more)")
    with terminal("--url", listen(), "--consensus", "off") as t:
        t.until("> ")


def test_save_writes_what_was_said(engine: Any, listen: Start, tmp_path: Path) -> None:
    says(engine, "Grüße")
    file = tmp_path / "talk.json"
    run = piped(f"Hi\n/save {file}\n", "--url", listen())
    assert "1 reply written" in run.stderr
    (said,) = json.loads(file.read_text())["replies"]
    assert said["reply"] == "Grüße"
    assert len(said["tokens"]) == len("Grüße".encode()) + 1


def test_bytes_that_are_no_text_are_asked_as_far_as_they_are(engine: Any, listen: Start) -> None:
    says(engine, "fine")
    run = subprocess.run(
        [*CHAT, "--url", listen()],
        input=b"caf\xe9?\n",
        env=environment(),
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert run.stdout == b"fine\n"
    assert "caf\ufffd?" in bytes(i for i in engine.requests[0].prompt_token_ids if i < 256).decode()


def test_a_reader_that_goes_away_ends_it_quietly(engine: Any, listen: Start) -> None:
    says(engine, "fine")
    questions = "Hi\n" * 20
    command = " ".join([*CHAT, "--url", listen(), "| head -n 1"])
    run = subprocess.run(
        ["bash", "-c", command],
        input=questions,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert run.stdout == "fine\n"
    assert run.stderr == ""
    assert 0 < len(engine.requests) < 20
