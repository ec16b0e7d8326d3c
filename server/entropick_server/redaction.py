"""Texts without the machine's paths, addresses and traces: for messages of errors that are not ours alone."""

from __future__ import annotations

import re
from typing import Final

_URL: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>]*")
_PATH: Final = re.compile(r"(?<![\w/\\.~])(?:~|\.{1,2}|[A-Za-z]:)?(?:[/\\][^\s/\\:;,'\"<>()\[\]]+)+[/\\]?")
_FILE: Final = re.compile(r"\b[\w.-]+\.(?:py|pyx|so|c|cc|cpp|cu|cuh|h|rs)(?::\d+)?\b")
_POINTER: Final = re.compile(r"\b0x[0-9a-fA-F]{4,}\b")
_IPV4: Final = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?(?![\w.])")
_IPV6: Final = re.compile(r"\[?(?<![\w:])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{1,4}(?![\w:])\]?(?::\d+)?")
_LIMIT: Final = 2000
"""characters that are looked at and kept"""
_TRACE: Final = "Traceback (most recent call last)"


def redacted(text: str) -> str:
    """Returns a text with a word in the place of each path, file of code, URL, address; a trace is cut off.

    What looks like one counts as one: the text is for strangers, and the log has the cause.
    """
    text = text[:_LIMIT].partition(_TRACE)[0].strip()
    for pattern, word in (
        (_URL, "<address>"),
        (_IPV4, "<address>"),
        (_IPV6, "<address>"),
        (_POINTER, "<address>"),
        (_PATH, "<path>"),
        (_FILE, "<path>"),
    ):
        text = pattern.sub(word, text)
    return text
