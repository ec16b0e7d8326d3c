"""The step after the forward: a measured batch in, one :class:`~..types.Token` for every row out.

Keeps the resident parameters of the batch and the policy's state as tensors; both are rebuilt, from what the
sequences hold, only when another set of sequences runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from entropick_kernels.logits_stats import Implementation
from entropick_sampler.batch import SampledBatch
from entropick_sampler.packed import TokenRow
from entropick_sampler.params import Strategy
from entropick_sampler.policy import PolicyState, initial_state
from entropick_sampler.profile import DEFAULT_CLARIFY_TEXT, Profile
from entropick_sampler.signals import ATTENTION_SIGNALS, SIGNAL_NAMES
from entropick_sampler.step import SamplerRows

from ..base import Tokenizer
from ..types import Candidate, Request, Token, TokenDetail, TokenParameters
from .model_runner import Measured
from .sequence import Sequence

_SURPRISAL = SIGNAL_NAMES.index("surprisal")
_BAD_LOGITS = "the model's logits are not finite (NaN or infinite): the weights or the dtype are at fault"


@dataclass(frozen=True, slots=True)
class ClarifyText:
    """The clarifying text as tokens: at the beginning of a reply, and behind other tokens."""

    first: tuple[int, ...] = ()
    later: tuple[int, ...] = ()

    @classmethod
    def of(cls, text: str, tokenizer: Tokenizer) -> ClarifyText:
        """Tokenise once; behind other tokens the text begins with a space."""
        text = text.strip()
        if not text:
            return cls()
        first = tuple(tokenizer.encode(text, add_special_tokens=False))
        later = tuple(tokenizer.encode(" " + text, add_special_tokens=False))
        if b"".join(tokenizer.token_bytes(i) or b"" for i in later).startswith(b"  "):
            later = first  # this tokenizer puts a space before every text itself
        return cls(first, later)

    def at(self, sequence: Sequence) -> tuple[int, ...]:
        """The tokens that would stand at a sequence's next position.

        None for a replayed sequence, none while branches roll out, and none in the middle of a character.
        """
        if (
            sequence.replay
            or sequence.rollout_end
            or sequence.unfinished
            or sequence.request.policy.policy != "entropix"
        ):
            return ()
        return self.later if sequence.generated else self.first


class First(NamedTuple):
    """What a branch would begin with, and the bytes of a character that it leaves unfinished."""

    token: Token
    unfinished: bytes


class Drawn(NamedTuple):
    """A row's token; where branches may open, the first tokens of branches 1, 2, ... drawn beside it."""

    token: Token
    firsts: tuple[First, ...] = ()


