"""Prometheus: the signals' collectors are generated from the table, the serving metrics follow vLLM's set.

The only package that imports prometheus_client.
"""

from .registry import Metrics

__all__ = ["Metrics"]
