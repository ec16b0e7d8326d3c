"""The frame of a command that computes another server's arms: its options, its exit codes."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from entropick_eval.targets import TargetError
from entropick_server.engine.base import ModelLoadError

from .compute import RESULTS, ModelError
from .plan import PLAN, EvidencePlan, PlanError, Run


def parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """Returns a parser with the options that such a command has in any case."""
    options = argparse.ArgumentParser(prog=program, description=description)
    options.add_argument("--limit", type=int, help="only the first N questions of each run, to try it")
    options.add_argument("--plan", type=Path, default=PLAN, help="the plan")
    options.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    return options


def run(
    options: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], Coroutine[Any, Any, int]],
    argv: Sequence[str] | None,
) -> int:
    """Runs the command; returns its code, 1 after a failure, 2 for bad input, 130 after Ctrl-C or SIGTERM."""
    args = options.parse_args(argv)
    # a command that is ended by its id must end the server that it started, too
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return asyncio.run(work(args))
    except (PlanError, FileNotFoundError) as error:
        print(f"{options.prog}: error: {error}", file=sys.stderr)
        return 2
    except (ModelLoadError, ModelError, TargetError, httpx.HTTPError, OSError) as error:
        print(f"{options.prog}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def limited_runs(plan: EvidencePlan, name: str, limit: int | None) -> list[Run]:
    """Returns the runs of a server, each with its first ``limit`` questions (None: all)."""
    runs = plan.runs_of(name)
    return runs if limit is None else [replace(run, items=run.items[:limit]) for run in runs]
