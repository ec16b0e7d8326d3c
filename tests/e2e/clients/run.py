"""Starts a server for each model and runs each client's tests in the client's environment: ``make test-e2e``.

Prints for each client what passed, failed, was expected to fail for want of a clever model, or was skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from ..serving import serve, stop

HERE: Final = Path(__file__).parent
KEY: Final = "e2e-key"
TOLD: Final = "measured: "
"""begins a line that a test prints for the table"""
# what tests print goes into the report
OUTPUT: Final = ("-o", "junit_logging=system-out")
# clients keep their connections beyond a test, so all tests have one event loop
ASYNC: Final = tuple(
    word
    for option in (
        "asyncio_mode=auto",
        "asyncio_default_test_loop_scope=session",
        "asyncio_default_fixture_loop_scope=session",
    )
    for word in ("-o", option)
)
# nothing is fetched, nothing is reported anywhere
QUIET: Final = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True, slots=True)
class Client:
    """A client of others: its name, the environment that has it, its file of tests.

    ``models``: those against which it runs; ``options``: of the server.
    """

    name: str
    environment: str
    file: str
    models: tuple[str, ...] = ("pico", "smollm2")
    options: tuple[str, ...] = ()

    def command(self, environments: Path, report: Path) -> list[str]:
        """Returns the command line that runs the tests and writes a JUnit report."""
        if self.environment == "node":
            return [
                "node",
                "--test",
                "--test-reporter=junit",
                f"--test-reporter-destination={report}",
                self.file,
            ]
        python = environments / self.environment / "bin" / "python"
        line = [
            str(python),
            "-m",
            "pytest",
            "-q",
            *OUTPUT,
            "-c",
            "pytest.ini",
            f"--junitxml={report}",
            self.file,
        ]
        return [*line, *ASYNC] if self.environment == "clients" else line


CLIENTS: Final = (
    Client("openai (Python)", "clients", "test_openai.py"),
    Client("openai (JavaScript)", "node", "openai.test.mjs"),
    Client("langchain-openai", "clients", "test_langchain.py"),
    Client("litellm", "clients", "test_litellm.py"),
    Client("instructor", "instructor", "test_instructor.py"),
    Client("pydantic-ai", "clients", "test_pydantic_ai.py"),
    Client("lm-eval", "lm-eval", "test_lm_eval.py", ("pico",)),
    # thousands of requests: a small context and few choices, or they take hours
    Client(
        "schemathesis",
        "clients",
        "test_schemathesis.py",
        ("pico",),
        ("--max-model-len", "96", "--max-n", "2"),
    ),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a test: passed, failed, expected (a failure that was expected) or skipped, and why."""

    test: str
    kind: str
    why: str = ""


def outcomes(report: Path) -> Iterator[Outcome]:
    """Yields what came of each test of a JUnit report, of pytest or of node."""
    for case in ElementTree.parse(report).iter("testcase"):
        where = case.get("classname", "").rpartition(".")[2]
        name = f"{where}::{case.get('name')}" if where.startswith("Test") else str(case.get("name"))
        wrong = case.find("failure") if case.find("failure") is not None else case.find("error")
        skipped = case.find("skipped")
        if wrong is not None:
            yield Outcome(name, "failed", (wrong.get("message") or "").splitlines()[0][:200])
        elif skipped is not None:
            expected = skipped.get("type") == "pytest.xfail"
            yield Outcome(name, "expected" if expected else "skipped", skipped.get("message") or "")
        else:
            lines = (case.findtext("system-out") or "").splitlines()
            told = [line.removeprefix(TOLD) for line in lines if line.startswith(TOLD)]
            yield Outcome(name, "passed", "; ".join(told))


