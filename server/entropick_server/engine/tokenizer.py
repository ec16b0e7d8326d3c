"""The tokenizer of both engines: a fast tokenizer of Hugging Face, and the exact bytes of every token."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Final, Literal

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from .base import ModelLoadError
from .control_text.encoder import MixedEncoder
from .control_text.texts import ControlTexts
from .reply_format.form import ReplyFormat
from .reply_format.probe import reply_format
from .reply_format.told import TOLD_MARKS
from .reply_text import ReplyText
from .templates.renderer import TemplateRenderer
from .templates.worker import environment

_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE_MARK: Final = "\u2581"

Scheme = Literal["byte_level", "sentencepiece", "text"]


@lru_cache(maxsize=1)
def byte_map() -> dict[str, int]:
    """Returns GPT-2's table: printable character -> the byte that it stands for in a vocabulary of bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(plain)]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def _decoder_types(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder.get("type") == "Sequence":
        return [part for d in decoder["decoders"] for part in _decoder_types(d)]
    return [decoder]


def decoding_scheme(backend_json: str) -> Scheme:
    """Tells from ``tokenizer.json`` how a tokenizer turns the strings of its vocabulary into text.

    ``byte_level``: characters stand for bytes (GPT-2, Llama 3, Qwen). ``sentencepiece``: U+2581 stands for a
    space and ``<0xNN>`` for a byte (Llama 2, Mistral, Gemma). ``text``: anything else; what a token adds then
    depends on its neighbours.
    """
    parts = [p for p in _decoder_types(json.loads(backend_json).get("decoder")) if p["type"] != "Fuse"]
    kinds = {part["type"] for part in parts}
    if kinds == {"ByteLevel"}:
        return "byte_level"
    if parts and all(_of_sentencepiece(part) for part in parts) and kinds != {"Strip"}:
        return "sentencepiece"
    return "text"


def _of_sentencepiece(part: dict[str, Any]) -> bool:
    """Tells whether a decoder does no more than sentencepiece's marks ask for."""
    match part["type"]:
        case "Replace":
            return bool(part["pattern"] == {"String": _SPACE_MARK} and part["content"] == " ")
        case "Metaspace":
            return bool(part["replacement"] == _SPACE_MARK)
        case "Strip":
            return bool(part["content"] == " " and part["start"] <= 1 and part["stop"] == 0)
        case kind:
            return bool(kind == "ByteFallback")


