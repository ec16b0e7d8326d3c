"""lm-eval as a command: a stand-in that notes how it was called and writes results in lm-eval's form."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from entropick_eval import command, lm_eval, targets

from .support import Server, completion

FAKE = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
rest = sys.argv[1:]
def after(name):
    return rest[rest.index(name) + 1]
out = Path(after("--output_path")) / "model"
out.mkdir(parents=True)
names = ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "OPENAI_API_KEY")
(out / "called.json").write_text(json.dumps([rest, {{name: os.environ[name] for name in names}}]))
metrics = {{"alias": "t", "exact_match,strict": 0.25, "exact_match_stderr,strict": 0.125, "f1,none": 0.5,
  "f1_stderr,none": "N/A"}}
(out / "results_2026.json").write_text(json.dumps({{"results": {{"t": metrics}}}}))
sys.exit(3 if json.loads(after("--gen_kwargs")).get("temperature") == 1.0 else 0)
"""


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "t.yaml"
    path.write_text("task: t\n")

    def client(base: str, key: str | None, transport: Any = None) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=base, transport=httpx.MockTransport(Server(lambda body: completion("x")))
        )

    monkeypatch.setattr(targets, "_client", client)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    return path


def install(tmp_path: Path) -> None:
    path = tmp_path / lm_eval.VENV / "bin" / "lm_eval"
    path.parent.mkdir(parents=True)
    path.write_text(FAKE)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def run(*arguments: Any) -> int:
    return command.run([str(one) for one in arguments], lambda settings: None)  # type: ignore[arg-type, return-value]


def test_every_request_arm_is_a_run(task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(tmp_path)
    common = ["--lm-eval", task, "--url", "http://server/v1/", "--limit", 5, "--out", tmp_path / "out"]
    assert run(*common, "--arms", "greedy", "sampling") == 0
    said = capsys.readouterr().out
    assert "| greedy | t | exact_match (strict) | 0.2500 | 0.1250 |" in said
    assert "| sampling | t | f1 | 0.5000 |  |" in said
    assert (tmp_path / "out" / "lm-eval.md").read_text() == said
    called = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("called.json")]
    assert len(called) == 2
    for line, environment in called:
        options = {
            name: line[line.index(name) + 1] for name in ("--model", "--model_args", "--tasks", "--limit")
        }
        assert options["--model"] == "local-chat-completions"
        model = json.loads(options["--model_args"])
        assert (model["base_url"], model["model"]) == ("http://server/v1/chat/completions", "other")
        assert (options["--tasks"], options["--limit"]) == (str(task), "5")
        assert "--apply_chat_template" in line
        assert environment == {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "unused"}
    bodies = [json.loads(line[line.index("--gen_kwargs") + 1]) for line, _ in called]
    assert {"temperature": 0.0} in bodies
    assert any(body.get("entropick") == {"policy": "fixed"} for body in bodies)
    assert "OPENAI_API_KEY" not in os.environ or os.environ["OPENAI_API_KEY"] != "unused"


def test_without_lm_eval_the_command_that_brings_it_is_named(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--lm-eval", task, "--url", "http://server") == 1
    assert "pip install 'lm_eval[api]==" in capsys.readouterr().err


def test_a_failure_of_lm_eval_is_told(task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(tmp_path)
    assert run("--lm-eval", task, "--url", "http://server", "--arms", "min_p", "--baseline", "min_p") == 1
    assert "lm-eval ended with code 3 for arm 'min_p'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--lm-eval", "t.yaml"], "--lm-eval: needs --url"),
        (["--lm-eval", "none.yaml", "--url", "http://server"], "--lm-eval: there is no file none.yaml"),
    ],
)
def test_bad_arguments(
    task: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert says in capsys.readouterr().err


def test_tasks_and_lm_eval_exclude_each_other(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--tasks", "a", "--lm-eval", "t.yaml"]):
        with pytest.raises(SystemExit) as ended:
            run(*arguments)
        assert ended.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
