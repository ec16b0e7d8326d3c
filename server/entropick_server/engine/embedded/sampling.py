"""The sampling step: draws a token for every row of a forward's output, and measures its rolling windows.

Changes no sequence's tokens; the windows of its rows' replies take the step.
"""

from __future__ import annotations

import torch

from entropick_kernels.decoder import LayerLens
from entropick_kernels.logits_stats import Kernels
from entropick_sampler.batch import SampledBatch
from entropick_sampler.packed import LOGITS_ENTROPY, unpack
from entropick_sampler.profile import DEFAULT_CLARIFY_TEXT, Profile

from ..adjusting import adjust_rows
from ..base import Tokenizer
from ..grammar.masks import StepMasks
from ..reply import BAD_LOGITS, ClarifyingText, Drawn, step_columns
from ..tokens import attention_details, most_probable_tokens, token_detail, token_of, top_logprobs
from ..types import WatchedLayers
from .batch import Batch
from .forward import ForwardOutput
from .sequence import Sequence
from .watch import Watch


class StepSampler:
    """The sampler of the engine's steps.

    Keeps the parameters of the rows laid out as tensors, and lays them out anew when other sequences run.
    What the policy remembers of a sequence lies in its reply alone.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        profile: Profile | None,
        monitored_layers: tuple[int, ...],
        device: torch.device,
        vocab_size: int,
        kernels: Kernels | None = None,
        measure: bool = True,
    ) -> None:
        """Prepares a sampler. ``kernels``: the kernels that measure and draw, None for the fastest.

        ``vocab_size``: columns of the logits.
        ``measure`` False leaves the signals out; then only policy ``fixed`` is served.
        """
        self._kernels = kernels
        self._measure = measure
        self._tokenizer = tokenizer
        self._layers = monitored_layers
        self._device = device
        self._masks = StepMasks(vocab_size)
        self.set_profile(profile)

    def set_profile(self, profile: Profile | None) -> None:
        """Decides with another profile from the next step on."""
        self._profile = profile
        text = profile.clarify_text if profile else DEFAULT_CLARIFY_TEXT
        self._clarifying = ClarifyingText.of(text, self._tokenizer)
        self._sequences: tuple[Sequence, ...] = ()
        self._batch = SampledBatch([], profile, self._device)
        self._watch = Watch(profile.genuineness if profile else None)

    def begin(self) -> None:
        """Begins a step, of which no row is watched yet."""
        self._watch.begin()

    def recover(self) -> None:
        """Forgets how the rows are laid out, behind an exception that may have left that unfinished.

        The windows that the step has reached keep it, and are not pushed again.
        """
        self._batch = SampledBatch([], self._profile, self._device)
        self.lay_out_again()
        self._watch.recover()

    def lay_out_again(self) -> None:
        """Lays the rows out anew at the next step, as when other kernels can serve."""
        self._sequences = ()

    def prepare(self, batch: Batch) -> None:
        """Begins the masks of a step, which do not need the model's output. Call it before the forward."""
        self._masks.begin([sequence.reply.grammar for sequence in batch.rows])

    def sample(self, output: ForwardOutput | None) -> list[Drawn]:
        """Draws a token for every row of a forward's output; none for None."""
        if output is None:
            return []
        sequences = output.sequences
        if sequences != self._sequences:
            self._lay_out(sequences)
        replies = [s.reply for s in sequences]
        columns, texts = step_columns(replies, self._clarifying)
        if self._device.type != "cpu":
            columns = columns.to(self._device)
        masks = self._masks.take([reply.grammar for reply in replies])
        logits, adjustments = adjust_rows(replies, output.logits, masks)
        packed = self._batch.step(logits, output.signals, None, columns, self._measure, adjustments)
        only = () if adjustments is None else adjustments.only_choices(logits.shape[1])
        rows = unpack(packed, self._batch.candidates)
        tops, details, probable = {}, {}, {}
        if asked := {i: n for i, s in enumerate(sequences) if (n := s.request.sampling.logprobs)}:
            tops = top_logprobs(logits, asked, [(rows[i].max_logit, rows[i].log_z) for i in asked])
        if full := [i for i, s in enumerate(sequences) if s.request.policy.telemetry == "full"]:
            details = attention_details(output.heads, output.by_layer, full)
            policies = {i: sequences[i].request.policy for i in full}
            probable = most_probable_tokens(logits, rows, policies, adjustments)
        lenses = {} if output.lens is None else self._layer_entropies(output.lens, sequences)
        windows = self._watch.push(output, packed[:, LOGITS_ENTROPY])
        drawn = []
        for i, (sequence, row, text) in enumerate(zip(sequences, rows, texts, strict=True)):
            clarifying = text if row.inserted else ()
            detail = details.get(i)
            token = token_of(
                row,
                forced=bool(clarifying or sequence.reply.pending),
                replayed=sequence.reply.names_next,
                tops=tops.get(i, ()),
                detail=None
                if detail is None
                else token_detail(detail, self._layers, row.candidates, sequence.reply.windows),
                window=windows[i],
                probable=probable.get(i, ()),
                layer_entropy=lenses.get(i, ()),
                only_choice=i in only,
            )
            error = BAD_LOGITS if row.flags else sequence.reply.error
            drawn.append(Drawn(token, clarifying, row.firsts, error))
        return drawn

    def _layer_entropies(
        self, lens: LayerLens, sequences: tuple[Sequence, ...]
    ) -> dict[int, tuple[tuple[int, float], ...]]:
        """Returns layers with their entropies (bits) for each row that wants some in this step."""
        found = {}
        for row, column in zip(lens.rows.tolist(), lens.entropy.T.tolist(), strict=True):
            asked = sequences[row].request.policy.layer_entropy
            own = (asked and asked.layers) or self._layers
            pairs = zip(lens.layers, column, strict=True)
            found[row] = tuple((layer, bits) for layer, bits in pairs if layer in own)
        return found

    def watched_layers(self, now: float) -> WatchedLayers | None:
        """Returns the genuineness by layer of the running rows, at most once a second; else None.

        ``now``: time.monotonic().
        """
        return self._watch.layers(self._layers, now)

    def _lay_out(self, sequences: tuple[Sequence, ...]) -> None:
        self._batch = SampledBatch(
            [(s.request.sampling, s.request.policy) for s in sequences],
            self._profile,
            self._device,
            [s.philox_stream for s in sequences],
            self._kernels,
        )
        self._watch.lay_out(sequences)
        self._sequences = sequences
