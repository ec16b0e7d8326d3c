"""Draws plots as SVG: accuracy against tokens, and differences with their intervals."""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

_WIDTH: Final = 860
_LEFT: Final = 64
_INK: Final = "#1c1f24"
_FAINT: Final = "#d5d9e0"
_POINT: Final = "#1f5fbf"
_BASE: Final = "#b3261e"


@dataclass(frozen=True, slots=True)
class Point:
    """An arm in a plot: its tokens, its value with the limits of the interval."""

    name: str
    tokens: float
    value: float
    low: float
    high: float
    marked: bool = False
    """whether it is the baseline"""


def _svg(height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" '
        f'height="{height:.0f}" role="img" aria-label="{html.escape(label)}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{_INK}">\n' + "\n".join(parts) + "\n</svg>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: float = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
        f'stroke-width="{width:g}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _dot(x: float, y: float, point: Point) -> str:
    color = _BASE if point.marked else _POINT
    shown = f"{point.name}: {point.value:.1%} [{point.low:.1%}, {point.high:.1%}], {point.tokens:.0f} tokens"
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"><title>{html.escape(shown)}</title></circle>'
    )


def accuracy_against_tokens(
    points: Sequence[Point], best: Sequence[str], named: Collection[str] | None = None
) -> str:
    """Returns a plot of accuracy over tokens (logarithmic), with the points in ``best`` joined by a line.

    ``named``: the points whose name is written; None: all. The others say theirs under the pointer.
    """
    height, bottom, top = 440.0, 390.0, 20.0
    lowest = math.floor(max(0.0, min(point.low for point in points)) * 20) / 20
    highest = math.ceil(min(1.0, max(point.high for point in points)) * 20) / 20
    highest = max(highest, lowest + 0.05)
    first = math.log2(min(point.tokens for point in points) or 1)
    last = math.log2(max(point.tokens for point in points) or 1)
    pad = max(0.25, (last - first) * 0.08)
    first, last = first - pad, last + pad

    def x(tokens: float) -> float:
        return _LEFT + (math.log2(tokens or 1) - first) / (last - first) * (_WIDTH - _LEFT - 150)

    def y(value: float) -> float:
        return bottom - (value - lowest) / (highest - lowest) * (bottom - top)

    parts = []
    step = 0.05 if highest - lowest <= 0.4 else 0.1
    for mark in range(round((highest - lowest) / step) + 1):
        value = lowest + mark * step
        parts.append(_line(_LEFT, y(value), _WIDTH - 150, y(value), _FAINT))
        parts.append(_text(_LEFT - 8, y(value) + 4, f"{value:.0%}", "end"))
    for power in range(math.ceil(first), math.floor(last) + 1):
        parts.append(_line(x(2**power), bottom, x(2**power), bottom + 5, _INK))
        parts.append(_text(x(2**power), bottom + 19, f"{2.0**power:g}", "middle"))
    parts.append(_text((_LEFT + _WIDTH - 150) / 2, bottom + 38, "generated tokens an item", "middle"))
    joined = sorted((point for point in points if point.name in best), key=lambda point: point.tokens)
    path = " ".join(f"{x(point.tokens):.1f},{y(point.value):.1f}" for point in joined)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{_POINT}" stroke-dasharray="4 3"/>')
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda one: -one.value):
        at = x(point.tokens)
        parts.append(_line(at, y(point.low), at, y(point.high), _BASE if point.marked else _POINT))
        parts.append(_dot(at, y(point.value), point))
        if named is not None and point.name not in named:
            continue
        # a name goes below the names that are already near
        down = y(point.value) + 4
        while any(abs(down - other) < 13 and abs(at - near) < 150 for near, other in taken):
            down += 13
        taken.append((at, down))
        parts.append(_text(at + 8, down, point.name))
    return _svg(height, parts, "accuracy against generated tokens")


def differences(points: Sequence[Point], baseline: str) -> str:
    """Returns a plot of paired differences from the baseline with their intervals, a row an arm."""
    left, right = 300.0, _WIDTH - 40.0
    reach = max([0.01, *(abs(end) for point in points for end in (point.low, point.high))]) * 1.05
    height = 30.0 + 22 * len(points) + 40

    def x(value: float) -> float:
        return left + (value + reach) / (2 * reach) * (right - left)

    bottom = height - 40
    parts = []
    step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if reach / s <= 5 or s == 1.0)
    for mark in range(-int(reach / step), int(reach / step) + 1):
        at = x(mark * step)
        parts.append(_line(at, 14, at, bottom, _INK if mark == 0 else _FAINT))
        parts.append(_text(at, bottom + 16, f"{mark * step * 100:+g}", "middle"))
    parts.append(_text((left + right) / 2, bottom + 34, f"points of accuracy against {baseline}", "middle"))
    for row, point in enumerate(points):
        down = 30.0 + 22 * row
        parts.append(_text(left - 10, down + 4, point.name[:44], "end"))
        parts.append(_line(x(point.low), down, x(point.high), down, _POINT, 2))
        parts.append(_dot(x(point.value), down, point))
    return _svg(height, parts, f"differences from {baseline}")
