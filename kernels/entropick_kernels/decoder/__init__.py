"""A whole step of a Llama-like decoder as one native call: CPU, float32, paged KV cache, every signal.

Between two matrix products of a small batch lie a dozen little operations, each of which costs more to start
than to run; and a product of few rows is a stream of weights, which wants them in the order in which they are
read. So the weights are packed once, and threads walk through the step together. The order of every sum
depends on the model and the row's own length alone: a row's numbers are the same, bit for bit, whatever rows
are beside it and however many threads run.

``weights`` and ``step``: what a caller gives and gets. ``numba_impl``: the class that holds a model.
``program``: the step, which a team of threads (``_team``) walks through; its arguments are in ``_records``.
``products``, ``attention`` and ``loops``: its parts; ``_tile``: the inner loop of the former two.
``formats``: the forms that weights are kept in; ``packing``: how they lie; ``coded_products`` and
``_coded_tile``: products that decode them.
``reference``: the same in float64.
"""

from __future__ import annotations

from .formats import CODED
from .step import Decoded, DecoderStep, LayerLens, PrefillChunk, PromptSurprisals
from .weights import DecoderShape, GroupedWeight, LayerWeights, Weight

try:
    from .attention import arrange_keys
    from .coded_products import coded_product
    from .numba_impl import NativeDecoder, warmup_numba
except ImportError:  # numba is not installed: there is no native decoder
    NativeDecoder = arrange_keys = None  # type: ignore[assignment,misc]
    warmup_numba = None  # type: ignore[assignment]

__all__ = [
    "Decoded",
    "DecoderShape",
    "DecoderStep",
    "GroupedWeight",
    "LayerLens",
    "LayerWeights",
    "NativeDecoder",
    "PrefillChunk",
    "PromptSurprisals",
    "Weight",
    "arrange_keys",
    "available",
    "warmup",
    "warmup_forms",
]


def available() -> bool:
    """Returns whether :class:`NativeDecoder` can be built: numba is installed."""
    return NativeDecoder is not None


def warmup_forms() -> None:
    """Compiles the products of every form of weights, of which a model's start compiles its own alone."""
    if warmup_numba is not None:
        for form in CODED:
            coded_product(form)


def warmup() -> None:
    """Compiles the native program now, or loads it from disk, so that no request waits."""
    if warmup_numba is not None:
        warmup_numba()
