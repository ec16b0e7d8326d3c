"""Colours of tokens: by the size of a signal in five steps, or by strategy.

The steps of a signal run along cividis (its light end paler on a light terminal), which is made for readers
with any colour vision and grows evenly in lightness; strategies have the colours of Okabe and Ito. A token's
ground is coloured, and its letters are black or white, so that it can be read whatever the terminal's own
colours are.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.style import Style

from entropick_sampler.signals import SIGNALS, Signal

STRATEGY: Final = "strategy"
"""colours by strategy, where a signal's name would stand"""
NONE: Final = "none"
"""no colours"""

_ON_DARK: Final = ("#3b496c", "#7c7b78", "#bcaf6f", "#fee838")
_ON_LIGHT: Final = ("#fbf0b2", "#d5c46a", "#7c7b78", "#00224e")
_STRATEGIES: Final[Mapping[str, str | None]] = {
    "greedy": None,
    "clarify": "#cc79a7",
    "explore": "#56b4e9",
    "high_uncertainty": "#d55e00",
    "adaptive": "#999999",
}
"""strategy -> the colour of its ground; None: as plain text"""
_BUCKETS: Final = (1 / 4, 7 / 16, 9 / 16, 11 / 16)
"""the places among a signal's buckets where a step begins"""
_QUANTILES: Final = (4, 5, 6, 8)
"""the quantiles of a profile where a step begins: 50, 75, 90 and 99 %"""
_QUANTILE_COUNT: Final = 9
BY_NAME: Final[Mapping[str, Signal]] = {signal.name: signal for signal in SIGNALS}


def ground(colour: str) -> Style:
    """Returns the style of letters on a ground of a colour, ``#rrggbb``: black or white, by contrast."""
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    # relative luminance, WCAG 2; contrast with black equals contrast with white at 0.179
    luminance = 0.2126 * _linear(red) + 0.7152 * _linear(green) + 0.0722 * _linear(blue)
    return Style(color="#000000" if luminance > 0.179 else "#ffffff", bgcolor=colour)


def _linear(share: float) -> float:
    return float(share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4)


@dataclass(frozen=True, slots=True)
class SignalScale:
    """A scale of a signal in five steps, of which the lowest has no colour.

    ``cuts``: four values in the signal's unit, ascending; ``styles``: of the steps from each cut on.
    """

    signal: Signal
    cuts: tuple[float, ...]
    styles: tuple[Style, ...]

    def style(self, row: Mapping[str, Any]) -> Style | None:
        """Returns the style of a token's row; None for plain text."""
        value = number(row, self.signal.name)
        step = 0 if value is None else bisect.bisect_right(self.cuts, value)
        return self.styles[step - 1] if step else None

    def legend(self) -> list[tuple[str, Style | None]]:
        """Returns the scale as pieces of text with their styles."""
        ends = [*(f" to {cut:g}" for cut in self.cuts[1:]), " and more"]
        title = f"{self.signal.name} ({self.signal.unit}): plain below {self.cuts[0]:g} "
        pieces: list[tuple[str, Style | None]] = [(title, None)]
        for cut, end, style in zip(self.cuts, ends, self.styles, strict=True):
            pieces += [(f" {cut:g}{end} ", style), (" ", None)]
        return pieces


@dataclass(frozen=True, slots=True)
class StrategyScale:
    """A colour for each strategy; forced tokens are underlined."""

    styles: Mapping[str, Style | None]

    def style(self, row: Mapping[str, Any]) -> Style | None:
        """Returns the style of a token's row; None for plain text."""
        style = self.styles.get(str(row.get("strategy")))
        if row.get("forced"):
            style = (style or Style()) + Style(underline=True)
        return style

    def legend(self) -> list[tuple[str, Style | None]]:
        """Returns the scale as pieces of text with their styles."""
        pieces: list[tuple[str, Style | None]] = [("strategy: ", None)]
        for name, style in self.styles.items():
            shown = name.replace("_", " ")
            pieces += [(f" {shown} " if style else f"{shown} (plain)", style), (" ", None)]
        return [*pieces, ("forced", Style(underline=True))]


Scale = SignalScale | StrategyScale


def make_scale(name: str, profile: Mapping[str, Sequence[float]], *, light: bool) -> Scale | None:
    """Returns the scale of a signal's name or of ``strategy``; None for ``none``.

    ``profile``: quantiles of the model's profile by signal. Attention depends on the model and its scale is
    taken from there, where it is known; other scales are the same for every model. ``light``: whether the
    terminal's ground is light.
    """
    if name == NONE:
        return None
    if name == STRATEGY:
        return StrategyScale({s: None if c is None else ground(c) for s, c in _STRATEGIES.items()})
    signal = BY_NAME[name]
    quantiles = profile.get(name, ())
    if signal.group == "attention" and len(quantiles) == _QUANTILE_COUNT:
        cuts = tuple(float(f"{quantiles[at]:.3g}") for at in _QUANTILES)
    else:
        cuts = tuple(signal.buckets[int(place * len(signal.buckets))] for place in _BUCKETS)
    return SignalScale(signal, cuts, tuple(map(ground, _ON_LIGHT if light else _ON_DARK)))


def number(row: Mapping[str, Any], signal: str) -> float | None:
    """Returns a signal of a token's row; None where it was not measured."""
    signals = row.get("signals")
    value = signals.get(signal) if isinstance(signals, dict) else None
    return float(value) if isinstance(value, int | float) else None
