"""Stand-ins: characters in the place of others, which keep control text in messages from being tokens.

A chat template makes one text of a conversation, in which the control text of a client and the template's own
look the same. So the first character of every control text that a client sent is swapped for a character that
the conversation does not have, before the template runs: its texts keep their lengths and their blanks, and
whatever the template does with them, what it writes by itself is all that is left of control texts. Behind it
the characters are swapped back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from .texts import ControlTexts, Finder

_CANDIDATES: Final = (range(0x3400, 0x4DC0), range(0x20000, 0x2A6E0))
"""rare Chinese characters (extensions A and B): printable, no blanks, without upper and lower case"""
_OF_STRANGERS: Final = frozenset({"user", "tool"})
"""the roles whose words nobody checked: in them the template's marks are text too"""
_NAMES: Final = frozenset({"role", "type"})
"""keys whose values the server wrote"""
_JOINED: Final = frozenset({"content", "text", "name", "reasoning_content"})
"""keys whose values a template may put side by side with other text"""

Edit = Callable[[str, Finder, bool], str]
"""edits a text, in which a finder's texts are to stay text; true: what follows it may complete one"""


class Conversation(NamedTuple):
    """A conversation as a chat template gets it."""

    turns: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    options: Mapping[str, Any] | None = None
    """variables of the template"""


class StandIns:
    """The characters that stand in for others in one conversation; mostly none do."""

    def __init__(self, table: Mapping[str, str]) -> None:
        """Takes the ``table``: character -> the character that stands in for it."""
        self._back = {ord(stand_in): character for character, stand_in in table.items()}
        self._escaped = {_escaped(stand_in): character for character, stand_in in table.items()}

    def shown(self, text: str) -> str:
        """Returns a text with its own characters again, also where a template wrote a stand-in escaped."""
        if not self._back:
            return text
        for escaped, character in self._escaped.items():
            text = text.replace(escaped, character)
        return text.translate(self._back)


def hidden(conversation: Conversation, controls: ControlTexts) -> tuple[Conversation, StandIns]:
    """Returns a conversation without control texts, and the stand-ins that are in it.

    Special tokens are hidden wherever they stand; the template's marks in the words of users and tools alone:
    in the others the model wrote them, and templates look for them. Raises ValueError where every character
    that could stand in is in the conversation.
    """
    texts: list[str] = []
    wanted: dict[str, None] = {}

    def note(text: str, finder: Finder, joined: bool) -> str:
        texts.append(text)
        wanted.update(dict.fromkeys(text[at] for at in _places(text, finder, joined)))
        return text

    _edited(conversation, controls, note)
    if not wanted:
        return conversation, StandIns({})
    table = dict(zip(wanted, _unused(texts, controls), strict=False))
    if len(table) < len(wanted):
        raise ValueError("the messages hold special tokens, and too many different characters")

    def swap(text: str, finder: Finder, joined: bool) -> str:
        parts, begin = [], 0
        for at in sorted(_places(text, finder, joined)):
            parts += [text[begin:at], table[text[at]]]
            begin = at + 1
        return "".join((*parts, text[begin:])) if parts else text

    return _edited(conversation, controls, swap), StandIns(table)


def _places(text: str, finder: Finder, joined: bool) -> set[int]:
    """Returns the places of the characters without which a text holds no control text."""
    starts = [*finder.starts(text)]
    if joined and (end := finder.open_end(text)) is not None:
        starts.append(end)
    places = set()
    for at in starts:
        while text[at : at + 1].isspace():
            at += 1
        if at < len(text):
            places.add(at)
    return places


def _unused(texts: Sequence[str], controls: ControlTexts) -> Iterator[str]:
    """Yields characters that stand neither in some texts nor in the template, not even escaped."""
    used = set(controls.foreign)
    for text in texts:
        used.update(text)
    escapes = [text for text in texts if "\\u" in text]
    for candidate in map(chr, chain(*_CANDIDATES)):
        if candidate not in used and not any(_escaped(candidate) in text for text in escapes):
            yield candidate


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]


def _edited(conversation: Conversation, controls: ControlTexts, edit: Edit) -> Conversation:
    turns = []
    for turn in conversation.turns:
        finder = controls.of_all if turn.get("role") in _OF_STRANGERS else controls.of_special
        turns.append(_within(turn, finder, edit, False))
    special = controls.of_special
    tools = [_within(tool, special, edit, False) for tool in conversation.tools]
    options = conversation.options and _within(conversation.options, special, edit, False)
    return Conversation(turns, tools, options)


def _within(value: Any, finder: Finder, edit: Edit, joined: bool) -> Any:
    """Returns a value of JSON whose texts were edited."""
    if isinstance(value, str):
        return edit(value, finder, joined)
    if isinstance(value, Mapping):
        return {
            edit(key, finder, False): item
            if key in _NAMES and isinstance(item, str)
            else _within(item, finder, edit, key in _JOINED)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_within(item, finder, edit, joined) for item in value]
    return value
