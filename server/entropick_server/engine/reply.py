"""The reply on every engine: its length, the tokens it must emit next, the policy's memory of it.

The embedded engine keeps a :class:`Reply` for each sequence, a vLLM worker for each row, the server for each
request and branch that runs on vLLM. All of them change it through :meth:`Reply.take` alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from entropick_sampler.columns import NOTHING, StepColumns, StepRow
from entropick_sampler.compose import validate_request
from entropick_sampler.params import PolicyConfig
from entropick_sampler.profile import Profile
from entropick_sampler.repetition import TokenHistory
from entropick_sampler.reply_adjustments import ReplyAdjustments, check_adjustments

from .base import Tokenizer
from .types import FinishReason, ModelInfo, Request, Resumed, Token

if TYPE_CHECKING:
    # it needs numba, which a vLLM worker must not load early
    from entropick_sampler.genuineness.reply import ReplyWindows

    from .grammar.state import GrammarState

BAD_LOGITS: Final = (
    "the model's logits are not finite (NaN or infinite): the weights or the dtype are at fault"
)
MAX_CHOICES: Final = 1 << 16
"""choices of one prompt that the upper half of a Philox stream's 32 bits can tell apart"""
_CHOICE_SHIFT: Final = 16
_UNLIMITED: Final = 1 << 62


def philox_stream(choice: int, branch: int) -> int:
    """Numbers the draws of a branch: the choice above 16 bits of branch, so that all branches draw apart."""
    return choice << _CHOICE_SHIFT | branch


@dataclass(frozen=True, slots=True)
class ClarifyingText:
    """The clarifying text as token ids: at the beginning of a reply, and behind other tokens."""

    first: tuple[int, ...] = ()
    later: tuple[int, ...] = ()

    @classmethod
    def of(cls, text: str, tokenizer: Tokenizer) -> ClarifyingText:
        """Tokenises a text twice; behind other tokens it begins with a space."""
        text = text.strip()
        if not text:
            return cls()
        first = tuple(tokenizer.encode(text, add_special_tokens=False))
        later = tuple(tokenizer.encode(" " + text, add_special_tokens=False))
        if b"".join(tokenizer.token_bytes(i) or b"" for i in later).startswith(b"  "):
            later = first  # this tokenizer puts a space before every text itself
        return cls(first, later)


class Drawn(NamedTuple):
    """The outcome of one step for one row, before its reply takes the token.

    ``clarifying``: the tokens of the clarifying text that begins with this token, () where none does.
    ``firsts``: for branches 1, 2, ... the token that each would begin with here: its id, its log probability
    (nats) and the guide's score. ``error``: why the request cannot go on.
    """

    token: Token
    clarifying: tuple[int, ...] = ()
    firsts: tuple[tuple[int, float, float], ...] = ()
    error: str | None = None


