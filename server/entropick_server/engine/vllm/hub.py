"""Where the parts of one worker meet: vLLM builds the processor, the attention layers and the worker apart.

A process holds one worker. vLLM copies its configuration, and renames the copies: a hub is known by the model
and the layers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from entropick_kernels.attention_stats import Implementation
from entropick_sampler.profile import PROFILE_FILE, Profile, ProfileError

from .attention.capture import Attention, Captured, Workers, measure
from .attention.kept import Kept, StepTables, joined
from .names import CONFIG, LAYERS_VARIABLE, PROFILE_VARIABLE
from .side_channel import Outbox

_log = logging.getLogger(__name__)
_hubs: Final[dict[str, Hub]] = {}


class Hub:
    """What the parts share. ``layers``: those whose attention is measured."""

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = tuple(sorted(layers))
        self.profile: Profile | None = None
        self.version = 0
        """of the profile: a larger number is another one"""
        self.outbox: Outbox | None = None
        self.runner: Any = None
        """vLLM's model runner, once the server has opened the hub"""
        self.workers: Workers | None = None
        """under tensor parallelism: those that have the other heads"""
        self.implementation: Implementation | None = None
        """that measures, None for the fastest"""
        self._captured: dict[int, Captured] = {}
        self._kept: dict[int, Kept] = {}
        self._tables: dict[int, StepTables] = {}

    @classmethod
    def of(cls, config: Any) -> Hub:
        """The hub of a VllmConfig."""
        layers = wanted_layers(config)
        name = f"{config.model_config.model} {layers}"
        if name not in _hubs:
            _hubs[name] = cls(layers)
            _hubs[name].implementation = kernels(config)
            _hubs[name].use_profile(_profile_at_start(config))
        return _hubs[name]

    def use_profile(self, profile: Profile | None) -> None:
        """Decide with another profile from the next step on."""
        self.profile = profile
        self.version += 1

    def capture(self, layer: int, captured: Captured) -> None:
        """A layer's newest queries and keys in this step."""
        self._captured[layer] = captured

    def keep(self, layer: int, kept: Kept) -> None:
        """Where a layer leaves its newest queries from now on."""
        self._kept[layer] = kept

    def tables(self, layers: Sequence[int], step: StepTables) -> None:
        """The page tables of some layers in this step."""
        self._tables.update((layer, step) for layer in layers if layer in self.layers)

    def attention(self, rows: int) -> Attention | None:
        """The attention of the step's first ``rows`` rows, None where a layer was not seen; once a step."""
        captured = self.release()
        if not self.layers or any(layer not in captured for layer in self.layers):
            return None
        chosen = [captured[layer] for layer in self.layers]
        if any(c.queries.shape[0] < rows for c in chosen):
            return None
        return measure(chosen, rows, self.workers, self.implementation)

    def release(self) -> dict[int, Captured]:
        """What was captured in this step, and let go of it."""
        captured, self._captured = self._captured, {}
        tables, self._tables = self._tables, {}
        for layer, step in tables.items():
            if layer in self._kept and (found := joined(self._kept[layer], step)) is not None:
                captured[layer] = found
        return captured

    def unfinished_prompts(self, rows: int) -> Sequence[bool] | None:
        """V1: which rows are pieces of prompts whose token is thrown away; None where nobody knows."""
        if self.runner is None:
            return None
        mask: Sequence[bool] = self.runner.discard_request_mask.np[:rows].tolist()
        return mask


def wanted_layers(config: Any) -> tuple[int, ...]:
    """The layers that the server, or the environment of a plain vLLM, asks for."""
    told: Mapping[str, Any] = config.additional_config.get(CONFIG, {})
    if "layers" in told:
        return tuple(int(layer) for layer in told["layers"])
    return tuple(int(layer) for layer in os.environ.get(LAYERS_VARIABLE, "").split(",") if layer.strip())


def kernels(config: Any) -> Any:
    """The implementation that measures and draws, None for the fastest."""
    return config.additional_config.get(CONFIG, {}).get("kernels")


def _profile_at_start(config: Any) -> Profile | None:
    """Of a plain vLLM: the named profile, or the one beside the weights; our server sends its own."""
    if CONFIG in config.additional_config:
        return None
    named = os.environ.get(PROFILE_VARIABLE)
    path = Path(named) if named else Path(config.model_config.model) / PROFILE_FILE
    if not named and not path.is_file():
        return None
    try:
        profile = Profile.load(path)
    except ProfileError as error:
        raise ValueError(f"entropick: {error}") from error
    if (layers := wanted_layers(config)) and sorted(profile.layers) != sorted(layers):
        raise ValueError(
            f"entropick: the profile was calibrated on layers {list(profile.layers)}; set {LAYERS_VARIABLE} "
            "to them"
        )
    return profile
