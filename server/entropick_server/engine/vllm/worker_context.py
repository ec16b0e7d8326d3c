"""The context that the parts of one vLLM worker share: profile, kernels, layers' buffers, a step's tables.

vLLM builds the logits processor, the attention layers, their metadata builders and the worker apart, and
tells each of them no more than its VllmConfig, of which it makes copies. All copies share one compilation
config, so a context is found by that object. The table of contexts holds none alive: a context dies with the
parts that hold it.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from entropick_kernels.attention_stats import Kernels
from entropick_sampler.profile import PROFILE_FILE, Profile, ProfileError

from .attention.buffers import LayerBuffers, StepTables, join
from .attention.capture import Attention, Captured, TensorParallelGroup, measure
from .names import CONFIG, LAYERS_VARIABLE, PROFILE_VARIABLE
from .rows import RowTable
from .side_channel import Outbox

# the one place where the parts of a worker can find each other: vLLM passes nothing else between them
_contexts: Final[weakref.WeakValueDictionary[int, WorkerContext]] = weakref.WeakValueDictionary()


class WorkerContext:
    """The state that the parts of a worker share.

    ``layers``: the monitored layers. ``profile`` is in force since ``profile_version``, a larger number for
    each new one. ``outbox``: None in a plain vLLM and in workers that report nothing. ``group``: None where
    this worker has all heads. ``kernels``: the implementation that measures and draws, None for the fastest.
    ``rows``: the processor's, None before it is there.
    """

    def __init__(self, layers: Sequence[int], kernels: Kernels | None = None) -> None:
        self.layers = tuple(sorted(layers))
        self.kernels = kernels
        self.profile: Profile | None = None
        self.profile_version = 0
        self.outbox: Outbox | None = None
        self.group: TensorParallelGroup | None = None
        self.rows: RowTable | None = None
        self._identity: Any = None
        self._runner: weakref.ref[Any] | None = None
        self._captured: dict[int, Captured] = {}
        self._buffers: dict[int, LayerBuffers] = {}
        self._tables: dict[int, StepTables] = {}

    @classmethod
    def of(cls, config: Any) -> WorkerContext:
        """Returns the context of a VllmConfig. The caller must hold it: nothing else does."""
        identity = config.compilation_config
        context = _contexts.get(id(identity))
        if context is None:
            _contexts[id(identity)] = context = cls(monitored_layers(config), kernels_option(config))
            # as long as the context lives no other object has this id
            context._identity = identity
            context.use_profile(_profile_at_start(config))
        return context

    def use_profile(self, profile: Profile | None) -> None:
        """Decides with another profile from the next step on."""
        self.profile = profile
        self.profile_version += 1

    def open(self, runner: Any, outbox: Outbox | None) -> None:
        """Takes over the worker's model runner, and the outbox of a worker that reports."""
        self._runner = weakref.ref(runner)
        self.close_outbox()
        self.outbox = outbox

    def tell_prompt(self, index: int, logprobs: Tensor) -> None:
        """Tells the row at an index the log probabilities (nats) of its prompt's tokens behind the first."""
        if self.rows is not None:
            self.rows.tell_prompt(index, logprobs)

    def close_outbox(self) -> None:
        """Closes the outbox. Harmless where there is none."""
        if self.outbox is not None:
            outbox, self.outbox = self.outbox, None
            outbox.close()

    def add_captured(self, layer: int, captured: Captured) -> None:
        """Adds a layer's newest queries and keys in this step."""
        self._captured[layer] = captured

    def set_buffers(self, layer: int, buffers: LayerBuffers) -> None:
        """Sets the buffers in which a layer leaves its newest queries from now on."""
        self._buffers[layer] = buffers

    def set_tables(self, layers: Sequence[int], tables: StepTables) -> None:
        """Sets the block tables of some layers in this step."""
        self._tables.update((layer, tables) for layer in layers if layer in self.layers)

    def attention(self, rows: int, surprisals: Tensor | None = None) -> Attention | None:
        """Measures the attention of the step's first ``rows`` rows, once a step.

        ``surprisals``: on the device, where a row wants token costs. Returns None where a monitored layer
        was not captured.
        """
        captured = self.take_captured()
        if not self.layers or any(layer not in captured for layer in self.layers):
            return None
        chosen = [captured[layer] for layer in self.layers]
        if any(c.queries.shape[0] < rows for c in chosen):
            return None
        return measure(chosen, rows, self.group, self.kernels, surprisals)

    def take_captured(self) -> dict[int, Captured]:
        """Returns the layers that were captured in this step, and lets go of them."""
        captured, self._captured = self._captured, {}
        tables, self._tables = self._tables, {}
        for layer, step in tables.items():
            if layer in self._buffers and (found := join(self._buffers[layer], step)) is not None:
                captured[layer] = found
        return captured

    def unfinished_prompts(self, rows: int) -> Sequence[bool] | None:
        """Returns True for each row that is a prefill chunk, whose token V1 discards.

        Returns None where the model runner is not known.
        """
        runner = None if self._runner is None else self._runner()
        if runner is None:
            return None
        mask: Sequence[bool] = runner.discard_request_mask.np[:rows].tolist()
        return mask


def monitored_layers(config: Any) -> tuple[int, ...]:
    """Returns the layers that the server, or the environment of a plain vLLM, has measured."""
    options: Mapping[str, Any] = config.additional_config.get(CONFIG, {})
    if "layers" in options:
        return tuple(int(layer) for layer in options["layers"])
    return tuple(int(layer) for layer in os.environ.get(LAYERS_VARIABLE, "").split(",") if layer.strip())


def kernels_option(config: Any) -> Any:
    """Returns the kernels that the server chose, None for the fastest."""
    return config.additional_config.get(CONFIG, {}).get("kernels")


def _profile_at_start(config: Any) -> Profile | None:
    """Reads the profile of a plain vLLM, named or beside the weights; our server sends its own."""
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
    if (layers := monitored_layers(config)) and sorted(profile.layers) != sorted(layers):
        raise ValueError(
            f"entropick: the profile was calibrated on layers {list(profile.layers)}; set {LAYERS_VARIABLE} "
            "to them"
        )
    return profile
