"""Tokenizers and a bare client for the tests of the HTTP side."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI

from entropick_server.engine.control_text.texts import ControlTexts
from entropick_server.engine.reply_format.form import ReplyFormat

EOS = 256
BOS = 257
PAIR = 258
"""a token of two characters and part of a third"""
PAIR_BYTES = b"ab" + "é".encode()[:1]
VOCAB = 259


class ByteTokenizer:
    """A token for each byte, so that every character beyond ASCII is split."""

    form: ReplyFormat | None = None
    """of the replies; None: all text"""

    @property
    def reply_format(self) -> ReplyFormat:
        return self.form or ReplyFormat(lambda ids: self.decode(ids, skip_special_tokens=False))

    controls = ControlTexts()

    def encode_pieces(self, pieces: Sequence[str], *, add_special_tokens: bool) -> list[int]:
        return self.encode("".join(pieces), add_special_tokens=add_special_tokens)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return ([BOS] if add_special_tokens else []) + list(text.encode())

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        names = {EOS: "<eos>", BOS: "<bos>"}
        out, data = "", b""
        for i in ids:
            if i in names:
                out, data = out + data.decode(errors="replace"), b""
                out += "" if skip_special_tokens else names[i]
            else:
                data += self.token_bytes(i) or b""
        return out + data.decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes | None:
        if token_id == PAIR:
            return PAIR_BYTES
        return bytes([token_id]) if token_id < EOS else None

    def reply_text(self, prompt: Any, *, skip_special_tokens: bool) -> None:
        """Every token has bytes of its own."""

    def vocabulary_token(self, token_id: int) -> str:
        return {EOS: "<eos>", BOS: "<bos>"}.get(token_id, f"<0x{token_id:02X}>")

    def render_chat(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        template_options: Mapping[str, Any] | None = None,
    ) -> str:
        if messages[0]["role"] == "assistant":
            raise ValueError("the first message must not be the assistant's")
        text = "".join(f"{m['role']}: {m['content']}\n" for m in messages)
        return text.removesuffix("\n") if continue_final_message else text

    def apply_chat_template(
        self, messages: list[dict[str, Any]], *, add_generation_prompt: bool
    ) -> list[int]:
        text = self.render_chat(messages, add_generation_prompt=add_generation_prompt)
        return self.encode(text, add_special_tokens=False)


class Watched(ByteTokenizer):
    """Notes what it is asked, and in which thread; blocks while its gate is closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.blocks_from = 0
        self.texts: list[str] = []
        self.threads: set[int] = set()

    def _pass(self, size: int) -> None:
        self.threads.add(threading.get_ident())
        if size >= self.blocks_from and not self.gate.wait(10):
            raise TimeoutError("the gate stayed closed")

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self.texts.append(text)
        self._pass(len(text))
        return super().encode(text, add_special_tokens=add_special_tokens)

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        self._pass(len(ids))
        return super().decode(ids, skip_special_tokens=skip_special_tokens)


class Client:
    """A bare ASGI client that can go away, or stop reading, at any moment."""

    def __init__(self, app: FastAPI, body: dict[str, Any], path: str = "/v1/chat/completions") -> None:
        self.gone = asyncio.Event()
        self.blocked = False
        self.messages: list[dict[str, Any]] = []
        self.arrived = asyncio.Event()
        self._request = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        headers = [(b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
            "scheme": "http",
            "server": ("test", 80),
            "client": ("test", 1),
        }
        self.task = asyncio.create_task(app(scope, self.receive, self.send))

    async def receive(self) -> Any:
        if self._request:
            return self._request.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.blocked:
            await asyncio.Event().wait()
        self.messages.append(message)
        if message.get("body"):
            self.arrived.set()


async def until(condition: Any) -> None:
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(0.005)