@dataclass(slots=True)
class Reply:
    """The state of a reply between two steps. The caller must give it tokens through :meth:`take` alone.

    ``length``: tokens so far, which is the position of the next draw. ``limit``: tokens that it may have.
    ``stops``: token ids that end it. ``pending``: tokens to emit next instead of drawing, the rest of a
    clarifying text or, where ``replays``, the tokens that the request named (teacher forcing), with which the
    reply ends; the first ``named`` of them were named by a request that goes on behind them.
    ``clarifies``: whether a clarifying text may begin at all. ``rollout_end``: the length at
    which the reply is judged beside other branches, 0 outside a rollout; it falls to ``length`` as soon as
    the text since the rollout began contains one of ``rollout_texts`` (never in a vLLM worker, which knows no
    such texts). ``rollout_tail``: the end of that text, in which one of them can have begun.
    ``clarify_used``: clarifying texts so far; ``since_clarify``: tokens since the last text began, None
    before the first. ``tokens``: tokens so far whose surprisal is known; ``surprisal``: its sum, bits (both
    kept where tokens are drawn alone: not in a server beside vLLM). ``unfinished``: the bytes of a character
    that the newest tokens began and did not end. ``history``: the newest tokens. ``windows``: the rolling
    windows of the steps so far, None before the first step and where nobody watches. ``adjustments``: what
    changes its logits, None where nothing does. ``grammar``: where the reply stands in the grammar that it
    follows, None where it follows none."""

    limit: int = _UNLIMITED
    stops: tuple[int, ...] = ()
    length: int = 0
    pending: deque[int] = field(default_factory=deque)
    replays: bool = False
    named: int = 0
    clarifies: bool = False
    rollout_end: int = 0
    rollout_texts: tuple[bytes, ...] = ()
    rollout_tail: bytes = b""
    clarify_used: int = 0
    since_clarify: int | None = None
    tokens: int = 0
    surprisal: float = 0.0
    unfinished: bytes = b""
    history: TokenHistory = field(default_factory=TokenHistory)
    windows: ReplyWindows | None = None
    adjustments: ReplyAdjustments | None = None
    grammar: GrammarState | None = None

    @classmethod
    def begin(cls, request: Request, max_model_len: int, *, draws: bool = True) -> Reply:
        """Makes the empty reply of a request that passed :func:`check_request`.

        ``draws`` False: its tokens are drawn elsewhere, so it needs no adjustments. Raises ValueError where
        the tokens that a request goes on behind break its grammar.
        """
        replayed = request.replayed_token_ids
        wanted = len(replayed) or request.sampling.max_tokens
        resumed = request.resumed or Resumed()
        adjustments = None
        if draws and not replayed:
            prompt = len(request.prompt_token_ids) - request.kept
            ids = request.prompt_token_ids
            adjustments = ReplyAdjustments.of(request.sampling, ids[:prompt], ids[prompt:])
        return cls(
            min(wanted, max_model_len - len(request.prompt_token_ids) + request.kept),
            () if replayed else request.sampling.stop_token_ids,
            request.kept,
            pending=deque(replayed or resumed.pending),
            replays=bool(replayed),
            named=resumed.named,
            # a clarifying text follows no grammar
            clarifies=not replayed and request.policy.policy == "entropix" and request.grammar is None,
            clarify_used=resumed.clarify_used,
            since_clarify=resumed.since_clarify,
            tokens=resumed.known,
            surprisal=resumed.surprisal,
            unfinished=resumed.unfinished,
            history=TokenHistory(resumed.newest),
            adjustments=adjustments,
            grammar=None
            if request.grammar is None
            else request.grammar.begin([token.token_id for token in resumed.tokens]),
        )

    @property
    def names_next(self) -> bool:
        """Tells whether the request itself named the next token."""
        return self.replays or self.named > 0

    @property
    def error(self) -> str | None:
        """Returns why the reply cannot go on, None where it can."""
        return None if self.grammar is None else self.grammar.error

    @property
    def room(self) -> int:
        """Counts the tokens that the reply may still get."""
        return self.limit - self.length

    @property
    def rolled_out(self) -> bool:
        """Tells whether a reply in a rollout has all the tokens that the verdict reads."""
        return self.length >= self.rollout_end

    def begin_rollout(self, depth: int, texts: tuple[bytes, ...]) -> None:
        """Begins a rollout of at most ``depth`` tokens, which ends before that with one of ``texts``."""
        self.rollout_end = self.length + depth
        self.rollout_texts, self.rollout_tail = texts, b""

    def end_rollout(self) -> None:
        """Lets the reply go on behind a rollout that it won."""
        self.rollout_end = 0
        self.rollout_texts, self.rollout_tail = (), b""

    def clarifying_text(self, text: ClarifyingText) -> tuple[int, ...]:
        """Picks the form of the clarifying text that would stand at the next position.

        Returns () where no text may begin: during teacher forcing, during rollouts, inside a UTF-8 character,
        under a grammar, under every policy but ``entropix``, and where a token of the text may be excluded.
        """
        if self.unfinished or self.rollout_end or not self.clarifies:
            return ()
        ids = text.later if self.length else text.first
        return ids if self.adjustments is None or self.adjustments.may_say(ids) else ()

    def forces(self, clarifying: Sequence[int]) -> bool:
        """Tells whether the next token is given, not drawn, where the text ``clarifying`` begins with it."""
        return bool(clarifying or self.pending)

    def take(
        self,
        token_id: int,
        tokenizer: Tokenizer,
        clarifying: Sequence[int] = (),
        surprisal: float | None = None,
    ) -> FinishReason | None:
        """Appends an emitted token to the reply and updates the policy's memory.

        ``clarifying``: the tokens of the clarifying text that begins with this token; ``surprisal``: the
        token's (bits), None where it is not known or a grammar left no other token. Returns the reason for
        which the reply ends with it, None where it goes on.
        """
        self.length += 1
        self.history.append(token_id)
        if self.adjustments is not None:
            self.adjustments.take(token_id)
        if surprisal is not None:
            self.tokens += 1
            self.surprisal += surprisal
        if clarifying:
            self.pending.extend(clarifying)
            self.clarify_used += 1
            self.since_clarify = 0
        elif self.since_clarify is not None:
            self.since_clarify += 1
        if self.pending:
            self.pending.popleft()
            self.named = max(0, self.named - 1)
        data = tokenizer.token_bytes(token_id) or b""
        if self.unfinished or (data and data[-1] >= 0x80):
            self.unfinished = unfinished_character(self.unfinished + data)
        if self.rollout_texts:
            self._look_for_end(data)
        finished = self.grammar is not None and self.grammar.take(token_id)
        if finished or token_id in self.stops:
            return FinishReason.STOP
        if self.error is not None:
            return FinishReason.ERROR
        ended = self.length >= self.limit or (self.replays and not self.pending)
        return FinishReason.LENGTH if ended else None

    def _look_for_end(self, data: bytes) -> None:
        """Ends the rollout of the reply where the bytes of its newest token complete one of the texts."""
        seen = self.rollout_tail + data
        if any(text in seen for text in self.rollout_texts):
            self.rollout_end = self.length
        longest = max(map(len, self.rollout_texts))
        self.rollout_tail = seen[max(0, len(seen) - longest + 1) :]

    def copy(self) -> Reply:
        """Copies the reply, for a branch that continues it."""
        return replace(
            self,
            pending=self.pending.copy(),
            history=self.history.copy(),
            windows=None if self.windows is None else self.windows.copy(),
            adjustments=None if self.adjustments is None else self.adjustments.copy(),
            grammar=None if self.grammar is None else self.grammar.copy(),
        )


