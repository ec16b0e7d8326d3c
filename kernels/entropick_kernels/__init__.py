"""Statistics and sampling kernels: tensors in, tensors out; no policy, no model, no server."""

from __future__ import annotations

__all__ = ["warmup"]


def warmup() -> None:
    """Compile every native loop now (seconds, once a machine: cached on disk), so that no request waits."""
    from . import attention_stats, decoder, logits_stats, sample

    attention_stats.warmup()
    decoder.warmup()
    logits_stats.warmup()
    sample.warmup()
