"""Computes the evidence and writes docs/evidence.md: ``python -m evidence``, see docs/evaluation.md.

Without an option: takes older results over or computes them anew, computes what is missing, writes the page.
``--quick``: computes a random part of the stored results again and writes the page from the stored ones.
``--page``: writes the page alone. ``--take FOLDER``: copies results that `entropick eval` made.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from entropick_eval import recheck
from entropick_eval.store import Store, StoreError
from entropick_eval.targets import TargetError, in_process
from entropick_server.cli import serving_engine
from entropick_server.engine.base import EngineError
from entropick_server.settings import SettingsError, load_settings

from .compute import RESULTS, ModelError, again, claim, complete, open_store, request_arms, take, take_over
from .document import write
from .errors import error_section
from .findings import RESAMPLES, findings
from .plan import PLAN, EvidencePlan, PlanError, read_plan

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the options."""
    options = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    add = options.add_argument
    add("--model", action="append", help="only this model of the plan (all)")
    add("--plan", type=Path, default=PLAN, help="the plan")
    add("--results", type=Path, default=RESULTS, help="folder of the results")
    add("--docs", type=Path, default=DOCS, help="folder of the page")
    add("--quick", action="store_true", help="a random part again, and the page")
    add("--tokens", type=int, default=30_000, help="of a model's random part (30000)")
    add("--seed", type=int, help="of the random part (random)")
    add("--page", action="store_true", help="the page alone")
    add(
        "--take", type=Path, metavar="FOLDER", help="copy the results of a model's folder of `entropick eval`"
    )
    add(
        "--restamp", type=float, default=0.02, metavar="SHARE", help="of older results to compute again (.02)"
    )
    add("--anew", action="store_true", help="remove the results of another model of the same name")
    add("--resamples", type=int, default=RESAMPLES, help=f"of the bootstrap ({RESAMPLES})")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 1 where something differs or fails, 2 for bad input, 130 after Ctrl-C."""
    args = parser().parse_args(argv)
    try:
        plan = read_plan(args.plan)
        own = [name for name, model in plan.models.items() if model.of is None]
        chosen = args.model or own
        for name in chosen:
            if name not in own:
                raise PlanError(f"--model: {name!r} is none of {', '.join(own)}")
        same = True
        if args.take is not None:
            return _take(args, plan, chosen)
        for name in () if args.page else chosen:
            same &= asyncio.run(_compute(args, plan, name))
        return _page(args, plan, own) if same else (_page(args, plan, own) or 1)
    except (PlanError, SettingsError) as error:
        return _fail(str(error), 2)
    except (ModelError, TargetError, StoreError, EngineError) as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted; what was computed is kept, the same command goes on", 130)


def _fail(message: str, code: int) -> int:
    print(f"evidence: error: {message}", file=sys.stderr)
    return code


async def _compute(args: argparse.Namespace, plan: EvidencePlan, name: str) -> bool:
    """Computes a model's part; returns whether all that was computed again came out the same."""
    settings = load_settings(None, **{**plan.server, "model": plan.models[name].serve})
    runs = plan.runs_of(name)
    async with in_process(serving_engine(settings, theirs=()), settings) as target:
        claim(args.results, name, target.identity.model, target.identity.name, args.anew and not args.quick)
        store = open_store(args.results, name, request_arms(runs))
        if args.quick:
            seed = random.SystemRandom().randrange(2**31) if args.seed is None else args.seed
            found = await again(plan, runs, target, store, args.tokens, seed)
            if not found.again:
                print(f"{name}: there are no stored results")
                return True
            print("\n".join(recheck.differing(found.again)))
            share = len(found.again) / found.stored
            print(
                f"{name}: {recheck.shares(found.again)}; {share:.1%} of {found.stored} stored results, "
                f"{found.tokens} tokens in {found.seconds:.0f} s, seed {seed}"
            )
            return all(one.same_text and one.same_figures for one in found.again)
        for one in await take_over(plan, runs, target, store, args.restamp, args.seed or 0):
            print("\n".join((recheck.restamped_line(one), *recheck.differing(one.again))))
        for line in await complete(plan, runs, target, store):
            print(f"{name}: {line}")
        return True


def _take(args: argparse.Namespace, plan: EvidencePlan, chosen: Sequence[str]) -> int:
    """Copies results from a folder that is named by its model's digest."""
    if len(chosen) != 1:
        raise PlanError("--take: needs --model, whose results they are")
    (name,) = chosen
    folder: Path = args.take.resolve()
    if not folder.is_dir():
        raise PlanError(f"--take: there is no folder {folder}")
    runs = plan.runs_of(name)
    source = Store(folder.parent, folder.name)
    source.load(request_arms(runs))
    claim(args.results, name, folder.name, name, args.anew)
    copied = take(plan, runs, source, open_store(args.results, name, request_arms(runs)))
    print(f"{name}: {copied} results copied from {folder}")
    return 0


def _page(args: argparse.Namespace, plan: EvidencePlan, own: Sequence[str]) -> int:
    everything = [findings(plan, name, args.results, args.resamples) for name in own]
    sections = (error_section(plan, args.results, args.resamples),)
    changed = write(everything, args.docs, sections)
    print("\n".join(changed[:40]))
    if changed:
        print(f"docs/evidence.md and its plots: {len(changed)} lines differ from those before")
        return 1 if args.quick else 0
    print("docs/evidence.md and its plots: equal to those before")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
