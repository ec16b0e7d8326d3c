"""The command ``entropick eval``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, get_args

from tqdm import tqdm

from entropick_server.engine.base import Engine, EngineError
from entropick_server.settings import Settings, SettingsError, load_settings

from . import lm_eval, recheck
from .arms import DEFAULT_ARMS, PRESETS, ArmError, Arms, choose_arms
from .bootstrap import RESAMPLES
from .collect import collect
from .halving import rungs, survivors
from .report import write_report
from .runner import Keep, Plan, Runner, StoppedError
from .store import Store, StoreError
from .summary import Half, Summary, recommendations, summarise_half
from .targets import Target, TargetError, at_url, base_of, in_process
from .tasks import SPLITS, Item, Split, TaskError, canonical, find_tasks, limited, read_tasks

BuildEngine = Callable[[Settings], Engine]
"""builds the engine that ``entropick serve`` would run"""
_CONCURRENCY: Final = 16
_EPILOG: Final = f"""\
a task is a line of JSON: {{"prompt": "What is the capital of Peru?", "answer": "Lima"}}
an arm is a setting to compare. Built-in arms: {", ".join(PRESETS)}.
An arms file (TOML or JSON) holds a table of request fields for each arm; a list makes an arm of each value.
Without --url the model runs in this process; settings of the server are read as `entropick serve` reads them
(--config, ENTROPICK_<NAME>). The same command again computes what is missing.

docs/evaluation.md has the formats, the checks, the rules and how the figures are computed.
"""
_DESCRIPTION: Final = (
    "Compare settings on questions with known answers and on open prompts, and say how to serve."
)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    options = argparse.ArgumentParser(
        prog="entropick eval",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add(
        "--model",
        metavar="MODEL",
        help="the model to run here, as `entropick serve` takes it (left out: pico)",
    )
    add("--url", help="evaluate the OpenAI-compatible server at this URL instead")
    add("--served-model", metavar="ID", help="with --url: which of its models (default: the first)")
    add("--api-key-env", metavar="NAME", help="with --url: the environment variable that holds the key")
    what = options.add_mutually_exclusive_group(required=True).add_argument
    what("--tasks", nargs="+", metavar="FILE", help="tasks, JSON Lines, or names of shipped ones")
    what(
        "--lm-eval",
        nargs="+",
        type=Path,
        metavar="YAML",
        help="instead: generate_until tasks of lm-eval on local files, with --url",
    )
    add(
        "--arms",
        nargs="+",
        default=[],
        metavar="ARM",
        help=f"built-in arms and files of arms (default: {' '.join(DEFAULT_ARMS)})",
    )
    add("--baseline", default="greedy", metavar="ARM", help="arm that the others are compared with (greedy)")
    add("--out", type=Path, default=Path("entropick-eval"), metavar="DIR", help="folder of the report")
    add("--results", type=Path, metavar="DIR", help="folder of the results (default: results in --out)")
    add("--split", choices=(*SPLITS, "both"), default="both", help="which half of the items (both)")
    add("--limit", type=int, metavar="N", help="at most N items, each family with its share")
    add("--max-tokens", type=int, default=256, metavar="N", help="of an item that says nothing (256)")
    add(
        "--halve",
        action="store_true",
        help="drop the worse half of the arms, again and again, on growing parts of the fit half",
    )
    add(
        "--keep",
        choices=get_args(Keep),
        default="scores",
        help="signals to store a token (scores)",
    )
    add("--concurrency", type=int, metavar="N", help="requests at a time (default: --max-num-seqs, or 16)")
    add("--any-code", action="store_true", help="take stored results of other versions of the code too")
    add(
        "--sample",
        type=float,
        metavar="SHARE",
        help="compute this share of the stored results again, compare",
    )
    add(
        "--restamp",
        type=float,
        metavar="SHARE",
        help="the same with results of older code; where an arm's are all equal, take its others over",
    )
    add("--seed", type=int, default=0, help="of resamples and random choices (0)")
    add("--resamples", type=int, default=RESAMPLES, metavar="N", help=f"of the bootstrap ({RESAMPLES})")
    add("--quiet", action="store_true", help="no progress bar")
    add("--config", type=Path, metavar="FILE", help="TOML file with settings of the server")
    add("--max-num-seqs", type=int, metavar="N", help="requests that run at the same time here (16)")
    return options


def run(argv: Sequence[str], build: BuildEngine) -> int:
    """Runs the command and returns the exit code: 0, 1 after a failure, 2 for bad input, 130 after Ctrl-C."""
    args = parser().parse_args(argv)
    try:
        _check(args)
        if args.lm_eval:
            return _lm_eval(args, choose_arms(args.arms or [args.baseline], args.baseline))
        items = _items(args)
        arms = choose_arms(args.arms, args.baseline)
        settings = None if args.url else _settings(args)
    except (TaskError, ArmError, SettingsError) as error:
        return _fail(str(error), 2)
    try:
        return asyncio.run(_Evaluation(args, items, arms, settings, build).run())
    except (TargetError, StoppedError, StoreError, EngineError) as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted; what was computed is kept, the same command goes on", 130)


def _fail(message: str, code: int) -> int:
    print(f"entropick eval: error: {message}", file=sys.stderr)
    return code


def _check(args: argparse.Namespace) -> None:
    """Checks the numbers. Raises SettingsError."""
    if args.url and args.model:
        raise SettingsError("--model and --url exclude each other; --served-model chooses a model of the URL")
    for name in ("limit", "max_tokens", "concurrency", "resamples", "max_num_seqs"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise SettingsError(f"--{name.replace('_', '-')}: must be at least 1")
    for name in ("sample", "restamp"):
        value = getattr(args, name)
        if value is not None and not 0 < value <= 1:
            raise SettingsError(f"--{name}: must be above 0 and at most 1")
    if args.sample is not None and args.restamp is not None:
        raise SettingsError("--sample and --restamp exclude each other")
    if args.api_key_env and args.api_key_env not in os.environ:
        raise SettingsError(f"--api-key-env: there is no variable {args.api_key_env}")
    if args.lm_eval and not args.url:
        raise SettingsError("--lm-eval: needs --url of a running server (`entropick serve`)")
    for path in args.lm_eval or ():
        if not path.is_file():
            raise SettingsError(f"--lm-eval: there is no file {path}")
    if args.halve and args.split == "test":
        raise SettingsError("--halve: needs the fit half")


def _lm_eval(args: argparse.Namespace, arms: Arms) -> int:
    """Runs lm-eval once for each request arm, and prints and writes its scores."""
    key = os.environ[args.api_key_env] if args.api_key_env else None
    scores: list[lm_eval.Score] = []
    try:
        command = lm_eval.find_command()
        url, model = asyncio.run(_served(args.url, key, args.served_model))
        for name, arm in arms.requests.items():
            out = args.out / "lm-eval" / arm.key
            concurrency = args.concurrency or _CONCURRENCY
            line = lm_eval.arguments(command, arm, args.lm_eval, url, model, out, args.limit, concurrency)
            scores += lm_eval.run_arm(line, name, out, key)
    except (lm_eval.LmEvalError, TargetError) as error:
        return _fail(str(error), 1)
    (args.out / "lm-eval.md").write_text(lm_eval.table(scores), encoding="utf-8")
    print(lm_eval.table(scores), end="")
    return 0


async def _served(url: str, key: str | None, model: str | None) -> tuple[str, str]:
    """Returns a server's address without /v1, and the id of its model."""
    async with at_url(url, key, model) as target:
        return base_of(url), target.identity.name


