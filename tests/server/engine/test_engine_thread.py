"""The engine thread around a core that fails: a command costs its request, failing steps come to an end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from entropick_sampler.profile import Profile
from entropick_server.engine.base import EngineError, QueueFullError
from entropick_server.engine.embedded.thread import (
    FRUITLESS_STEPS,
    Add,
    Cancel,
    EngineThread,
    Stop,
    UseProfile,
)
from entropick_server.engine.types import EngineGauges, FinishReason, Request, RequestOutput, StepReport

from .test_loader import profile

Make = Callable[..., Request]
LOAD = EngineGauges(0, 0, 0, 0)


class FakeCore:
    """Takes requests; each step ends the oldest. Fails where ``fails`` says so."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.profiles: list[Profile] = []
        self.steps = 0
        self.fails: Callable[[str, str], None] = lambda method, name: None
        self.ends_on_failure = True

    @property
    def idle(self) -> bool:
        return not self.names

    def gauges(self) -> EngineGauges:
        return LOAD

    def add(self, request: Request) -> None:
        self.fails("add", request.request_id)
        self.names.append(request.request_id)

    def cancel(self, request_id: str) -> None:
        self.fails("cancel", request_id)
        self.names.remove(request_id)

    def set_profile(self, made: Profile) -> None:
        self.fails("set_profile", made.model_hash)
        self.profiles.append(made)

    def step(self) -> StepReport:
        self.steps += 1
        self.fails("step", self.names[0])
        return self.end(FinishReason.STOP)

    def fail_step(self) -> StepReport:
        return self.end(FinishReason.ERROR) if self.ends_on_failure else StepReport((), (), LOAD, (), 0.0)

    def report_between(self) -> None:
        return None

    def end(self, reason: FinishReason) -> StepReport:
        return StepReport((RequestOutput(self.names.pop(0), (), reason),), (0,), LOAD, (), 0.0)


class Told:
    """Collects what the thread tells."""

    def __init__(self) -> None:
        self.ends: dict[str, FinishReason | None] = {}
        self.refused: dict[str, EngineError] = {}
        self.death: str | None = None
        self.something = asyncio.Event()

    def on_report(self, report: StepReport) -> None:
        self.ends |= {output.request_id: output.finish_reason for output in report.outputs}
        self.something.set()

    def on_refused(self, request_id: str, error: EngineError) -> None:
        self.refused[request_id] = error
        self.something.set()

    def on_death(self, reason: str) -> None:
        self.death = reason
        self.something.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.something.clear()
                await self.something.wait()


@pytest.fixture
async def running() -> AsyncIterator[tuple[EngineThread, FakeCore, Told]]:
    core, told = FakeCore(), Told()
    opened: Any = SimpleNamespace()
    thread = EngineThread(lambda: (core, opened), told)  # type: ignore[arg-type, return-value]
    assert await thread.start() is opened
    yield thread, core, told
    thread.send(Stop())
    await thread.join()


def failing(method: str, names: set[str]) -> Callable[[str, str], None]:
    def fails(called: str, name: str) -> None:
        if called == method and name in names:
            raise ZeroDivisionError("inside")

    return fails


async def test_a_request_that_cannot_be_taken_ends_alone(
    running: tuple[EngineThread, FakeCore, Told], make_request: Make, caplog: pytest.LogCaptureFixture
) -> None:
    thread, core, told = running
    core.fails = failing("add", {"bad"})
    for name in ("one", "bad", "two"):
        thread.send(Add(make_request(request_id=name)))
    await told.until(lambda: len(told.ends) == 2)
    assert told.ends == {"one": FinishReason.STOP, "two": FinishReason.STOP}
    assert list(told.refused) == ["bad"]
    assert "the server's log says why" in str(told.refused["bad"])
    assert "ZeroDivisionError: inside" in caplog.text
    assert told.death is None


async def test_a_refusal_on_purpose_is_told_as_it_is(
    running: tuple[EngineThread, FakeCore, Told], make_request: Make, caplog: pytest.LogCaptureFixture
) -> None:
    thread, core, told = running
    full = QueueFullError("full")

    def fails(method: str, name: str) -> None:
        if method == "add":
            raise full

    core.fails = fails
    thread.send(Add(make_request(request_id="one")))
    await told.until(lambda: told.refused)
    assert told.refused == {"one": full}
    assert not caplog.records


async def test_a_request_that_cannot_be_cancelled_is_told(
    running: tuple[EngineThread, FakeCore, Told], make_request: Make
) -> None:
    """Its reader is gone; its name must not be taken for ever."""
    thread, _core, told = running
    thread.send(Cancel("unknown"))  # ValueError of the fake's list
    await told.until(lambda: told.refused)
    assert list(told.refused) == ["unknown"]
    thread.send(Add(make_request(request_id="one")))
    await told.until(lambda: told.ends)
    assert told.death is None


async def test_a_profile_is_told_when_it_is_in_force(
    running: tuple[EngineThread, FakeCore, Told],
) -> None:
    thread, core, _told = running
    loop = asyncio.get_running_loop()
    core.fails = failing("set_profile", {"bad"})
    good, bad = loop.create_future(), loop.create_future()
    thread.send(UseProfile(profile((0,), "bad"), bad))
    thread.send(UseProfile(profile((0,), "good"), good))
    async with asyncio.timeout(10):
        with pytest.raises(EngineError, match="UseProfile"):
            await bad
        await good
    assert [made.model_hash for made in core.profiles] == ["good"]


async def test_a_failing_step_ends_its_request_and_the_others_go_on(
    running: tuple[EngineThread, FakeCore, Told], make_request: Make
) -> None:
    thread, core, told = running
    bad = {f"bad-{i}" for i in range(3 * FRUITLESS_STEPS)}
    core.fails = failing("step", bad)
    for name in (*bad, "good"):
        thread.send(Add(make_request(request_id=name)))
    await told.until(lambda: len(told.ends) == len(bad) + 1)
    assert told.ends == {"good": FinishReason.STOP} | dict.fromkeys(bad, FinishReason.ERROR)
    assert told.death is None


async def test_steps_that_fail_without_end_are_given_up(
    running: tuple[EngineThread, FakeCore, Told], make_request: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Before, they were repeated and logged tens of thousands of times a second, for ever."""
    thread, core, told = running
    core.fails = failing("step", {"bad"})
    core.ends_on_failure = False
    thread.send(Add(make_request(request_id="bad")))
    await told.until(lambda: told.death)
    assert told.death is not None
    assert f"{FRUITLESS_STEPS} steps in a row failed" in told.death
    assert "ZeroDivisionError: inside" in told.death
    assert core.steps == FRUITLESS_STEPS
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(failures) == FRUITLESS_STEPS + 1


async def test_a_step_that_works_begins_the_count_anew(
    running: tuple[EngineThread, FakeCore, Told], make_request: Make
) -> None:
    thread, core, told = running
    core.ends_on_failure = False

    def fails(method: str, name: str) -> None:
        # two of three steps fail, for as long as it lasts
        if method == "step" and core.steps % FRUITLESS_STEPS:
            raise ZeroDivisionError("inside")

    core.fails = fails
    for i in range(5):
        thread.send(Add(make_request(request_id=f"{i}")))
    await told.until(lambda: len(told.ends) == 5)
    assert told.death is None
