"""One request's way through the server, as metrics and the ring of recent requests see it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from ..recent import Finished, pack
from ..state import ServerState
from ..streaming.choice import Choice, Delta, GenerationError, run_choice
from ..telemetry import summarize


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an answer comes from."""

    answer_id: str
    request_id: str
    route: str
    created: int


async def observed(choice: Choice, state: ServerState, origin: Origin) -> AsyncGenerator[Delta, None]:
    """``run_choice`` with its times taken; however it ends, that end is counted if it ran at all."""
    request = choice.request
    first: float | None = None
    last = request.arrival
    ended = "error"
    state.in_flight += 1
    state.metrics.on_begin(request.request_id)
    try:
        async with aclosing(run_choice(choice, state.engine)) as deltas:
            async for delta in deltas:
                now = time.monotonic()
                if delta.taken and first is None:
                    first = now - request.arrival
                    # the choices of one prompt have it together
                    prompt = 0 if request.choice else len(request.prompt_token_ids)
                    state.metrics.on_first_token(request.request_id, first, prompt)
                elif delta.taken:
                    state.metrics.on_tokens(now - last, delta.taken)
                last = now
                yield delta
    except (asyncio.CancelledError, GeneratorExit):
        ended = "cancelled"
        raise
    except GenerationError:
        # a step that fails may be a request's first, and tells nothing else of it
        state.metrics.on_ran(request.request_id)
        raise
    finally:
        state.in_flight -= 1
        if choice.finish_reason is not None:
            ended = choice.finish_reason.value
        _remember(choice, state, origin, ended, first)


def _remember(choice: Choice, state: ServerState, origin: Origin, reason: str, first: float | None) -> None:
    request = choice.request
    duration = time.monotonic() - request.arrival
    if not state.metrics.on_end(request.request_id, reason, duration):
        # refused by the engine, or given up while it waited
        return
    state.recent.add(
        Finished(
            id=origin.answer_id,
            choice=choice.index,
            request_id=origin.request_id,
            route=origin.route,
            model=state.info.name,
            created=origin.created,
            finish_reason=reason,
            prompt_tokens=len(request.prompt_token_ids),
            completion_tokens=len(choice.seen),
            time_to_first_token=first,
            duration=duration,
            summary=summarize(
                choice.tokens,
                request.sampling.seed,
                request.policy,
                state.profile_id,
                choice.branch_tokens,
                request.choice,
            ),
            **pack(choice.tokens),
        )
    )