def _items(args: argparse.Namespace) -> list[Item]:
    chosen = [item for item in read_tasks(find_tasks(args.tasks)) if args.split in ("both", item.split)]
    if not chosen:
        raise TaskError(f"no item of the split {args.split}")
    return limited(chosen, args.limit, args.seed)


def _extracts(items: Sequence[Item]) -> tuple[Any, ...]:
    """Returns the different extractors of the items, the most frequent first."""
    counts = Counter(canonical(item.check.extract) for item in items if item.check is not None)
    return tuple(json.loads(text) for text, _ in counts.most_common())


def _settings(args: argparse.Namespace) -> Settings:
    given = {"model": args.model, "max_num_seqs": args.max_num_seqs}
    return load_settings(args.config, **{name: value for name, value in given.items() if value is not None})


class _Evaluation:
    """One run of the command."""

    def __init__(
        self,
        args: argparse.Namespace,
        items: list[Item],
        arms: Arms,
        settings: Settings | None,
        build: BuildEngine,
    ) -> None:
        self._args = args
        self._items = items
        self._arms = arms
        self._settings = settings
        self._build = build
        fallback = _CONCURRENCY if settings is None else settings.max_num_seqs
        self._plan = Plan(args.max_tokens, args.keep, args.concurrency or fallback, args.any_code)

    async def run(self) -> int:
        async with self._target() as target:
            args = self._args
            store = Store(args.results or args.out / "results", target.identity.model)
            store.load(arm for arm, _ in self._arms.jobs())
            runner = Runner(target, store, self._plan)
            if args.sample is not None or args.restamp is not None:
                return await self._recheck(target, store, runner)
            try:
                arms, dropped = await self._compute(store, runner)
            finally:
                store.fold()
            summary = self._summary(target, store, runner, arms, dropped)
        write_report(summary, args.out, args.model or "")
        self._say(summary, runner)
        return 0

    def _target(self) -> AbstractAsyncContextManager[Target]:
        if self._settings is None:
            name = self._args.api_key_env
            return at_url(self._args.url, os.environ[name] if name else None, self._args.served_model)
        return in_process(self._build(self._settings), self._settings)

    async def _compute(self, store: Store, runner: Runner) -> tuple[Arms, tuple[str, ...]]:
        """Computes the replies, with halving on the fit half first; returns the arms that are left."""
        arms = self._arms
        dropped: list[str] = []
        if self._args.halve:
            fit = [item for item in self._items if item.split == "fit"]
            names = [name for name in (*arms.requests, *arms.rules) if name not in arms.hidden]
            steps = rungs(fit, len(names) - 1)
            for number, items in enumerate(steps):
                await self._batch(runner, items, arms, f"fit {number + 1}/{len(steps)}")
                if number + 1 < len(steps):
                    found = collect(items, arms, store, runner.code_of)
                    left = survivors(found.scored, [self._args.baseline])
                    dropped += [name for name in found.scored if name not in left]
                    arms = arms.only(left)
        await self._batch(runner, self._items, arms, "replies")
        return arms, tuple(dropped)

    async def _batch(self, runner: Runner, items: Sequence[Item], arms: Arms, title: str) -> None:
        with _Bar(title, self._args.quiet, runner) as bar:
            await runner.run(items, arms.jobs(), bar.show)

    async def _recheck(self, target: Target, store: Store, runner: Runner) -> int:
        args = self._args
        arms = [arm for arm, _ in self._arms.jobs()]
        if args.restamp is not None:
            with _Bar("again", args.quiet, runner) as bar:
                outcome = await recheck.restamp(
                    self._items, arms, store, target, self._plan, args.restamp, args.seed, bar.show
                )
            for one in outcome:
                print("\n".join((recheck.restamped_line(one), *recheck.differing(one.again))))
            print("no stale result" if not outcome else f"{len(outcome)} arms had stale results")
            return 0 if all(one.equal for one in outcome) else 1
        pool = list(recheck.stored(self._items, arms, store, runner.code_of))
        if not pool:
            return _fail("--sample: no stored result of these tasks, arms, model and code", 1)
        with _Bar("again", args.quiet, runner) as bar:
            chosen = recheck.choose(pool, args.sample, args.seed)
            found = await recheck.recheck(chosen, target, self._plan, bar.show)
        print("\n".join((*recheck.differing(found), recheck.shares(found))))
        return 0 if all(one.same_text and one.same_figures for one in found) else 1

    def _summary(
        self, target: Target, store: Store, runner: Runner, arms: Arms, dropped: tuple[str, ...]
    ) -> Summary:
        args = self._args
        halves: dict[Split, Half] = {}
        for split in SPLITS:
            items = [item for item in self._items if item.split == split]
            if items:
                found = collect(items, arms, store, runner.code_of)
                halves[split] = summarise_half(split, found, arms, args.baseline, args.resamples, args.seed)
        return Summary(
            model=target.identity.name,
            server=args.url or "run by entropick eval",
            baseline=args.baseline,
            tasks=tuple(Path(name).name for name in args.tasks),
            extracts=_extracts(self._items),
            arms=arms,
            halves=halves,
            recommended=recommendations(halves, args.baseline),
            refused=dict(runner.outcome.refused),
            errors=dict(runner.outcome.errors),
            dropped=dropped,
        )

    def _say(self, summary: Summary, runner: Runner) -> None:
        """Prints the end of the report, and where the rest is."""
        outcome = runner.outcome
        failed = outcome.errors.total()
        print(f"{outcome.computed} replies computed, {failed} failed, {len(outcome.refused)} arms refused")
        markdown = (self._args.out / "report.md").read_text(encoding="utf-8")
        print(markdown[markdown.index("## Serve with") :].rstrip())
        print(f"\nreport: {self._args.out / 'report.html'} (also report.md, report.json)")


class _Bar:
    """A progress bar with the number of errors."""

    def __init__(self, title: str, quiet: bool, runner: Runner) -> None:
        self._bar = tqdm(desc=title, unit="reply", disable=True if quiet else None, file=sys.stderr)
        self._runner = runner

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, done: int, total: int) -> None:
        if self._bar.total != total:
            self._bar.reset(total=total)
        outcome = self._runner.outcome
        if outcome.errors or outcome.refused:
            self._bar.set_postfix(errors=outcome.errors.total(), refused=len(outcome.refused), refresh=False)
        self._bar.update(done - self._bar.n)
