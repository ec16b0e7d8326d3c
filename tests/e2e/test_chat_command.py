"""``entropick chat`` with the shipped model: in a terminal with colours, and in a pipe."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

CHAT = [sys.executable, "-m", "entropick_server.cli", "chat", "--url"]
WITHIN = 300.0


def in_a_terminal(url: str, *lines: str) -> str:
    """All that a terminal gets while the lines are typed, each after a prompt."""
    master, slave = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen([*CHAT, url], stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    got, waiting, end = "", list(lines), time.monotonic() + WITHIN
    try:
        while time.monotonic() < end:
            if select.select([master], [], [], 0.5)[0]:
                try:
                    got += os.read(master, 65536).decode(errors="replace")
                except OSError:
                    break
            elif waiting and re.search(r"> (\x1b\[[0-9;?]*[a-z])*$", got):
                os.write(master, waiting.pop(0).encode() + b"\r")
        assert process.wait(10) == 0, got
    finally:
        process.kill()
        process.wait()
        os.close(master)
    return got


def test_a_conversation_in_colours(server: str) -> None:
    got = in_a_terminal(server, "What is the capital of Falnia?", "/strategy", "What color is it?", "/quit")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", got)
    assert "pico at http" in plain
    assert "plain below 0.5" in plain
    assert plain.count("The capital is Ashfield.") == 2  # and once more in the colours of /strategy
    assert "Hesitated at 0 of 6 tokens" in plain
    # an open question: the model cannot know, and it shows
    assert re.search(r"Hesitated at [1-9]\d* of \d+ tokens", plain)
    assert re.search(r"\x1b\[38;2;0;0;0;48;2;153;153;153m Ashfield\x1b\[0m", got)


def test_a_pipe_and_its_figures(server: str, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    question = "What is the capital of Falnia?"
    run = subprocess.run(
        [*CHAT, server, "--seed", "7"],
        input=f"{question}\n/save {file}\n",
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=True,
    )
    assert run.stdout == "The capital is Ashfield.\n"
    (reply,) = json.loads(file.read_text())["replies"]
    assert reply["message"] == question
    assert reply["summary"]["seed"] == 7
    assert "".join(row["token"] for row in reply["tokens"][:-1]) == "The capital is Ashfield."
    assert reply["tokens"][-1]["eos"] is True
