"""Fields that other servers know and this one does not serve yet: refused by name, never silently dropped.

A field passes where its value asks for nothing (``echo: false``, ``tools: null``): clients send defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .errors import ApiError, bad_request

UNSUPPORTED: Final = "unsupported_parameter"
_UNSERVED: Final[Mapping[str, tuple[Any, ...]]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_tokens": (0,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "logits_processors": ([],),
    "use_beam_search": (False,),
    "echo": (False,),
    "suffix": ("",),
    "prompt_logprobs": (),
    "prompt_embeds": (),
    "truncate_prompt_tokens": (),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_decoding_backend": (),
    "guided_whitespace_pattern": (),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "documents": ([],),
    "audio": (),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "chat_template": (),
    "mm_processor_kwargs": ({},),
}


def _same(value: Any, harmless: Any) -> bool:
    # in Python True == 1, in JSON it is not
    return isinstance(value, bool) == isinstance(harmless, bool) and bool(value == harmless)


def refuse_unserved(fields: Mapping[str, Any]) -> None:
    """Raises a 400 for the first field that asks for something this server does not do."""
    for name, harmless in _UNSERVED.items():
        value = fields.get(name)
        if value is not None and not any(_same(value, h) for h in harmless):
            raise not_served(name)


def not_served(name: str) -> ApiError:
    """Returns the refusal of a known field."""
    return bad_request(f"'{name}' is not served yet; leave it out.", name, UNSUPPORTED)
