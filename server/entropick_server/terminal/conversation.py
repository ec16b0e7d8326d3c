"""A conversation: its messages, the settings of its replies, and their figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .alignment import Row, Stretch
from .remote import ChatError, ServerFacts
from .scale import BY_NAME, number

ENTROPY: Final = "logits_entropy"
_SCORES: Final = frozenset({"genuineness", "entropy_variance", "collapse_rate", "entropy_window_variance"})


@dataclass(slots=True)
class Reply:
    """A reply as it came: its text in stretches with their rows, and how it ended."""

    stretches: list[Stretch] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    summary: Mapping[str, Any] | None = None
    finish_reason: str | None = None
    """None: it was stopped, or broke off"""

    @property
    def text(self) -> str:
        """Returns the text so far, without the reasoning."""
        return "".join(stretch.text for stretch in self.stretches if not stretch.reasoning)

    @property
    def entropies(self) -> list[float | None]:
        """Returns the entropy of each token's distribution, bits; None where it was not measured."""
        return [number(row, ENTROPY) for row in self.rows]

    @property
    def error_probability(self) -> float | None:
        """Returns the server's estimate that the reply is wrong; None where it has none."""
        told = (self.summary or {}).get("error_probability")
        return float(told) if isinstance(told, int | float) else None

    @property
    def seed(self) -> int | None:
        """Returns the number that its draws began with; None where the server did not tell."""
        told = (self.summary or {}).get("seed")
        return told if isinstance(told, int) else None


@dataclass(slots=True)
class Asked:
    """The settings of the replies to come. None leaves a setting to the server."""

    policy: str | None = None
    preset: str | None = None
    branch: dict[str, Any] | None = None
    consensus: dict[str, Any] | bool | None = None
    """False: none, not even where the server has a default"""
    answer: Any = None
    seed: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    system: str | None = None
    colour: str = ENTROPY
    """the signal that colours tokens, ``strategy`` or ``none``"""


class Conversation:
    """A conversation with one model of a server."""

    def __init__(self, facts: ServerFacts, asked: Asked) -> None:
        self.facts = facts
        self.asked = asked
        self.messages: list[dict[str, str]] = []
        self.last: Reply | None = None
        self._said: list[dict[str, Any]] = []
        self._saved: set[Path] = set()

    def body(self, message: str) -> dict[str, Any]:
        """Returns the request for the reply to one more message."""
        asked = self.asked
        system = [] if asked.system is None else [{"role": "system", "content": asked.system}]
        body: dict[str, Any] = {
            "model": self.facts.model,
            "messages": [*system, *self.messages, {"role": "user", "content": message}],
            "stream": True,
            "seed": asked.seed,
            "temperature": asked.temperature,
            "max_tokens": asked.max_tokens,
        }
        if self.facts.measures:
            ours = {
                "telemetry": "tokens",
                "policy": asked.policy,
                "preset": asked.preset,
                "branch": asked.branch,
                "consensus": asked.consensus,
                "answer": asked.answer,
                "genuineness": self._genuineness(),
            }
            body["entropick"] = {name: value for name, value in ours.items() if value is not None}
        return {name: value for name, value in body.items() if value is not None}

    def _genuineness(self) -> bool | str | None:
        """Returns the figures that the signal in colours needs to be asked for; None: as the server does."""
        signal = BY_NAME.get(self.asked.colour)
        if signal is None or signal.group != "window":
            return None
        if signal.name == "genuineness_seed":
            return "seed"
        return "scores" if signal.name in _SCORES else True

    def add(self, message: str, reply: Reply) -> None:
        """Takes a message and its reply into the conversation."""
        self.messages.append({"role": "user", "content": message})
        self.messages.append({"role": "assistant", "content": reply.text})
        self._said.append(
            {
                "message": message,
                "reply": reply.text,
                "finish_reason": reply.finish_reason,
                "summary": reply.summary,
                "tokens": reply.rows,
            }
        )

    def reset(self) -> None:
        """Forgets all messages; settings stay."""
        self.messages.clear()
        self._said.clear()
        self.last = None

    def save(self, path: Path) -> int:
        """Writes the conversation with its tokens' figures as JSON, and returns the number of its replies.

        Raises ChatError where the file cannot be written, or is there and is not of this conversation.
        """
        told = {"model": self.facts.model, "system": self.asked.system, "replies": self._said}
        text = json.dumps(told, ensure_ascii=False, indent=1) + "\n"
        try:
            path = path.expanduser().absolute()
            with path.open("w" if path in self._saved else "x", encoding="utf-8", errors="replace") as file:
                file.write(text)
        except FileExistsError as error:
            raise ChatError(f"{path} is there already; name another file.") from error
        except (OSError, RuntimeError, ValueError) as error:
            raise ChatError(f"{path} cannot be written: {error}") from error
        self._saved.add(path)
        return len(self._said)


def verdict(reply: Reply, facts: ServerFacts) -> str:
    """Returns one number about a reply in words; empty where nothing was measured.

    The server's probability of an error where it has one, else the tokens at which the model hesitated.
    """
    if (probability := reply.error_probability) is not None:
        return f"Probability that the answer is wrong: {probability:.0%}"
    chosen = [row for row in reply.rows if not (row.get("forced") or row.get("only_choice"))]
    drawn = [number(row, facts.hesitation_signal) for row in chosen]
    measured = [value for value in drawn if value is not None]
    if not measured:
        return ""
    hesitated = sum(value >= facts.hesitation for value in measured)
    unit = BY_NAME[facts.hesitation_signal].unit if facts.hesitation_signal in BY_NAME else ""
    unit = "bit" if unit == "bits" and facts.hesitation == 1 else unit
    bound = f"{facts.hesitation_signal} of {facts.hesitation:g} {unit} or more"
    return f"Hesitated at {hesitated} of {len(measured)} tokens ({bound})"
