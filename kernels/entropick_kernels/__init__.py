"""Statistics, attention and draws: tensors in, tensors out; no policy, no model, no server.

``adjust``: what changes logits before they are measured and after it. ``logits_stats``: the next-token
distribution. ``attention_stats``: attention over a paged cache, measured.
``sample``: the draw. ``decoder``: a whole step of a Llama-like decoder on the CPU. ``loops``: the native
functions that other packages build on.

Each has a float64 ``reference``, a ``torch_impl`` for any device, a ``numba_impl`` of native loops for the
CPU and a ``triton_impl`` for GPUs, and one public function that picks one; the decoder is native only.
Shared: ``native_code`` tells whether the native loops may serve yet, ``_native`` compiles, ``_threads``
runs on torch's threads, ``_rows`` and ``_exp2`` are loops of a row, ``_triton`` finds the Triton modules,
``_arrays`` converts for the references.
"""

from __future__ import annotations

__all__ = ["warmup"]


def warmup() -> None:
    """Compiles every native loop now, or loads it from disk, so that no request waits."""
    from . import adjust, attention_stats, decoder, logits_stats, sample

    adjust.warmup()
    attention_stats.warmup()
    decoder.warmup()
    logits_stats.warmup()
    sample.warmup()