def run_client(client: Client, environments: Path, told: dict[str, str], folder: Path) -> list[Outcome]:
    """Returns what came of a client's tests; one failure where they did not run to their end."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    line = client.command(environments, report)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PYTHONPATH"))
    }
    try:
        done = subprocess.run(line, cwd=HERE, env={**kept, **QUIET, **told}, check=False)
    except FileNotFoundError as error:
        return [Outcome(client.file, "skipped", f"not there: {error.filename}")]
    found = list(outcomes(report)) if report.exists() else []
    if not found or (done.returncode != 0 and all(one.kind != "failed" for one in found)):
        found.append(Outcome(client.file, "failed", f"the tests ended with code {done.returncode}"))
    return found


@contextmanager
def served(folder: Path, model: str, *options: str) -> Iterator[tuple[str, list[Outcome]]]:
    """Starts a server; yields its URL, and a list that gets what came of the server itself at its end."""
    log = folder / "log"
    process, url = serve(log, *(() if model == "pico" else (model,)), *options, "--api-key", KEY)
    found: list[Outcome] = []
    try:
        yield url, found
    finally:
        code = stop(process)
    text = log.read_text(errors="replace")
    faults = [line for line in text.splitlines() if "Traceback" in line or '" 500' in line]
    if faults:
        print(text[text.find("Traceback") :][:4000], file=sys.stderr)
    found.append(Outcome("ends with code 0", "failed" if code else "passed", f"code {code}" if code else ""))
    found.append(Outcome("no traceback, no 500", "failed" if faults else "passed", "; ".join(faults[:3])))


def run_model(model: str, clients: Sequence[Client], environments: Path) -> dict[str, list[Outcome]]:
    """Returns what came of each client's tests against servers of a model, which it starts and stops."""
    results: dict[str, list[Outcome]] = {}
    told = {
        "ENTROPICK_E2E_KEY": KEY,
        "ENTROPICK_E2E_PYTHON": sys.executable,
        "ENTROPICK_E2E_PACKAGES": str(environments / "node"),
    }
    for options in dict.fromkeys(one.options for one in clients):
        with tempfile.TemporaryDirectory() as name, served(Path(name), model, *options) as (url, found):
            listed = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {KEY}"}).json()
            told |= {"ENTROPICK_E2E_URL": url, "ENTROPICK_E2E_MODEL": listed["data"][0]["id"]}
            for client in clients:
                if client.options == options:
                    results[client.name] = run_client(client, environments, told, Path(name))
        results[" ".join(("the server", *options))] = found
    return results


def table(results: dict[str, dict[str, list[Outcome]]]) -> str:
    """Returns the table of all clients, with each test that did not simply pass, and the line of totals."""
    kinds = ("passed", "failed", "expected", "skipped")
    lines = [f"{'client':42} {'model':8} {'passed':>6} {'failed':>6} {'too small':>9} {'skipped':>7}"]
    for model, clients in results.items():
        for client, found in clients.items():
            n = [sum(one.kind == kind for one in found) for kind in kinds]
            lines.append(f"{client:42} {model:8} {n[0]:6} {n[1]:6} {n[2]:9} {n[3]:7}")
    words = {"failed": "FAILED", "expected": "too small a model", "skipped": "skipped", "passed": "measured"}
    for kind, word in words.items():
        lines += [
            f"{word}: {client}, {model}: {one.test}: {one.why}"
            for model, clients in results.items()
            for client, found in clients.items()
            for one in found
            if one.kind == kind and (one.why or kind != "passed")
        ]
    every = [one.kind for clients in results.values() for found in clients.values() for one in found]
    passed, failed = every.count("passed"), every.count("failed")
    return "\n".join(
        [*lines, "", f"{passed} passed, {failed} failed, {len(every) - passed - failed} skipped"]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for; returns 1 where a test failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--environments", type=Path, required=True, help="the folder of the clients' environments"
    )
    parser.add_argument(
        "--models", nargs="+", default=["pico"], help="pico, smollm2 or whatever is served by name"
    )
    parser.add_argument("--only", nargs="+", help="words of the names of clients")
    parser.add_argument("--json", type=Path, help="a file for the outcomes")
    options = parser.parse_args(arguments)
    chosen = [one for one in CLIENTS if not options.only or any(word in one.name for word in options.only)]
    results = {
        model: run_model(
            model, [one for one in chosen if model in one.models], options.environments.absolute()
        )
        for model in options.models
    }
    print(table(results))
    if options.json:
        plain = {
            model: {client: [[o.test, o.kind, o.why] for o in found] for client, found in clients.items()}
            for model, clients in results.items()
        }
        options.json.write_text(json.dumps(plain, indent=1, ensure_ascii=False))
    return int(
        any(one.kind == "failed" for each in results.values() for found in each.values() for one in found)
    )


if __name__ == "__main__":
    sys.exit(main())
