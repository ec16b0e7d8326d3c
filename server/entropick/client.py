"""Collects the telemetry of answers that any client has: objects of the openai package, or parsed JSON.

The accumulators of the openai packages drop a chunk's block ``entropick``, or keep the last chunk's alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class Telemetry:
    """The telemetry of a whole answer, or of a stream chunk by chunk, with ``at_end`` or without."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[int, dict[str, Any]]] = {}
        self._summaries: dict[int, dict[str, Any]] = {}

    def add(self, answer: Any) -> None:
        """Takes an answer, or the next chunk of a stream; rows that came before are not doubled."""
        for choice in _field(answer, "choices") or ():
            block, index = _field(choice, "entropick") or {}, _field(choice, "index") or 0
            for row in block.get("tokens") or ():
                self._rows.setdefault(index, {})[row["index"]] = row
            if block.get("summary") is not None:
                self._summaries[index] = block["summary"]

    def watch(self, chunks: Iterable[Any]) -> Iterator[Any]:
        """Yields the chunks of a stream as they come, and takes each of them."""
        for chunk in chunks:
            self.add(chunk)
            yield chunk

    def tokens(self, choice: int = 0) -> list[dict[str, Any]]:
        """Returns the rows of a choice's tokens so far, in order."""
        rows = self._rows.get(choice, {})
        return [rows[index] for index in sorted(rows)]

    def summary(self, choice: int = 0) -> dict[str, Any] | None:
        """Returns the summary of a choice; None while it has not ended, or without telemetry."""
        return self._summaries.get(choice)


def _field(answer: Any, name: str) -> Any:
    return answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name, None)
