"""Attention statistics from vLLM's paged cache.

``capture`` measures; ``cpu``, ``triton_attn`` and ``flash_attn`` are backends, the latter two made of ``gpu``
and ``buffers``, in which a captured graph leaves its queries. ``parallel``: workers that share a layer.
"""
