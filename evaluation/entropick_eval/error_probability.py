"""Fits ``error_probability`` on stored replies of a model, judges it, and writes it into the model's profile.

``python -m entropick_eval.error_probability --results DIR --profile FILE`` reads what ``entropick eval
--keep all`` stored of the arms ``greedy`` and, where there is any, ``min_p_02``. Coefficients come from the
fit half alone; the figures are of the test half, or, while nothing of it is stored, of parts of the fit half
that the fit did not see. The same results give the same file. docs/uncertainty.md says what it reached.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from entropick_sampler.profile import Profile, ProfileError

from .blocks import to_markdown
from .error_blocks import error_probability_blocks
from .error_findings import GREEDY, LINES, RESAMPLES, SAMPLING, find
from .store import Store, StoreError
from .tasks import TaskError, find_tasks, read_tasks


def open_store(results: Path, model: str | None = None) -> Store:
    """Returns the stored results of a model, the arms of the recipe loaded.

    ``model``: the name of its folder in ``results``, which may be left out where there is one. Raises
    StoreError.
    """
    folders = sorted(path.name for path in results.iterdir() if path.is_dir()) if results.is_dir() else []
    if model is None and len(folders) != 1:
        raise StoreError(f"{results}: name one of its folders of models: {', '.join(folders) or 'none'}")
    store = Store(results, model or folders[0])
    store.load([GREEDY, SAMPLING, LINES])
    return store


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    options = argparse.ArgumentParser(prog="python -m entropick_eval.error_probability", description=__doc__)
    add = options.add_argument
    add(
        "--results", type=Path, required=True, metavar="DIR", help="folder of the results of `entropick eval`"
    )
    add("--model", metavar="DIGEST", help="its folder of one model (the only one)")
    add("--tasks", nargs="+", metavar="FILE", help="tasks, or names of shipped ones (all that are shipped)")
    add("--profile", type=Path, metavar="FILE", help="profile that gets the coefficients")
    add("--resamples", type=int, default=RESAMPLES, metavar="N", help=f"of the bootstrap ({RESAMPLES})")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, or 1 after a message that names the missing piece."""
    args = parser().parse_args(argv)
    try:
        names = args.tasks or sorted(path.stem for path in (Path(__file__).parent / "data").glob("*.jsonl"))
        items = read_tasks(find_tasks(names))
        found = find(items, open_store(args.results, args.model), args.resamples)
        if found is None:
            raise StoreError(f"{args.results}: no right and wrong replies of `greedy` with all signals")
        if args.profile is not None:
            replace(Profile.load(args.profile), error=found.model).save(args.profile)
    except (OSError, StoreError, TaskError, ProfileError) as error:
        print(f"error_probability: error: {error}", file=sys.stderr)
        return 1
    print(to_markdown("Error probability", error_probability_blocks(found)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