def read_chat_template(path: str) -> str:
    """Reads a file with a chat template. Raises ModelLoadError for a file that cannot be read or has none."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
        environment().parse(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"the chat template {path} cannot be read: {error}") from error
    except TemplateSyntaxError as error:
        raise ModelLoadError(
            f"the chat template {path} is no template: line {error.lineno}: {error}"
        ) from error
    if not text.strip():
        raise ModelLoadError(f"the chat template {path} is empty")
    return text


class FastTokenizer:
    """A tokenizer that knows the exact bytes of each token, around a fast tokenizer of Hugging Face.

    ``token_bytes`` is what a token adds to a reply that continues a prompt: the space that some decoders
    strip from the beginning of a TEXT is kept, because a reply is not the beginning.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        renderer: TemplateRenderer | None = None,
    ) -> None:
        """Raises ValueError for a tokenizer without a fast backend.

        ``chat_template``: the text of a template instead of the tokenizer's own. ``renderer``: runs the
        template, within limits; None: transformers does, in this process.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError("the model has no fast tokenizer (tokenizer.json)")
        self._tokenizer = tokenizer
        self._renderer = renderer
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        self._backend = backend
        # what transformers does at each call
        backend.no_truncation()
        backend.no_padding()
        written: str = backend.to_str()
        self._scheme = decoding_scheme(written)
        decoder = json.loads(written).get("decoder")
        self._byte_tokens = any(part["type"] == "ByteFallback" for part in _decoder_types(decoder))
        added = backend.get_added_tokens_decoder()
        self._added = {i: t.content for i, t in added.items() if backend.model.id_to_token(i) is None}
        """tokens that the vocabulary lacks: id -> text, which is written in no table's characters"""
        self._special = frozenset(tokenizer.all_special_ids) | {i for i, t in added.items() if t.special}
        self._bytes: dict[int, bytes | None] = {}

    @cached_property
    def controls(self) -> ControlTexts:
        """Returns the texts of the special tokens, and of the added tokens that the chat template writes."""
        given = self._tokenizer.chat_template or ""
        template = "".join(given.values()) if isinstance(given, dict) else str(given)
        source = template + "".join(TOLD_MARKS)
        added = self._backend.get_added_tokens_decoder()
        special = {t.content for i, t in added.items() if i in self._special}
        marks = {t.content for t in added.values() if len(t.content) > 2 and t.content in source}
        return ControlTexts(special, {mark for mark in marks if not mark.isalnum()}, template)

    @cached_property
    def _mixed(self) -> MixedEncoder:
        return MixedEncoder(self._backend, self.controls)

    @cached_property
    def reply_format(self) -> ReplyFormat:
        """Returns the form of the model's replies, found at the first call."""
        return reply_format(self._tokenizer, self._rendered)

    @property
    def eos_token_id(self) -> int | None:
        """Returns the token that the tokenizer calls the end of a sequence; None where it names none."""
        found = self._tokenizer.eos_token_id
        return None if found is None else int(found)

    @property
    def size(self) -> int:
        """Returns the size of the vocabulary with added tokens: ids from 0 to size - 1 mean something."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Encodes a text as token ids."""
        # a batch is encoded without holding the interpreter, a single text is not
        encoded = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoded[0].ids
        return ids

    def encode_pieces(self, pieces: Sequence[str], *, add_special_tokens: bool) -> list[int]:
        """Encodes a text in pieces: control texts at odd places are tokens, all others text.

        Where the other pieces hold none, the ids are those of the whole text.
        """
        whole = "".join(pieces)
        if self.controls.of_all.split(whole) == list(pieces):
            return self.encode(whole, add_special_tokens=add_special_tokens)
        return self._mixed.encode(pieces, add_special_tokens=add_special_tokens)

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """Decodes token ids into text as they are; no spaces are tidied away."""
        if self._scheme == "byte_level" and any(not self._added.get(i, "").isascii() for i in ids):
            # the library would read an added "naïve" in the table's characters
            return b"".join(self._named(i, skip_special_tokens) for i in ids).decode(errors="replace")
        # as encode does
        texts: list[str] = self._backend.decode_batch([ids], skip_special_tokens=skip_special_tokens)
        return texts[0]

    def token_bytes(self, token_id: int) -> bytes | None:
        """Returns the exact bytes of a token; None for a special token or an id outside the vocabulary."""
        if token_id not in self._bytes:
            self._bytes[token_id] = self._measure(token_id)
        return self._bytes[token_id]

    def reply_text(self, prompt: Sequence[int], *, skip_special_tokens: bool) -> ReplyText | None:
        """Returns the text of a reply to a prompt, where a token's text depends on its neighbours.

        Returns None where every token has bytes of its own.
        """
        if self._scheme != "text":
            return None
        return ReplyText(partial(self._backend.decode, skip_special_tokens=skip_special_tokens), prompt)

    def vocabulary_token(self, token_id: int) -> str:
        """Returns a token as it is written in the vocabulary; "" for an id that means nothing."""
        return self._backend.id_to_token(token_id) or ""

    def render_chat(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        template_options: Mapping[str, Any] | None = None,
    ) -> str:
        """Renders a conversation by the model's chat template, which runs in jinja2's sandbox.

        ``continue_final_message``: up to the end of the last message's text, as transformers finds it.
        ``tools``: their definitions; ``template_options``: variables of the template.
        Raises ValueError where the model has no template, or its template refuses the messages.
        """
        if not getattr(self._tokenizer, "chat_template", None):
            raise ValueError("this model has no chat template; use /v1/completions")
        return self._rendered(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=[dict(tool) for tool in tools] or None,
            **(template_options or {}),
        )

    def close(self) -> None:
        """Ends the process that renders chat templates."""
        if self._renderer is not None:
            self._renderer.close()

    def _rendered(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        given = {"add_generation_prompt": add_generation_prompt, "tools": tools, **variables}
        if self._renderer is not None:
            return self._renderer.render(
                self._tokenizer.get_chat_template(None, tools),
                messages,
                continue_final_message=continue_final_message,
                variables={"documents": None, **self._tokenizer.special_tokens_map, **given},
            )
        try:
            text = self._tokenizer.apply_chat_template(
                messages, continue_final_message=continue_final_message, tokenize=False, **given
            )
        except TemplateError as error:
            raise ValueError(f"the model's chat template refuses these messages: {error}") from error
        return str(text)

    def apply_chat_template(
        self, messages: list[dict[str, Any]], *, add_generation_prompt: bool
    ) -> list[int]:
        """Encodes a conversation as token ids; raises ValueError as render_chat() does."""
        text = self.render_chat(messages, add_generation_prompt=add_generation_prompt)
        return self.encode(text, add_special_tokens=False)

    def _named(self, token_id: int, skip_special_tokens: bool) -> bytes:
        """Returns the bytes of a token; of a special one those of its name, or none."""
        data = self.token_bytes(token_id)
        if data is None:
            data = b"" if skip_special_tokens else (self._backend.id_to_token(token_id) or "").encode()
        return data

    def _measure(self, token_id: int) -> bytes | None:
        token = self._backend.id_to_token(token_id) if token_id >= 0 else None
        if token is None or token_id in self._special:
            return None
        if self._scheme == "byte_level":
            table = byte_map()
            # a token that was added as plain text is not written in the table's characters
            plain = token_id in self._added or not all(c in table for c in token)
            return token.encode() if plain else bytes(table[c] for c in token)
        if self._scheme == "sentencepiece":
            byte = _BYTE_TOKEN.fullmatch(token) if self._byte_tokens else None
            return bytes([int(byte[1], 16)]) if byte else token.replace(_SPACE_MARK, " ").encode()
        return self._in_context(token_id)

    def _in_context(self, token_id: int) -> bytes:
        """Returns the bytes that a token adds behind another token, for decoders of no simple scheme."""
        before = self._backend.decode([token_id], skip_special_tokens=False)
        both: str = self._backend.decode([token_id, token_id], skip_special_tokens=False)
        return both[len(before) :].encode()
