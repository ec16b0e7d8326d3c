"""The newest token of each running choice, which the gauges by slot show."""

from __future__ import annotations

from ..engine.types import StepReport, Token


class LiveChoices:
    """The running choices by slot, each with its newest token."""

    def __init__(self) -> None:
        self._newest: dict[int, tuple[str, Token]] = {}

    def observe(self, report: StepReport) -> None:
        """Takes the newest tokens of an engine step; a choice that ended leaves its slot."""
        newest = self._newest
        for output, slot in zip(report.outputs, report.slots, strict=True):
            if slot < 0:
                continue
            if output.finish_reason is not None:
                newest.pop(slot, None)
            elif output.tokens:
                newest[slot] = (output.request_id, output.tokens[-1])
        for request_id in report.preempted:
            # it will run in another slot
            self.forget(request_id)

    def forget(self, request_id: str) -> None:
        """Drops a choice: it ended, or its client went away."""
        for slot in [slot for slot, (owner, _) in self._newest.items() if owner == request_id]:
            del self._newest[slot]

    def tokens(self) -> list[tuple[int, Token]]:
        """Returns the slots in order, each with the newest token of its choice."""
        return [(slot, token) for slot, (_, token) in sorted(self._newest.items())]
