"""From texts and conversations to token ids. A text that cannot fit the context is refused unread.

Nothing here knows the event loop: long texts are encoded in a thread (``offload``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .chat_template import ChatTemplate, ChatTemplateError, Turn
from .engine.base import Tokenizer
from .engine.templates.renderer import TemplateProcessError
from .offload import SMALL
from .protocol.errors import ApiError, bad_request, unavailable
from .protocol.messages import Message
from .redaction import redacted
from .vocabulary import Vocabulary

_USUAL: Final = 8
"""characters a token: a text with more for each token of the context is counted before it is encoded"""
_SEGMENT: Final = 1 << 16
"""characters that are counted at once"""
_BLANKS: Final = " \n\t\r"


class PromptEncoder:
    """An encoder of prompts for a model with a context of ``max_model_len`` tokens."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocabulary: Vocabulary,
        max_model_len: int,
        *,
        special_tokens_in_messages: bool = False,
    ) -> None:
        """Prepares the chat template.

        ``special_tokens_in_messages``: special tokens that a client writes in a message are tokens.
        """
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer, special_tokens_in_messages=special_tokens_in_messages)
        self._vocabulary = vocabulary
        self._limit = max_model_len

    def conversation(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        add_special_tokens: bool = False,
        bounded: bool = True,
        tools: Sequence[Mapping[str, Any]] = (),
        template_options: Mapping[str, Any] | None = None,
        param: str = "messages",
    ) -> list[int]:
        """Returns the token ids of a conversation, by the model's own template.

        ``continue_final_message``: the prompt ends with the text of the last message. ``add_special_tokens``:
        the tokenizer puts its own around what the template made. ``bounded``: it must fit the context.
        ``tools``: their definitions; ``template_options``: variables of the template; ``param``: the field
        that holds the conversation. Raises the 400 where it does not fit, or the template refuses it.
        """
        try:
            prompt = self._template.prompt(
                [_turn(message) for message in messages],
                tools=tools,
                template_options=template_options,
                telling=self._tokenizer.reply_format.telling,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
            )
        except ChatTemplateError as error:
            raise bad_request(f"{param}: {error}", param) from error
        except TemplateProcessError as error:
            raise unavailable(redacted(str(error)), "chat_template_process") from error
        if bounded:
            self._check_length(prompt.text, param)
        return self._template.ids(prompt, add_special_tokens=add_special_tokens)

    def texts(
        self, prompts: Sequence[str | list[int]], *, add_special_tokens: bool = True, bounded: bool = True
    ) -> list[list[int]]:
        """Returns the token ids of completion prompts; ids stay as they are.

        ``bounded``: they must fit the context. Raises the 400 where they cannot.
        """
        param = "prompt" if bounded else None
        return [p if isinstance(p, list) else self._encode(p, add_special_tokens, param) for p in prompts]

    def text(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Returns the token ids of a text of any length."""
        return self._encode(text, add_special_tokens, None)

    def conversation_size(self, characters: int) -> int:
        """Returns the size of the work to encode a conversation, which is never small.

        Another process renders it, for which the event loop must not wait.
        """
        return max(SMALL, self.work_size(characters))

    def work_size(self, characters: int) -> int:
        """Returns the size of the work to encode characters (``offload``); small only if they surely fit."""
        return characters if characters <= self._limit else max(characters, SMALL)

    def _encode(self, text: str, add_special_tokens: bool, param: str | None) -> list[int]:
        if param is not None:
            self._check_length(text, param)
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def _check_length(self, text: str, param: str) -> None:
        """Raises the 400 for a text with more characters than the context's tokens can stand for.

        Blanks do not count here: a token may swallow any number of them.
        """
        if len(text) <= self._limit:
            return
        most = self._limit * self._vocabulary.longest
        if len(text) > most and len(text) - sum(map(text.count, _BLANKS)) > most:
            raise self._too_long(f"{len(text)} characters", param)
        if len(text) <= _USUAL * self._limit:
            return
        tokens = 0
        for number, begin in enumerate(range(0, len(text), _SEGMENT)):
            segment = text[begin : begin + _SEGMENT]
            tokens += len(self._tokenizer.encode(segment, add_special_tokens=False))
            # what a cut may add is far less than two of the longest tokens
            if tokens > self._limit + 2 * number * self._vocabulary.longest:
                raise self._too_long(f"more than {self._limit} tokens", param)

    def _too_long(self, what: str, param: str) -> ApiError:
        return too_long(self._limit, f"your prompt has {what}", param)


def too_long(limit: int, however: str, param: str) -> ApiError:
    """Returns the 400 for a request that exceeds the context; clients know it by OpenAI's beginning."""
    message = f"This model's maximum context length is {limit} tokens. However, {however}."
    return bad_request(message, param, "context_length_exceeded")


def _turn(message: Message) -> Turn:
    """Returns a message as templates know it.

    They know no developer; OpenAI's newer models use that where others say system.
    """
    parts = message.parts
    turn = {
        "role": "system" if message.role == "developer" else message.role,
        "content": message.text if parts is None else [{"type": "text", "text": text} for text in parts],
    }
    named = {} if message.name is None else {"name": message.name}
    return {**turn, **named, **message.extras}
