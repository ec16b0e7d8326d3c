"""The figures that the log tells of an HTTP request at its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class RequestRecord:
    """The figures of an HTTP request's choices, which grow as they end, and the code of its refusal."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """choices by their reason to end, ``cancelled`` and ``error`` among them"""
    code: str | None = None

    def add_choice(self, prompt_tokens: int, completion_tokens: int, reason: str) -> None:
        """Adds a choice that has ended; ``prompt_tokens``: 0 but for the first choice of a prompt."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.reasons[reason] += 1
