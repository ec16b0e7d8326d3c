"""Runs pieces of requests on AsyncLLM and joins vLLM's tokens with the figures of the side channel."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ..base import EngineDeadError, EngineError, QueueFullError
from ..types import FinishReason
from .chain import Piece, Step
from .side_channel import Inbox
from .tokens import token_of
from .wire import FIELD

_BAD_LOGITS = "the model's logits are not finite (NaN or infinite): the weights or the dtype are at fault"
_LOST = "the log probabilities of this answer were lost on their way from vLLM's worker"
_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
DEAD = "vLLM's engine died; the server's log says why"


class VllmPieces:
    """Implements :class:`~.chain.Pieces`."""

    def __init__(self, llm: Any, inbox: Inbox, layers: Sequence[int]) -> None:
        self._llm = llm
        self._inbox = inbox
        self._layers = tuple(layers)
        self._numbers = itertools.count()

    async def run(self, piece: Piece) -> AsyncGenerator[list[Step], None]:
        """The tokens of a piece. Raises EngineError; closing it aborts the piece."""
        from vllm import SamplingParams
        from vllm.exceptions import QueueOverflowError, VLLMError
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError as VllmDead
        from vllm.v1.engine.exceptions import EngineGenerateError

        # of its own, whoever asks again under the same request id
        key = f"{piece.spec.key}#{next(self._numbers)}"
        piece = replace(piece, spec=replace(piece.spec, key=key))
        params = SamplingParams(
            # the processor leaves one token: whoever draws draws it
            temperature=0.0,
            max_tokens=piece.limit,
            stop_token_ids=list(piece.stops),
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={FIELD: piece.spec.plain()},
        )
        prompt = {"prompt_token_ids": list(piece.prompt)}
        self._inbox.expect(key)
        try:
            async with aclosing(self._llm.generate(prompt, params, key)) as outputs:
                position, preempted = piece.spec.start, 0
                async for output in outputs:
                    done, told = output.outputs[0], output.metrics
                    steps = []
                    for number, token_id in enumerate(done.token_ids, 1):
                        last = output.finished and number == len(done.token_ids)
                        reason = _reason(done.finish_reason) if last else None
                        cached = output.num_cached_tokens or 0
                        steps.append(await self._step(piece, position, token_id, cached, reason))
                        position += 1
                    if steps:
                        first = position - len(steps) == piece.spec.start
                        if told is not None and (first or told.num_preemptions > preempted):
                            again, preempted = told.num_preemptions - preempted, told.num_preemptions
                            waited = max(0.0, told.scheduled_ts - told.queued_ts)
                            steps[0] = replace(steps[0], waited=waited, preempted=again)
                        yield steps
                    if output.finished and (not steps or steps[-1].reason is None):
                        raise EngineError(f"vLLM gave this request up ({done.finish_reason})")
        except VllmDead as error:
            raise EngineDeadError(DEAD) from error
        except EngineGenerateError as error:
            raise EngineError(f"vLLM failed on this request: {error.__cause__}") from error
        except QueueOverflowError as error:
            raise QueueFullError(str(error)) from error
        except VLLMError as error:
            raise EngineError(f"vLLM refuses this request: {error}") from error
        finally:
            self._inbox.forget(key)

    async def _step(
        self, piece: Piece, position: int, token_id: int, cached: int, reason: FinishReason | None
    ) -> Step:
        spec = piece.spec
        figures = await self._inbox.row(spec.key or "", position)
        if figures is not None and figures.row.token != token_id:
            figures = None  # of a step whose token vLLM threw away
        token = token_of(token_id, figures, spec.replay, self._layers)
        if figures is None:
            error = None if spec.sampling.logprobs is None else _LOST
            return Step(token, error=error, cached=cached, reason=reason)
        row = figures.row
        return Step(
            token,
            row.firsts,
            figures.mark.inserted,
            _BAD_LOGITS if row.flags else None,
            cached,
            reason,
        )


def _reason(name: str | None) -> FinishReason | None:
    return None if name is None else _REASONS.get(name)
