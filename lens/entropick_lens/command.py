"""The command ``entropick inspect``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from entropick_server.engine.base import EngineError
from entropick_server.engine.inspected import kept_inspection
from entropick_server.engine.source import read_source
from entropick_server.engine.types import EngineOptions
from entropick_server.engine.user_cache import user_cache

from . import document, report
from .document import Stored, digest_of
from .heads import relation
from .heads.contract import read_contract, to_contract
from .report import Inspected
from .section import InspectError, Model, Options, Section, progress
from .sections import SECTIONS, chosen
from .terrain import comparison
from .weights import Shape, Weights, WeightsError

COMPARISON_FILE: Final = "entropick_compare.json"
Shipped = Callable[[], tuple[str, str, Path]]
"""gives folder, name and texts of the model that is taken where none is named"""
_DESCRIPTION: Final = (
    "Measure a model's heads, layers, embedding and weights, and write what was found as text with plots "
    f"({report.FILE}) and as data ({document.FILE})."
)
_EPILOG: Final = """\
sections: {sections}

A section whose model and options have not changed is read from the data that is there. docs/inspect.md says
what each section measures and how to read it.
"""
_BY_HEAD: Final = ("head_geometry", "head_attention")
_LIMITS: Final = {
    "tokens": (2, 10_000_000),
    "length": (2, 1_000_000),
    "windows": (1, 64),
    "permutations": (100, 1_000_000),
}


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    options = argparse.ArgumentParser(
        prog="entropick inspect",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(sections=", ".join(section.name for section in SECTIONS)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add(
        "models",
        nargs="*",
        metavar="MODEL",
        help="the model, as `entropick serve` takes it (left out: pico); two are compared side by side",
    )
    add("--sections", nargs="+", metavar="NAME", help="which sections, with what they need (all)")
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where the report goes (default: the model's own folder, or the folder entropick-inspect)",
    )
    add("--text", type=Path, metavar="FILE", help="JSON Lines to run through the model (the shipped text)")
    add("--tokens", type=int, default=4096, metavar="N", help="at most N tokens of text (4096)")
    add("--length", type=int, default=256, metavar="N", help="at most N tokens of one text (256)")
    add("--windows", type=int, default=1, metavar="N", help="runs of tokens averaged apart, by text (1)")
    add("--permutations", type=int, default=10_000, metavar="N", help="of every permutation test (10000)")
    add("--write-heads", type=Path, metavar="FILE", help="write figures by head as JSON for other programs")
    add("--read-heads", type=Path, metavar="FILE", help="relate figures by head from such a file; no model")
    add("--raw", action="store_true", help="take projections as stored, without the norm's scale")
    add(
        "--quick",
        action="store_true",
        help="spectra of weights by estimates, 1000 permutations, 16 positions a text, one repeated text; "
        "heads' geometry and attention are exact all the same (--tokens makes them shorter)",
    )
    add("--seed", type=int, default=0, help="of random choices (0)")
    add("--again", action="store_true", help="compute every section anew")
    add("--quiet", action="store_true", help="no progress bars")
    add("--allow-unvalidated", action="store_true", help="take an architecture that was not validated")
    return options


def run(argv: Sequence[str], shipped: Shipped) -> int:
    """Runs the command and returns the exit code: 0, 1 after a failure, 2 for bad input, 130 after Ctrl-C."""
    args = parser().parse_args(argv)
    try:
        options = _options(args)
        sections = _sections(args)
        if args.read_heads is not None:
            return _relate(args.read_heads, options, args.out)
    except InspectError as error:
        return _fail(str(error), 2)
    try:
        models, options = _open(args, options, shipped)
        # a model in a folder of the user's has its data beside the weights
        keep = args.out is None and not _own_folder(args)
        found = [
            _inspect(model, sections, options, _folder(args, model, len(models)), args.again, keep)
            for model in models
        ]
        out = _folder(args, models[0], 1)
        if len(models) == 2:
            found, sections = _compared(models, found, sections, options, out)
        document.write_text(out / report.FILE, report.page(found, sections))
        if args.write_heads is not None:
            figures = to_contract(*(found[0].results[name] for name in _BY_HEAD))
            document.write_text(args.write_heads, json.dumps(figures) + "\n")
    except (InspectError, WeightsError, EngineError) as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted; the sections that were finished are kept, the same command goes on", 130)
    for results in found:
        _say(results, tuple(section for section in sections if section.name in results.results))
    print(f"written: {out / report.FILE}")
    if not report.have_plots():
        print(report.NO_PLOTS)
    return 0


def _fail(message: str, code: int) -> int:
    print(f"entropick inspect: error: {message}", file=sys.stderr)
    return code


def _options(args: argparse.Namespace) -> Options:
    """Checks the options. Raises InspectError that names the option and its limit."""
    for name, (least, most) in _LIMITS.items():
        if not least <= getattr(args, name) <= most:
            raise InspectError(f"--{name}: must be from {least} to {most}")
    if args.read_heads is not None and args.models:
        raise InspectError("--read-heads: takes no MODEL")
    if args.write_heads is not None and len(args.models) > 1:
        raise InspectError("--write-heads: takes one MODEL")
    if args.seed < 0:
        raise InspectError("--seed: must be at least 0")
    if args.text is not None and not args.text.is_file():
        raise InspectError(f"--text: there is no file {args.text}")
    if len(args.models) > 2:
        raise InspectError("MODEL: at most two, which are compared")
    if len(args.models) == 2 and args.out is None:
        raise InspectError("--out: say where the comparison of two models goes")
    return Options(
        raw=args.raw,
        quick=args.quick,
        text=args.text,
        tokens=args.tokens,
        length=args.length,
        windows=args.windows,
        permutations=args.permutations,
        seed=args.seed,
        quiet=args.quiet,
    )


def _open(args: argparse.Namespace, options: Options, shipped: Shipped) -> tuple[list[Model], Options]:
    """Finds the models, or the shipped model, which brings its own texts."""
    if args.models:
        return [open_model(name, None, args.allow_unvalidated) for name in args.models], options
    folder, name, texts = shipped()
    return [open_model(folder, name)], replace(options, text=options.text or texts)


def open_model(place: str, name: str | None = None, allow_unvalidated: bool = False) -> Model:
    """Finds a model as ``entropick serve`` does, no weight is read; raises EngineError and WeightsError."""
    source = read_source(EngineOptions(place, allow_unvalidated=allow_unvalidated))
    shape = Shape.of(source.config)
    return Model(
        name or source.name,
        source.folder,
        source.model_hash,
        source.config,
        shape,
        Weights(source.folder, shape),
        source.tokenizer,
    )


def _folder(args: argparse.Namespace, model: Model, models: int) -> Path:
    """Returns where a model's files go: two models have a folder each below the comparison's."""
    out: Path | None = args.out
    if out is None:
        # beside the profile, where the server looks; a fetched model has no folder of the user's
        out = model.folder if _own_folder(args) else Path("entropick-inspect") / model.name.replace("/", "-")
    return out if models == 1 else out / model.name.replace("/", "-")


def _own_folder(args: argparse.Namespace) -> bool:
    """Tells whether the model was named by a folder."""
    return bool(args.models) and Path(args.models[0]).expanduser().is_dir()


def _inspect(
    model: Model, sections: tuple[Section, ...], options: Options, folder: Path, again: bool, keep: bool
) -> Inspected:
    """Computes the sections that the data in the folder does not have, and writes the data after each.

    ``keep``: whether to put the data where the server looks as well.
    """
    path = folder / document.FILE
    before = document.read_results(path, SECTIONS)
    known = {} if again else dict(before)
    done: dict[str, Stored] = {}
    for section in progress(sections, model.name, options, len(sections)):
        digest = digest_of(section, model, options, {name: done[name].digest for name in section.needs})
        stored = known.get(section.name)
        if stored is None or stored.digest != digest:
            needed = {name: done[name].result for name in section.needs}
            stored = Stored(digest, section.measure(model, options, needed))
            done[section.name] = stored
            # sections that were not asked for stay as they are
            document.write_results(path, model, SECTIONS, {**before, **done})
        done[section.name] = stored
    document.write_results(path, model, SECTIONS, {**before, **done})
    if keep:
        kept = kept_inspection(user_cache(), model.identity)
        # from another folder other sections may have been computed
        known_there = document.read_results(kept, SECTIONS)
        document.write_results(kept, model, SECTIONS, {**known_there, **before, **done})
    return Inspected(model.name, model.identity, {name: stored.result for name, stored in done.items()})


def _compared(
    models: Sequence[Model],
    found: Sequence[Inspected],
    sections: tuple[Section, ...],
    options: Options,
    out: Path,
) -> tuple[list[Inspected], tuple[Section, ...]]:
    """Adds the alignment of two models to the second's results, and writes it as data."""
    result = comparison.compare(models[0], models[1], options)
    data = {
        "format": document.FORMAT,
        "models": [{"name": model.name, "identity": model.identity} for model in models],
        "sentences": comparison.SECTION.sentences(result),
        "result": document.to_json(comparison.SECTION, result),
    }
    document.write_text(out / COMPARISON_FILE, json.dumps(data, allow_nan=False) + "\n")
    second = found[1]
    results = {**second.results, comparison.SECTION.name: result}
    return [found[0], Inspected(second.name, second.identity, results)], (*sections, comparison.SECTION)


def _sections(args: argparse.Namespace) -> tuple[Section, ...]:
    """Returns the chosen sections, with the heads' where their figures are to be written."""
    if args.sections is None:
        return SECTIONS
    return chosen((*args.sections, *(_BY_HEAD if args.write_heads is not None else ())))


def _relate(path: Path, options: Options, out: Path | None) -> int:
    """Reports the relation of geometry and attention of figures in a file, which any program may write."""
    geometry, dynamic = read_contract(path)
    found = relation.relate(geometry, dynamic, options.permutations, options.seed)
    inspected = Inspected(path.stem, "figures by head from a file", {relation.SECTION.name: found})
    if out is not None:
        document.write_text(out / report.FILE, report.page([inspected], (relation.SECTION,)))
    _say(inspected, (relation.SECTION,))
    return 0


def _say(found: Inspected, sections: tuple[Section, ...]) -> None:
    print(f"\n{found.name}")
    for section in sections:
        print(f"\n{section.title}")
        for sentence in section.sentences(found.results[section.name]):
            print(f"  {sentence}")
