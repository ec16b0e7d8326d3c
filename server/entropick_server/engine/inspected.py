"""Reads the layers to monitor from the data that ``entropick inspect`` wrote; knows nothing of how it is
made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from .base import ModelLoadError
from .user_cache import user_cache

INSPECTION_FILE: Final = "entropick_inspect.json"


def kept_inspection(cache: Path, model_hash: str) -> Path:
    """Returns the place in the user's cache for the inspection of a model without a folder of the user's."""
    return cache / "inspections" / f"{model_hash[:24]}.json"


def inspected_layers(
    model: str, folder: Path, model_hash: str, count: int, share: float = 0.5, cache: Path | None = None
) -> tuple[int, ...]:
    """Returns the layers of a model whose signals follow the mean of all best, by its inspection.

    They are ``share`` of its ``count`` layers, rounded down, one at least. The data is looked for beside the
    weights, then in the user's cache (``cache``). Raises ModelLoadError, which names the command to run,
    where there is none, where it is of another model, and where it has no choice of layers.
    """
    places = (folder / INSPECTION_FILE, kept_inspection(cache or user_cache(), model_hash))
    advice = f"run `entropick inspect {model} --sections head_attention` first"
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ModelLoadError(f"monitored layers auto: there is no {INSPECTION_FILE} of this model; {advice}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        identity = data["model"]["identity"]
        order = data["sections"]["head_attention"]["result"]["layer_choice"]["order"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(f"monitored layers auto: {path} has no choice of layers; {advice}") from error
    if identity != model_hash:
        raise ModelLoadError(f"monitored layers auto: {path} is of another model; {advice}")
    if not _is_order(order, count):
        raise ModelLoadError(
            f"monitored layers auto: {path} orders other layers than 0 to {count - 1}; {advice}"
        )
    # 0.29 of 100 layers are 29, not the 28.999999999999996 of the product
    return tuple(sorted(order[: max(1, int(count * share + 1e-9))]))


def _is_order(order: Any, count: int) -> bool:
    return (
        isinstance(order, list)
        and all(isinstance(layer, int) and not isinstance(layer, bool) for layer in order)
        and sorted(order) == list(range(count))
    )
