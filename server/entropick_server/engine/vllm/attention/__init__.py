"""Attention statistics from vLLM's paged cache: ``capture`` measures, ``cpu`` is the backend."""
