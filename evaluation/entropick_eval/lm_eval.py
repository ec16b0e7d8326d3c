"""Runs generate_until tasks of lm-eval, by lm-eval itself, against a server at a URL: once an arm.

lm-eval lives in an environment of its own (its dependencies are many); it is started as a command.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .arms import Arm

VERSION: Final = "0.4.13"
VENV: Final = ".venv-lm-eval"
MISSING: Final = (
    f"lm-eval is not installed: python3 -m venv {VENV} && {VENV}/bin/pip install 'lm_eval[api]=={VERSION}' "
    "(in a checkout: -r evaluation/requirements-lm-eval.txt has every version that was tested)"
)


class LmEvalError(RuntimeError):
    """An error of lm-eval, or its absence."""


@dataclass(frozen=True, slots=True)
class Score:
    """A metric of lm-eval for an arm and a task."""

    arm: str
    task: str
    metric: str
    value: float
    error: float | None
    """standard error; None where lm-eval gives none"""


def find_command() -> str:
    """Returns the path of lm-eval's command: on PATH, or in ``.venv-lm-eval``. Raises LmEvalError."""
    found = shutil.which("lm_eval") or shutil.which(str(Path(VENV, "bin", "lm_eval").absolute()))
    if found is None:
        raise LmEvalError(MISSING)
    return found


def arguments(
    command: str,
    arm: Arm,
    tasks: Sequence[Path],
    url: str,
    model: str,
    out: Path,
    limit: int | None,
    concurrency: int,
) -> list[str]:
    """Returns the command line for an arm, whose body's fields are generation arguments."""
    model_args = {
        "base_url": f"{url}/v1/chat/completions",
        "model": model,
        "num_concurrent": concurrency,
        "tokenized_requests": False,
        "tokenizer_backend": None,
    }
    line = [command, "--model", "local-chat-completions", "--model_args", json.dumps(model_args)]
    line += ["--tasks", ",".join(str(path) for path in tasks), "--apply_chat_template"]
    line += ["--gen_kwargs", json.dumps(dict(arm.body)), "--output_path", str(out)]
    return line if limit is None else [*line, "--limit", str(limit)]


def run_arm(line: Sequence[str], arm: str, out: Path, key: str | None) -> list[Score]:
    """Runs a command line of :func:`arguments` and returns its scores. Raises LmEvalError.

    Nothing is fetched: the tasks' data are local files.
    """
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment = {**os.environ, **offline, "OPENAI_API_KEY": key or "unused"}
    done = subprocess.run(line, env=environment, check=False)
    if done.returncode != 0:
        raise LmEvalError(f"lm-eval ended with code {done.returncode} for arm {arm!r}")
    written = sorted(out.rglob("results_*.json"), key=lambda path: path.stat().st_mtime_ns)
    if not written:
        raise LmEvalError(f"lm-eval wrote no results into {out}")
    return list(read_scores(json.loads(written[-1].read_text(encoding="utf-8")), arm))


def read_scores(results: Mapping[str, Any], arm: str) -> Iterator[Score]:
    """Yields the scores in a file of lm-eval's results: ``results[task]["metric,filter"]``."""
    for task, metrics in results["results"].items():
        for name, value in metrics.items():
            metric, _, chosen = name.partition(",")
            if not chosen or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = metrics.get(f"{metric}_stderr,{chosen}")
            shown = metric if chosen == "none" else f"{metric} ({chosen})"
            yield Score(arm, task, shown, float(value), error if isinstance(error, float) else None)


def table(scores: Sequence[Score]) -> str:
    """Returns the scores as a Markdown table."""
    lines = ["| arm | task | metric | value | s.e. |", "|---|---|---|---:|---:|"]
    for one in scores:
        error = "" if one.error is None else f"{one.error:.4f}"
        lines.append(f"| {one.arm} | {one.task} | {one.metric} | {one.value:.4f} | {error} |")
    return "\n".join(lines) + "\n"
