"""The form of a section of the report: a measurement with a typed result, its sentences and its plots.

A result is a frozen dataclass of numbers, texts and tuples; what a model does not have is None or an empty
tuple, never 0. It becomes the section's part of ``entropick_inspect.json`` and is read from there when none
of its inputs has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

from .weights import Shape, Weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from entropick_server.engine.tokenizer import FastTokenizer

T = TypeVar("T")


class InspectError(ValueError):
    """An error of the command: bad options, a model that cannot be inspected."""


@dataclass(frozen=True, slots=True)
class Options:
    """The user's choices; each section names the options that its result depends on."""

    raw: bool = False
    """take projections as stored, without the norm's scale folded in"""
    quick: bool = False
    """estimates where an exact figure is long to compute, each marked as an estimate"""
    text: Path | None = None
    """JSON Lines to run through the model; None: the shipped text"""
    tokens: int = 4096
    """the most tokens of text that are run"""
    length: int = 256
    """the most tokens of one text"""
    windows: int = 1
    """runs of tokens of a text whose layer entropies are averaged apart"""
    permutations: int = 10_000
    """of every permutation test"""
    seed: int = 0
    """of every random choice"""
    quiet: bool = False
    """no progress bars"""


@dataclass(frozen=True, slots=True)
class Model:
    """A model as the sections see it: its files, sizes and tokenizer, and no weights in memory."""

    name: str
    folder: Path
    identity: str
    """the digest of weights, configuration and tokenizer"""
    config: Any
    """transformers' configuration of the language model"""
    shape: Shape
    weights: Weights
    tokenizer: FastTokenizer


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot of a section, drawn when the report is written."""

    name: str
    """unique in the section, of letters, digits and hyphens"""
    caption: str
    """what it shows and how to read it"""
    draw: Callable[[Figure], None]
    size: tuple[float, float] = (7.5, 4.5)
    """inches"""


def _no_plots(_: Any) -> tuple[Plot, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report, of one module.

    ``measure`` takes the model, the options and the results of the sections in ``needs`` by their names.
    """

    name: str
    title: str
    version: int
    """of the measurement: a change of what it gives needs the next number"""
    result: type[Any]
    """the dataclass of its results"""
    measure: Callable[[Model, Options, Mapping[str, Any]], Any]
    sentences: Callable[[Any], tuple[str, ...]]
    """what is to be said about a result, with numbers, what is unusual first"""
    plots: Callable[[Any], tuple[Plot, ...]] = field(default=_no_plots)
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    """the options that the result depends on, by their names"""


def progress(items: Iterable[T], what: str, options: Options, total: int | None = None) -> Iterator[T]:
    """Goes through some items under a progress bar, which only a terminal shows."""
    yield from tqdm(items, desc=what, total=total, leave=False, disable=True if options.quiet else None)
