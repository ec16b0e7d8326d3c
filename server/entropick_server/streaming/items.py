"""The items of a response of /v1/responses while they grow, with the events that tell of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from pydantic import BaseModel

from ..engine.reply_format.parts import Text
from ..protocol.response_object import (
    FunctionCallItem,
    Item,
    MessageItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Status,
)
from ..protocol.responses import TokenLogprob
from .message import CallArguments, CallBegin, Delta
from .pieces import ROWS, JsonWriter, slices
from .run import ReplyToken

Event = dict[str, Any]
"""an event without its sequence number"""
_PREFIX: Final = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


class Items:
    """The items of one response, at most one of them open.

    The methods yield events, in which the items are as they were at that moment. ``writer``: writes the
    events; ``rows``: makes the log probabilities of some tokens, for an ended text while it is written.
    """

    def __init__(
        self, writer: JsonWriter, rows: Callable[[Sequence[ReplyToken]], Sequence[TokenLogprob]]
    ) -> None:
        self._writer = writer
        self._rows = rows
        self._tokens: dict[str, list[ReplyToken]] = {}
        """id of a message -> the tokens of its text, which are little beside their log probabilities"""
        self.done: list[Item] = []
        self._open: Item | None = None

    def add(self, delta: Delta, tokens: Sequence[ReplyToken]) -> Iterator[Event]:
        """Takes a growth of the reply, with the tokens that came with it."""
        if isinstance(delta, Text):
            yield from self._text(delta, tokens)
        elif isinstance(delta, CallBegin):
            yield from self.close()
            name, call_id = delta.name, delta.id
            item = FunctionCallItem(
                id=_id("function_call"),
                type="function_call",
                status="in_progress",
                call_id=call_id,
                name=name,
                arguments="",
            )
            yield self._begin(item)
        else:
            yield from self._arguments(delta)

    def close(self, status: Status = "completed") -> Iterator[Event]:
        """Ends the open item, if any item is open."""
        item, self._open = self._open, None
        if item is None:
            return
        place = self._place(item)
        if isinstance(item, FunctionCallItem):
            done = {"name": item.name, "arguments": item.arguments}
            yield {"type": "response.function_call_arguments.done", **place, **done}
        else:
            part, kind = item.content[0], _kind(item)
            told: Event = {"text": part.text}
            if isinstance(part, OutputText):
                told["logprobs"] = self._logprobs(item)
            yield {"type": f"response.{kind}.done", **place, "content_index": 0, **told}
            yield {
                "type": "response.content_part.done",
                **place,
                "content_index": 0,
                "part": self._part(item),
            }
        item.status = status
        yield {"type": "response.output_item.done", "output_index": len(self.done), "item": self.told(item)}
        self.done.append(item)

    def told(self, item: Item) -> Item:
        """Returns an ended item as it is written: its log probabilities are made while it is."""
        if not isinstance(item, MessageItem):
            return item
        return item.model_copy(update={"content": [self._part(item)]})

    def finish(self, status: Status) -> Iterator[Event]:
        """Ends the last item; a response that says nothing has an empty message."""
        if not self.done and self._open is None:
            yield from self._begin_text(reasoning=False)
        yield from self.close(status)

    def _text(self, delta: Text, tokens: Sequence[ReplyToken]) -> Iterator[Event]:
        wanted = ReasoningItem if delta.reasoning else MessageItem
        if not isinstance(self._open, wanted):
            yield from self.close()
            yield from self._begin_text(delta.reasoning)
        item = self._open
        if not isinstance(item, MessageItem | ReasoningItem):
            return
        part = item.content[0]
        part.text += delta.text
        told: Event = {"delta": delta.text}
        if isinstance(part, OutputText):
            self._tokens.setdefault(item.id, []).extend(tokens)
            told["logprobs"] = self._rows(tokens)
        yield {"type": f"response.{_kind(item)}.delta", **self._place(item), "content_index": 0, **told}

    def _begin_text(self, reasoning: bool) -> Iterator[Event]:
        item: MessageItem | ReasoningItem
        if reasoning:
            thought = ReasoningText(type="reasoning_text", text="")
            item = ReasoningItem(
                id=_id("reasoning"), type="reasoning", status="in_progress", summary=[], content=[thought]
            )
        else:
            text = OutputText(type="output_text", text="", annotations=[], logprobs=[])
            item = MessageItem(
                id=_id("message"), type="message", status="in_progress", role="assistant", content=[text]
            )
        begun = self._begin(item)
        begun["item"]["content"] = []  # its part is told by an event of its own
        yield begun
        yield {
            "type": "response.content_part.added",
            **self._place(item),
            "content_index": 0,
            "part": _dumped(item.content[0]),
        }

    def _begin(self, item: Item) -> Event:
        self._open = item
        return {"type": "response.output_item.added", "output_index": len(self.done), "item": _dumped(item)}

    def _arguments(self, delta: CallArguments) -> Iterator[Event]:
        item = self._open
        if isinstance(item, FunctionCallItem):
            item.arguments += delta.arguments
            yield {
                "type": "response.function_call_arguments.delta",
                **self._place(item),
                "delta": delta.arguments,
            }

    def _part(self, item: MessageItem | ReasoningItem) -> OutputText | ReasoningText:
        part = item.content[0]
        if not isinstance(part, OutputText):
            return part
        return part.model_copy(update={"logprobs": self._logprobs(item)})

    def _logprobs(self, item: MessageItem | ReasoningItem) -> Any:
        tokens = self._tokens.get(item.id, [])
        return self._writer.later(self._rows(some) for some in slices(tokens, ROWS))

    def _place(self, item: Item) -> Event:
        return {"item_id": item.id, "output_index": len(self.done)}


def _kind(item: MessageItem | ReasoningItem) -> str:
    return "output_text" if isinstance(item, MessageItem) else "reasoning_text"


def _id(kind: str) -> str:
    return f"{_PREFIX[kind]}_{uuid.uuid4().hex}"


def _dumped(value: BaseModel) -> dict[str, Any]:
    return value.model_dump(exclude_unset=True)
