"""The published JSON form of figures by head, written for other programs and read from them.

``num_layers``, ``num_heads``; ``static``: for each layer ``metric_singvals_per_head`` [H][D]; ``dynamic``:
for each layer ``mean_attention_entropy_per_head`` (bits) and ``mean_logit_std_per_head`` [H].
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..grids import Grid
from ..section import InspectError
from .attention import HeadAttention
from .geometry import HeadGeometry, from_spectra
from .relation import Dynamic


def to_contract(geometry: HeadGeometry, attention: HeadAttention) -> dict[str, Any]:
    """Returns the figures of all heads in the published form."""
    return {
        "num_layers": len(attention.entropy),
        "num_heads": len(attention.entropy[0]),
        "dynamic": [
            {"mean_attention_entropy_per_head": list(entropy), "mean_logit_std_per_head": list(spread)}
            for entropy, spread in zip(attention.entropy, attention.score_std, strict=True)
        ],
        "static": [
            {"metric_singvals_per_head": [list(head) for head in layer]} for layer in geometry.singular_values
        ],
    }


def read_contract(path: Path) -> tuple[HeadGeometry, Dynamic]:
    """Reads figures in the published form, from any program; whether a norm's scale is folded in is unknown.

    Raises InspectError that names the field.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InspectError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(given, dict):
        raise InspectError(f"{path.name}: must be a JSON object")
    layers, heads = (_count(given, name) for name in ("num_layers", "num_heads"))
    dynamic, static = (_layers(given, name, layers) for name in ("dynamic", "static"))

    def grid(name: str) -> Grid:
        return tuple(
            _numbers(layer.get(name), heads, f"dynamic[{i}].{name}") for i, layer in enumerate(dynamic)
        )

    spectra = []
    for i, layer in enumerate(static):
        name = f"static[{i}].metric_singvals_per_head"
        rows = layer.get("metric_singvals_per_head")
        if not isinstance(rows, list) or len(rows) != heads:
            raise InspectError(f"{name}: must be a list of {heads} heads")
        found = tuple(_numbers(row, None, f"{name}[{j}]") for j, row in enumerate(rows))
        if min(min(row) for row in found) < 0:
            raise InspectError(f"{name}: a singular value is below 0")
        spectra.append(tuple(tuple(sorted(row, reverse=True)) for row in found))
    geometry = from_spectra(tuple(spectra), folded=False, rotary=False)
    return geometry, Dynamic(grid("mean_attention_entropy_per_head"), grid("mean_logit_std_per_head"))


def _count(given: dict[str, Any], name: str) -> int:
    value = given.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InspectError(f"{name}: must be a whole number, at least 1")
    return value


def _layers(given: dict[str, Any], name: str, count: int) -> list[dict[str, Any]]:
    rows = given.get(name)
    if not isinstance(rows, list) or len(rows) != count or not all(isinstance(row, dict) for row in rows):
        raise InspectError(f"{name}: must be a list of num_layers = {count} objects")
    return rows


def _numbers(values: Any, count: int | None, name: str) -> tuple[float, ...]:
    good = isinstance(values, list) and len(values) > 0 and (count is None or len(values) == count)
    if not good or not all(
        isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in values
    ):
        raise InspectError(f"{name}: must be a list of {count or 'finite'} numbers")
    return tuple(map(float, values))
