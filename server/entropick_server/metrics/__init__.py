"""The Prometheus metrics: the signals' collectors come from their table, the others follow vLLM's set.

The only package that imports prometheus_client.
"""

from .choices import ChoiceFigures
from .genuineness import GenuinenessFigures
from .info import ServerFacts
from .registry import Metrics

__all__ = ["ChoiceFigures", "GenuinenessFigures", "Metrics", "ServerFacts"]
