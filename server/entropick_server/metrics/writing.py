"""The metrics' page as text, byte by byte as prometheus_client writes it, in a fraction of its time.

A scrape writes some thousand lines, and the library checks each character of each name again. Names and
labels of a series never change: they are written once and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

_go_string: Final[Callable[[float], str]] = floatToGoString
_KINDS: Final = frozenset({"counter", "gauge", "histogram"})
_PLAIN_BELOW: Final = 1e6
"""numbers below are written as Python does; above, Go writes exponents"""


class PageWriter:
    """A writer of families whose names need no escaping."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, ...], str] = {}
        """a sample's name and its labels' values -> the beginning of its line"""

    def write(self, families: Iterable[Metric], *, openmetrics: bool) -> bytes:
        """Returns the page in OpenMetrics' form, with exemplars, or in Prometheus' older text form.

        Raises ValueError for a family that is no counter, gauge or histogram.
        """
        lines: list[str] = []
        for family in families:
            name, kind = family.name, family.type
            if kind not in _KINDS:
                raise ValueError(f"{name}: a family of type {kind} has no form here")
            help_text = family.documentation.replace("\\", r"\\").replace("\n", r"\n")
            if openmetrics:
                help_text = help_text.replace('"', r"\"")
            elif kind == "counter":
                name += "_total"
            lines.append(f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n")
            if openmetrics and family.unit:
                lines.append(f"# UNIT {name} {family.unit}\n")
            if openmetrics:
                lines += [
                    f"{self._begin(sample)}{_number(sample.value)}"
                    f"{_exemplar(sample.exemplar) if sample.exemplar else ''}\n"
                    for sample in family.samples
                ]
            else:
                lines += [f"{self._begin(sample)}{_number(sample.value)}\n" for sample in family.samples]
        if openmetrics:
            lines.append("# EOF\n")
        return "".join(lines).encode()

    def _begin(self, sample: Sample) -> str:
        """Returns the beginning of a sample's line, up to its value."""
        key = (sample.name, *sample.labels.values())
        begin = self._series.get(key)
        if begin is None:
            labels = _labels(sample.labels) if sample.labels else ""
            begin = self._series[key] = f"{sample.name}{labels} "
        return begin


def _labels(labels: dict[str, str]) -> str:
    pairs = (f'{name}="{_escaped(value)}"' for name, value in sorted(labels.items()))
    return f"{{{','.join(pairs)}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if 0 <= value < _PLAIN_BELOW:
        return repr(float(value))
    return _go_string(value)


def _exemplar(exemplar: Exemplar) -> str:
    at = "" if exemplar.timestamp is None else f" {exemplar.timestamp}"
    pairs = ",".join([f'{name}="{_escaped(value)}"' for name, value in sorted(exemplar.labels.items())])
    return f" # {{{pairs}}} {_number(exemplar.value)}{at}"
