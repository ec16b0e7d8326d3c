"""The fields of a request that shape its answer: which parts of reply and prompt come back, in which form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from .errors import bad_request
from .parsing import WireModel

MAX_TOP_LOGPROBS = 20
_Alternatives = Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)]


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """The form of an answer's choices, as its request asked for it.

    ``include_stop``: a stop string or a stop token stays in the text. ``skip_special``: special tokens have
    no text. ``token_ids``: ids of prompt and reply come back. ``tokens_as_ids``: log probabilities name their
    tokens ``token_id:N``. ``prompt_logprobs``: as the client asked, None: they do not come back.
    """

    include_stop: bool = False
    skip_special: bool = True
    token_ids: bool = False
    tokens_as_ids: bool = False
    prompt_logprobs: int | None = None


class OutputFields(WireModel):
    """The fields of both generating routes, which are vLLM's."""

    include_stop_str_in_output: bool | None = Field(
        None, description="leave the stop string, or the stop token's text, at the end of the text"
    )
    skip_special_tokens: bool | None = Field(
        None, description="false: special tokens of the reply appear in its text; true where left out"
    )
    truncate_prompt_tokens: int | None = Field(
        None, ge=-1, description="keep so many of the prompt's last tokens; -1: as many as fit the context"
    )
    prompt_logprobs: _Alternatives | None = Field(
        None,
        description="log probabilities of the prompt's tokens, with so many alternatives; not in a stream",
    )
    return_token_ids: bool | None = Field(None, description="return the token ids of prompt and reply")
    return_tokens_as_token_ids: bool | None = Field(
        None, description="name tokens of log probabilities token_id:N instead of by their text"
    )

    @property
    def output_options(self) -> OutputOptions:
        """Returns the form that the fields ask for."""
        return OutputOptions(
            include_stop=bool(self.include_stop_str_in_output),
            skip_special=self.skip_special_tokens is not False,
            token_ids=bool(self.return_token_ids),
            tokens_as_ids=bool(self.return_tokens_as_token_ids),
            prompt_logprobs=self.prompt_logprobs,
        )

    @property
    def prompt_alternatives(self) -> int | None:
        """Returns the number of alternatives beside each token of the prompt; None: nothing of it is told."""
        return self.prompt_logprobs

    def check_output(self, streamed: bool) -> None:
        """Raises the 400 for fields that do not go together."""
        if self.truncate_prompt_tokens == 0:
            name = "truncate_prompt_tokens"
            raise bad_request(f"{name}: must be -1 or at least 1.", name)
        if self.prompt_logprobs is not None and streamed:
            name = "prompt_logprobs"
            raise bad_request(f"{name}: not in a stream; leave stream out, or use echo.", name)

    def prompt_room(self, max_model_len: int, max_tokens: int | None) -> int | None:
        """Returns the number of its last tokens that a prompt keeps at most; None: it is not cut.

        ``max_tokens``: of the reply, None where the client is silent. Raises the 400 for more tokens than the
        context has.
        """
        asked = self.truncate_prompt_tokens
        if asked == -1:
            return max(1, max_model_len - max(1, max_tokens or 1))
        if asked is not None and asked > max_model_len:
            name = "truncate_prompt_tokens"
            raise bad_request(f"{name}: must be at most {max_model_len}, the model's context.", name)
        return asked


class CompletionOutputFields(OutputFields):
    """The fields of POST /v1/completions beside them."""

    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None, description="most tokens of the reply; 0, with echo alone: none, the prompt alone comes back"
    )
    echo: bool | None = Field(
        None, description="begin the text, and the log probabilities, with the prompt's"
    )

    def check_echo(self, best_of: bool) -> None:
        """Raises the 400 for a reply of no tokens that nothing else is asked of."""
        if self.max_tokens == 0 and not self.echo:
            message = "max_tokens: must be at least 1; 0 is allowed only with echo: true."
            raise bad_request(message, "max_tokens")
        if self.max_tokens == 0 and best_of:
            raise bad_request("best_of: not with max_tokens 0: no completion is better.", "best_of")