def step_columns(replies: Sequence[Reply], text: ClarifyingText) -> tuple[StepColumns, list[tuple[int, ...]]]:
    """Lays out the sampling step's inputs from every row's reply, on the host.

    Returns the columns and the clarifying text of each row, () where none may begin.
    """
    texts = [reply.clarifying_text(text) for reply in replies]
    columns = StepColumns.of(
        [
            StepRow(
                reply.length,
                reply.pending[0] if reply.pending else NOTHING,
                of_row[0] if of_row else NOTHING,
                reply.history.repeated,
                reply.clarify_used,
                reply.since_clarify,
                reply.tokens,
                reply.surprisal,
            )
            for reply, of_row in zip(replies, texts, strict=True)
        ]
    )
    return columns, texts


def check_layer_entropy(policy: PolicyConfig, info: ModelInfo) -> None:
    """Refuses, with a ValueError that names the field, layers' entropies that cannot be measured."""
    asked = policy.layer_entropy
    if asked is None:
        return
    if not info.layer_entropy:
        raise ValueError(
            "layer_entropy: this engine cannot measure it; the embedded engine can, for llama, mistral, "
            "qwen2 and qwen3"
        )
    unknown = [layer for layer in asked.layers if layer not in info.monitored_layers]
    if unknown:
        raise ValueError(f"layer_entropy.layers: layer {unknown[0]} is not among the monitored layers")


def check_request(
    request: Request, info: ModelInfo, profile: Profile | None, *, measures: bool = True
) -> None:
    """Refuses a request that can never run on a model, with a ValueError that names the field.

    ``profile``: the calibration in force; ``measures``: False of an engine that measures nothing.
    """
    for name, ids in (("prompt", request.prompt_token_ids), ("replayed", request.replayed_token_ids)):
        if ids and not (min(ids) >= 0 and max(ids) < info.vocab_size):
            raise ValueError(f"{name} token ids must be 0 to {info.vocab_size - 1}")
    prompt = len(request.prompt_token_ids)
    if not prompt:
        raise ValueError("the prompt is empty")
    if prompt >= info.max_model_len:
        raise ValueError(
            f"the prompt has {prompt} tokens; with one of reply the context holds {info.max_model_len}"
        )
    if request.sampling.prompt_logprobs is not None and not info.prompt_logprobs:
        raise ValueError("prompt_logprobs: this model's decoder gives no logits of a prompt's tokens")
    alone = request.sampling.max_tokens == 0 and request.resumed is None  # nothing but the prompt is wanted
    if not request.replayed_token_ids and not alone and request.sampling.max_tokens <= request.kept:
        behind = f": {request.kept} tokens of the reply are there already" if request.kept else ""
        raise ValueError(f"max_tokens must be at least {request.kept + 1}{behind}")
    if not 0 <= request.choice < MAX_CHOICES:
        raise ValueError(f"choice must be 0 to {MAX_CHOICES - 1}")
    if not measures and request.policy.policy != "fixed":
        raise ValueError("policy must be 'fixed': this engine measures nothing")
    check_layer_entropy(request.policy, info)
    if not request.replayed_token_ids:
        check_adjustments(request.sampling, info.vocab_size)
    validate_request(request.sampling, request.policy, profile)


def unfinished_character(data: bytes) -> bytes:
    """Cuts out the last bytes of ``data`` where they begin a UTF-8 character and do not end it."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data[-back:] if length > back else b""
        if byte < 0x80:
            return b""
    return b""
