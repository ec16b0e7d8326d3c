"""The table of ``make test-e2e``: read from the reports of pytest and of node's runner."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .clients import run

PYTEST = """<testsuites><testsuite>
<testcase classname="test_langchain.TestStandard" name="test_invoke">
  <system-out>chatter
measured: 24 texts
</system-out></testcase>
<testcase classname="test_langchain.TestStandard" name="test_json_mode">
  <skipped type="pytest.xfail" message="needs a clever model"/></testcase>
<testcase classname="test_langchain" name="test_left_out">
  <skipped type="pytest.skip" message="no picture"/></testcase>
<testcase classname="test_langchain" name="test_wrong"><failure message="assert 1 == 2&#10;more"/></testcase>
<testcase classname="test_langchain" name="test_no_server"><error message="refused"/></testcase>
</testsuite></testsuites>"""
NODE = """<testsuites>
<testcase name="models" time="0.1" classname="test"/>
<testcase name="a stream" classname="test" failure="no text">
  <failure type="testCodeFailure" message="no text">stack</failure></testcase>
</testsuites>"""
CLIENT = run.Client("a client", "own", "test_it.py")


def test_what_came_of_each_test(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(PYTEST)
    assert list(run.outcomes(report)) == [
        run.Outcome("TestStandard::test_invoke", "passed", "24 texts"),
        run.Outcome("TestStandard::test_json_mode", "expected", "needs a clever model"),
        run.Outcome("test_left_out", "skipped", "no picture"),
        run.Outcome("test_wrong", "failed", "assert 1 == 2"),
        run.Outcome("test_no_server", "failed", "refused"),
    ]
    report.write_text(NODE)
    assert list(run.outcomes(report)) == [
        run.Outcome("models", "passed"),
        run.Outcome("a stream", "failed", "no text"),
    ]


def test_the_table_names_what_did_not_pass(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(PYTEST)
    lines = run.table({"pico": {"langchain": list(run.outcomes(report))}}).splitlines()
    assert lines[1].split() == ["langchain", "pico", "1", "2", "1", "1"]
    assert "FAILED: langchain, pico: test_wrong: assert 1 == 2" in lines
    assert "too small a model: langchain, pico: TestStandard::test_json_mode: needs a clever model" in lines
    assert "measured: langchain, pico: TestStandard::test_invoke: 24 texts" in lines
    assert lines[-1] == "1 passed, 2 failed, 2 skipped"


@pytest.mark.parametrize("script", ["raise SystemExit(2)", "pass"])
def test_tests_that_say_nothing_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    line = [sys.executable, "-c", script]
    monkeypatch.setattr(run.Client, "command", lambda *a: line)
    [outcome] = run.run_client(CLIENT, tmp_path, {}, tmp_path)
    assert outcome.kind == "failed"


def test_a_runner_that_is_not_there_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.Client, "command", lambda *a: [str(tmp_path / "no-node")])
    [outcome] = run.run_client(CLIENT, tmp_path, {}, tmp_path)
    assert outcome.kind == "skipped"


def test_every_client_has_its_tests() -> None:
    for client in run.CLIENTS:
        assert (run.HERE / client.file).is_file()
    assert len({client.name for client in run.CLIENTS}) == len(run.CLIENTS)