class StepSampler:
    """Draws the next token of every row of a batch."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        profile: Profile | None,
        monitored_layers: tuple[int, ...],
        device: torch.device,
        kernels: Implementation | None = None,
        measure: bool = True,
    ) -> None:
        """``kernels``: the implementation that measures and draws, None for the fastest; ``measure`` False:
        the signals are absent, and only policy ``fixed`` is served."""
        self._kernels = kernels
        self._measure = measure
        self._tokenizer = tokenizer
        self._layers = monitored_layers
        self._device = device
        self._never = int(initial_state(1).tokens_since_clarify)
        self.set_profile(profile)

    def set_profile(self, profile: Profile | None) -> None:
        """Serve with another profile from the next step on."""
        self._profile = profile
        text = profile.clarify_text if profile else DEFAULT_CLARIFY_TEXT
        self._clarify = ClarifyText.of(text, self._tokenizer)
        self._sequences: tuple[Sequence, ...] = ()
        self._batch = SampledBatch([], initial_state(0, self._device), profile, self._device)

    def check(self, request: Request) -> None:
        """Raise ValueError for a request whose row could not be built, before it joins a batch."""
        if not -(1 << 63) <= request.sampling.seed < 1 << 63:
            raise ValueError("seed must fit into 64 bits")
        if not self._measure and request.policy.policy != "fixed":
            raise ValueError("policy must be 'fixed': this engine measures nothing")
        SamplerRows.build([(request.sampling, request.policy)], self._profile)

    def sample(self, measured: Measured) -> list[Drawn | str]:
        """One token for every row, or what is wrong with its logits.

        The sequences take no token yet; what the policy remembers of them is updated.
        """
        sequences = measured.rows
        self._compose(sequences)
        clarify = [self._clarify.at(s) for s in sequences]
        n = len(sequences)
        numbers = [s.generated for s in sequences]
        numbers += [s.forced[0] if s.forced else -1 for s in sequences]
        numbers += [text[0] if text else -1 for text in clarify]
        columns = torch.tensor(numbers).to(self._device, non_blocking=True).view(3, n)
        lines = self._batch.step(
            measured.logits,
            measured.signals,
            None,
            columns[0],
            columns[1],
            columns[2],
            self._measure,
        )
        tops = self._top_logprobs(measured, lines)
        details = self._details(measured, lines)
        tokens: list[Drawn | str] = []
        for i, (sequence, line) in enumerate(zip(sequences, lines, strict=True)):
            if line.flags:
                tokens.append(_BAD_LOGITS)
                continue
            if line.inserted:
                sequence.forced.extend(clarify[i])
                sequence.clarify_used += 1
                sequence.since_clarify = 0
            elif sequence.since_clarify is not None:
                sequence.since_clarify += 1
            before = sequence.unfinished
            sequence.unfinished = self._unfinished(before, line.token)
            forced = bool(sequence.forced)
            token = Token(
                line.token,
                line.logprob,
                line.signals,
                Strategy.CLARIFY if forced and not sequence.replay else line.strategy,
                TokenParameters(line.temperature, line.top_p, line.top_k, line.min_p, line.n_candidates),
                forced,
                tops.get(i, ()),
                details.get(i),
            )
            branch = sequence.request.policy.branch
            if branch is None or forced or sequence.branch or token.strategy not in branch.on:
                tokens.append(Drawn(token))
                continue
            firsts = line.firsts[: branch.width - 1]
            tokens.append(Drawn(token, tuple(self._first(token, before, *first) for first in firsts)))
        return tokens

    def _unfinished(self, before: bytes, token_id: int) -> bytes:
        return unfinished_character(before + (self._tokenizer.token_bytes(token_id) or b""))

    def _first(self, token: Token, before: bytes, token_id: int, logprob: float, score: float) -> First:
        """What a branch would begin with."""
        return First(drawn_beside(token, token_id, logprob, score), self._unfinished(before, token_id))

    def _compose(self, sequences: tuple[Sequence, ...]) -> None:
        """Resident parameters and policy state for these rows."""
        if sequences == self._sequences:
            return
        state = PolicyState(
            torch.tensor([s.clarify_used for s in sequences], device=self._device),
            torch.tensor(
                [self._never if s.since_clarify is None else s.since_clarify for s in sequences],
                device=self._device,
            ),
        )
        self._batch = SampledBatch(
            [(s.request.sampling, s.request.policy) for s in sequences],
            state,
            self._profile,
            self._device,
            [s.branch_word for s in sequences],
            self._kernels,
        )
        self._sequences = sequences

    def recompose(self) -> None:
        """A sequence took over what another one holds: read all of them anew."""
        self._sequences = ()

    def _top_logprobs(
        self, measured: Measured, lines: Seq[TokenRow]
    ) -> dict[int, tuple[tuple[int, float], ...]]:
        """The most probable tokens of the measured distribution, for the rows that ask: row -> pairs."""
        wanted = {i: n for i, s in enumerate(measured.rows) if (n := s.request.sampling.logprobs)}
        if not wanted:
            return {}
        logits = _select(measured.logits, list(wanted))
        exact = torch.promote_types(logits.dtype, torch.float32)
        best = logits.to(exact).topk(min(max(wanted.values()), logits.shape[1]))
        # the emitted token's normaliser and arithmetic, so that the two agree to the bit
        normaliser = torch.tensor([(lines[i].max_logit, lines[i].log_z) for i in wanted], dtype=exact)
        normaliser = normaliser.to(logits.device)
        logprobs = (best.values - normaliser[:, :1] - normaliser[:, 1:]).clamp_max(0)
        return {
            i: tuple(zip(ids[:n], values[:n], strict=True))
            for (i, n), ids, values in zip(
                wanted.items(), best.indices.tolist(), logprobs.tolist(), strict=True
            )
        }

    def _details(self, measured: Measured, lines: Seq[TokenRow]) -> dict[int, TokenDetail]:
        """What telemetry ``full`` adds, for the rows that ask."""
        wanted = [i for i, s in enumerate(measured.rows) if s.request.policy.telemetry == "full"]
        if not wanted:
            return {}
        entropy = _select(measured.heads.entropy.transpose(0, 1), wanted).tolist()
        scores = _select(measured.heads.mean_abs_score.transpose(0, 1), wanted).tolist()
        layers = _select(measured.by_layer.permute(1, 2, 0), wanted).tolist()
        return {
            i: TokenDetail(
                self._layers,
                tuple(map(tuple, entropy[at])),
                tuple(map(tuple, scores[at])),
                {signal.name: tuple(row) for signal, row in zip(ATTENTION_SIGNALS, layers[at], strict=True)},
                tuple(Candidate(*candidate) for candidate in lines[i].candidates),
            )
            for at, i in enumerate(wanted)
        }


def drawn_beside(token: Token, token_id: int, logprob: float, score: float) -> Token:
    """Another token from the distribution of ``token``, drawn once."""
    emitted = min(logprob, 0.0)
    signals = list(token.signals)
    signals[_SURPRISAL] = abs(emitted / math.log(2.0))
    detail = token.detail
    return replace(
        token,
        token_id=token_id,
        logprob=emitted,
        signals=tuple(signals),
        parameters=token.parameters and replace(token.parameters, n_candidates=1),
        detail=detail and replace(detail, candidates=(Candidate(token_id, logprob, score),)),
    )


def unfinished_character(data: bytes) -> bytes:
    """The last bytes of ``data`` where they begin a UTF-8 character and do not end it."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data[-back:] if length > back else b""
        if byte < 0x80:
            return b""
    return b""


def _select(rows: Tensor, wanted: list[int]) -> Tensor:
    return rows.index_select(0, torch.tensor(wanted, device=rows.device))
