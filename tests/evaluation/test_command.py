"""The command from its arguments to its report, with a server that is a function."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest

from entropick_eval import command, targets
from entropick_server import cli
from entropick_server.settings import Settings

from .support import Server, completion, refusal


def never(settings: Settings) -> Any:
    raise AssertionError("no engine is built for a URL")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a server behind every URL."""

    def put(server: Server) -> Server:
        def client(base: str, key: str | None, transport: Any = None) -> httpx.AsyncClient:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            return httpx.AsyncClient(base_url=base, headers=headers, transport=httpx.MockTransport(server))

        monkeypatch.setattr(targets, "_client", client)
        return server

    return put


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    rows = [{"id": f"q{n}", "prompt": f"What is {n} + 1?", "answer": n + 1} for n in range(60)]
    rows += [{"id": f"open{n}", "prompt": f"Tell me a story of {n} dogs."} for n in range(6)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def sums(body: Mapping[str, Any]) -> httpx.Response:
    """Greedy is right on even numbers; warm replies are right on three of four; a hot server refuses."""
    found = re.search(r"\d+", body["messages"][-1]["content"])
    assert found
    number = int(found[0])
    if body["temperature"] > 1:
        return refusal("temperature: at most 1")
    if "story" in body["messages"][-1]["content"]:
        return completion("once upon a time a dog met a dog " * (2 if body["temperature"] == 0 else 1), 20)
    right = number % 2 == 0 if body["temperature"] == 0 else body["seed"] % 4 > 0
    row = {"token": "x", "logprob": -0.1 if right else -1.0, "top_logprobs": []}
    return completion(f"{number} + 1 = {number + 1 + (not right)}", 8, logprobs={"content": [row] * 8})


ARMS = """
[warm]
temperature = 0.7
[hot]
temperature = 2.0
[vote]
rule = {of = "warm", k = [3, 9]}
[best]
rule = {of = "warm", k = 3, choose = "best", weight = "mean_logprob"}
"""


def run(*arguments: Any) -> int:
    return command.run([str(one) for one in arguments], never)


@pytest.fixture
def arguments(tmp_path: Path, tasks: Path) -> list[Any]:
    (tmp_path / "arms.toml").write_text(ARMS)
    common = ["--url", "http://other/v1", "--tasks", tasks, "--arms", tmp_path / "arms.toml"]
    return [*common, "--out", tmp_path / "out", "--resamples", 300, "--quiet"]


def test_a_whole_evaluation(
    serve: Any, arguments: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(Server(sums))
    assert run(*arguments) == 0
    said = capsys.readouterr().out
    assert "1 arms refused" in said
    assert "confirmed" in said
    asked = len(server.bodies)
    assert asked >= 60 * 10 + 12

    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(data["halves"]) == {"fit", "test"}
    rows = {row["arm"]: row for row in data["halves"]["test"]["tables"][0]["rows"]}
    assert set(rows) == {"greedy", "warm", "vote k=3", "vote k=9", "best"}
    assert rows["vote k=9"]["accuracy"]["estimate"] > 0.9
    assert rows["vote k=9"]["difference"]["low"] > 0
    assert rows["vote k=9"]["spent"] == 72
    assert rows["greedy"]["spent"] == 8
    assert {row["arm"] for row in data["halves"]["test"]["open"]} == {"greedy", "warm"}
    assert data["refused"] == {"hot": "400: temperature: at most 1"}
    assert any(one["arm"] == "vote k=9" and one["confirmed"] for one in data["recommended"])

    markdown = (tmp_path / "out" / "report.md").read_text()
    assert (
        markdown.index("What did not come out")
        < markdown.index("`hot` was refused")
        < markdown.index("## Test")
    )
    assert markdown.index("## Test half") < markdown.index("## Fit half") < markdown.index("## Serve with")
    assert "0.059 of the 4-grams" not in markdown

    again = capsys.readouterr() and run(*arguments)
    assert again == 0
    # the refused arm alone is tried again
    assert all(body["temperature"] == 2.0 for body in server.bodies[asked:])


class Page(HTMLParser):
    """Notes what a browser would fetch, and whether every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "data")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(serve: Any, arguments: list[Any], tmp_path: Path) -> None:
    serve(Server(sums))
    assert run(*arguments) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.fetched == []
    assert "script" not in page.tags
    assert page.tags.count("svg") == 4
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        root = ElementTree.fromstring(svg)
        width, height = (float(one) for one in root.attrib["viewBox"].split()[2:])
        for mark in root.iter("{http://www.w3.org/2000/svg}circle"):
            assert 0 <= float(mark.attrib["cx"]) <= width
            assert 0 <= float(mark.attrib["cy"]) <= height
    assert "greedy" in text
    assert "url(" not in text


def test_halving_drops_arms_and_never_looks_at_the_test_half_for_it(
    serve: Any, arguments: list[Any], tmp_path: Path, tasks: Path
) -> None:
    (tmp_path / "arms.toml").write_text("[t]\ntemperature = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]")
    rows = [{"id": f"q{n}", "prompt": f"What is {n} + 1?", "answer": n + 1} for n in range(600)]
    tasks.write_text("\n".join(map(json.dumps, rows)))

    def colder_is_better(body: Mapping[str, Any]) -> httpx.Response:
        number = int(re.findall(r"\d+", body["messages"][-1]["content"])[0])
        right = body["seed"] % 100 >= 100 * body["temperature"] and body["temperature"] > 0
        return completion(str(number + 1 if right else 0), 8)

    server = serve(Server(colder_is_better))
    assert run(*arguments, "--halve", "--keep", "none") == 0
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    left = {row["arm"] for row in data["halves"]["test"]["tables"][0]["rows"]}
    assert "t temperature=0.1" in left
    assert "greedy" in left
    assert len(left) <= 3
    assert len(data["dropped"]) == 9 - len(left)
    assert {*left, *data["dropped"]} == {"greedy", *(f"t temperature=0.{n}" for n in range(1, 9))}
    temperatures = [body["temperature"] for body in server.bodies]
    # the worst were asked for a quarter of the fit half alone
    assert temperatures.count(0.8) < 100 < temperatures.count(0.1) == 600


def test_a_sample_of_the_results_is_computed_again(
    serve: Any, arguments: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(Server(sums))
    assert run(*arguments, "--sample", 0.1) == 1
    assert "no stored result" in capsys.readouterr().err
    assert run(*arguments) == 0
    asked = len(server.bodies)
    capsys.readouterr()
    assert run(*arguments, "--sample", 0.1) == 0
    count = len(server.bodies) - asked
    assert count == round(0.1 * (66 * 2 + 60 * 8))
    assert f"{count} results computed again: text and tokens equal 100.0%, figures equal 100.0%" in (
        capsys.readouterr().out
    )

    def other(body: Mapping[str, Any]) -> httpx.Response:
        return sums(body) if body["seed"] % 2 else completion("something else")

    server.answer = other
    assert run(*arguments, "--sample", 0.1) == 1
    said = capsys.readouterr().out
    assert "another text" in said
    assert "equal 100.0%" not in said


def test_older_results_are_taken_over_where_a_sample_is_equal(
    serve: Any, arguments: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(Server(sums))
    arguments += ["--limit", 20]
    assert run(*arguments) == 0
    assert run(*arguments, "--restamp", 0.1) == 0
    assert "no stale result" in capsys.readouterr().out
    server.version = "2"
    assert run(*arguments, "--restamp", 0.1) == 0
    said = capsys.readouterr().out
    assert "stamped: warm: " in said
    assert "3 arms had stale results" not in said  # the refused arm has none
    asked = len(server.bodies)
    assert run(*arguments) == 0
    assert all(body["temperature"] == 2.0 for body in server.bodies[asked:])
    server.version = "3"
    server.answer = lambda body: completion("something else") if body["temperature"] == 0.7 else sums(body)
    assert run(*arguments, "--restamp", 0.1) == 1
    said = capsys.readouterr().out
    assert "stamped: greedy: " in said
    assert "changed: warm: " in said


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--limit", 0], "--limit: must be at least 1"),
        (["--model", "m"], "--model and --url exclude each other"),
        (["--sample", 2], "--sample: must be above 0"),
        (["--restamp", 0], "--restamp: must be above 0"),
        (["--restamp", 0.5, "--sample", 0.5], "--sample and --restamp exclude each other"),
        (["--api-key-env", "NO_SUCH_KEY"], "there is no variable NO_SUCH_KEY"),
        (["--baseline", "nothing"], "baseline 'nothing' is none"),
        (["--arms", "gready"], "no file and no built-in arm"),
        (["--halve", "--split", "test"], "--halve: needs the fit half"),
    ],
)
def test_bad_arguments(
    arguments: list[Any], more: list[Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, *more) == 2
    assert says in capsys.readouterr().err


def test_no_server(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    arguments[1] = "http://127.0.0.1:9"
    assert run(*arguments) == 1
    assert "no server answers at http://127.0.0.1:9" in capsys.readouterr().err


def test_a_model_that_is_not_served(
    serve: Any, arguments: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(Server(sums))
    assert run(*arguments, "--served-model", "mine") == 1
    assert "serves no model 'mine'; it serves: other" in capsys.readouterr().err


def test_the_key_comes_from_the_environment(
    serve: Any, arguments: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    class Keyed(Server):
        async def __call__(self, request: httpx.Request) -> httpx.Response:
            seen.add(request.headers.get("authorization"))
            return await super().__call__(request)

    serve(Keyed(sums))
    monkeypatch.setenv("MY_KEY", "secret")
    assert run(*arguments, "--api-key-env", "MY_KEY", "--limit", 4) == 0
    assert seen == {"Bearer secret"}


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as a terminal has it: a shell lets what it starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_keeps_what_was_computed(
    serve: Any, arguments: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = 0

    def interrupted(body: Mapping[str, Any]) -> httpx.Response:
        nonlocal count
        count += 1
        if count == 100:
            signal.raise_signal(signal.SIGINT)
        return sums(body)

    server = serve(Server(interrupted))
    assert run(*arguments) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert list((tmp_path / "out" / "results").glob("*/*.gz"))
    assert not list((tmp_path / "out" / "results").glob("*/journal.jsonl"))
    assert not (tmp_path / "out" / "report.html").exists()
    assert run(*arguments) == 0
    # beside the refused arm, the at most 16 requests that were under way alone were sent twice
    asked = [body for body in server.bodies if body["temperature"] < 2]
    assert 66 * 2 + 60 * 8 <= len(asked) <= 66 * 2 + 60 * 8 + 16


def test_help_and_the_command_line_of_entropick(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["eval", "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for shown in ("--tasks FILE", "--arms ARM", "greedy", "weighted_vote_5", '"answer": "Lima"', "--halve"):
        assert shown in text
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "eval" in capsys.readouterr().out
    assert cli.main(["eval", "--tasks", "/does/not/exist.jsonl"]) == 2
    assert "exist.jsonl: there is no such file" in capsys.readouterr().err
