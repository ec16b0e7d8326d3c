"""Figures arrive whole, or are asked for; where that fails, the wait for them is short."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import torch

from entropick_sampler.columns import StepColumns, StepRow
from entropick_sampler.packed import TokenRow, unpack
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.signals import SIGNAL_NAMES
from entropick_sampler.step import SamplerRows, sample_step
from entropick_server.engine.base import EngineError
from entropick_server.engine.tokens import AttentionDetail, HeadEntropies
from entropick_server.engine.vllm.side_channel import Inbox, Mark, Outbox, decode, encode


def a_step(rows: int = 3) -> tuple[torch.Tensor, list[TokenRow], int]:
    """A packed step of preset seed (12 candidates) without attention, and its rows."""
    parameters = SamplerRows.build(
        [(SamplingParams(seed=i), PolicyConfig(preset="seed")) for i in range(rows)], None
    )
    torch.manual_seed(0)
    columns = StepColumns.of([StepRow(0)] * rows)
    result = sample_step(torch.randn(rows, 50) * 3, None, None, parameters, columns)
    packed = result.pack()
    return packed, unpack(packed, parameters.candidates), parameters.candidates


def marks(key: str, rows: int = 3) -> list[Mark]:
    detail = AttentionDetail([[1.0]], [[2.0]], [[None]], [[1.0] * 7])
    return [Mark(key, i, i == 1, ((3, -0.5),), detail if i == 0 else None) for i in range(rows)]


class Ends:
    """Both ends of a channel; ``ask`` reaches the worker's store until it is broken."""

    def __init__(self, folder: Path) -> None:
        self.address = f"ipc://{folder}/c"
        self.outbox = Outbox(self.address)
        self.asked = 0
        self.broken = False
        self.inbox = Inbox(self.address, self.ask, limit=0.2)

    async def ask(self, key: str) -> list[list[bytes]]:
        self.asked += 1
        if self.broken:
            raise EngineError("the worker is gone")
        return self.outbox.take(key)


@pytest.fixture
async def ends(tmp_path: Path) -> AsyncIterator[Ends]:
    made = Ends(tmp_path)
    yield made
    await made.inbox.close()
    made.outbox.close()


def test_heads_travel_with_the_rows_that_have_them() -> None:
    packed, rows, candidates = a_step()
    rng = np.random.default_rng(1)
    sent = [
        mark._replace(
            heads=HeadEntropies(
                rng.random((2, 5)).astype(np.float32),
                np.array([7 + i, 3], dtype=np.int64),
                # of a row that wants token costs, NaN where there is none
                np.where(rng.random((2, 5, 4)) < 0.2, np.nan, 1.5).astype(np.float32) if i else None,
            )
        )
        if i != 1
        else mark
        for i, mark in enumerate(marks("k"))
    ]
    got = decode(encode(sent, packed, candidates))
    assert [figures.row for figures in got] == rows
    for mark, (found, _) in zip(sent, got, strict=True):
        assert found._replace(heads=None) == mark._replace(heads=None)
        if mark.heads is None:
            assert found.heads is None
            continue
        assert found.heads is not None
        np.testing.assert_array_equal(found.heads.entropy, mark.heads.entropy)
        np.testing.assert_array_equal(found.heads.keys, mark.heads.keys)
        assert found.heads.entropy.flags.writeable
        assert (found.heads.costs is None) == (mark.heads.costs is None)
        if mark.heads.costs is not None:
            np.testing.assert_array_equal(found.heads.costs, mark.heads.costs)


def test_messages_are_whole() -> None:
    packed, rows, candidates = a_step()
    got = decode(encode(marks("k"), packed, candidates))
    assert [figures.mark for figures in got] == marks("k")
    assert [figures.row for figures in got] == rows
    assert rows[0].signals[SIGNAL_NAMES.index("agreement")] is None
    (whole,) = encode(marks("k"), packed, candidates)
    cut = [[whole[:size]] for size in (0, 31, 32, 100, len(whole) // 2, len(whole) - 1)]
    for nonsense in ([b"{}", b""], [b"x"], [], [b"\xff" * len(whole)], *cut):
        with pytest.raises(ValueError, match="side channel"):
            decode(nonsense)


async def test_rows_come_by_themselves_in_any_order(ends: Ends) -> None:
    ends.inbox.open()
    ends.inbox.expect("k")
    packed, rows, candidates = a_step()
    ends.outbox.send(marks("other"), packed, candidates)
    waiting = asyncio.create_task(ends.inbox.row("k", 2))
    await asyncio.sleep(0)  # it runs up to its first wait
    ends.outbox.send(marks("k"), packed, candidates)
    found = await waiting
    assert found is not None
    assert found.row == rows[2]
    first = await ends.inbox.row("k", 0)
    assert first is not None
    assert first.row == rows[0]
    assert ends.asked == 0
    with pytest.raises(KeyError):
        await ends.inbox.row("other", 0)


async def test_a_cut_channel_is_made_up_for_by_asking(ends: Ends) -> None:
    """One wait, then every row is asked for at once; when the channel speaks again it is trusted again."""
    packed, rows, candidates = a_step()
    ends.inbox.expect("k")
    ends.outbox.send(marks("k")[:1], packed[:1], candidates)
    found = await ends.inbox.row("k", 0)  # nothing listens
    assert found is not None
    assert found.row == rows[0]
    begin = time.monotonic()
    for position in (1, 2):
        ends.outbox.send([marks("k")[position]], packed[position : position + 1], candidates)
        found = await ends.inbox.row("k", position)
        assert found is not None
        assert found.row == rows[position]
    assert time.monotonic() - begin < 0.2
    asked = ends.asked
    ends.inbox.open()
    ends.inbox.forget("k")
    ends.inbox.expect("l")
    ends.outbox.send(marks("l"), packed, candidates)
    async with asyncio.timeout(5):
        while not ends.inbox._rows["l"]:  # until the reader has the message
            await asyncio.sleep(0.005)
    assert await ends.inbox.row("l", 0)
    assert ends.asked == asked


async def test_what_cannot_be_had_is_given_up_once(ends: Ends) -> None:
    ends.inbox.expect("k")
    ends.broken = True
    assert await ends.inbox.row("k", 0) is None
    begin = time.monotonic()
    assert [await ends.inbox.row("k", i) for i in range(1, 50)] == [None] * 49
    assert time.monotonic() - begin < 0.2
    assert ends.asked == 1


async def test_a_worker_that_never_answers_is_not_waited_for(tmp_path: Path) -> None:
    async def never(_: str) -> list[list[bytes]]:
        await asyncio.Event().wait()
        return []

    inbox = Inbox(f"ipc://{tmp_path}/n", never, limit=0.05)
    inbox.expect("k")
    async with asyncio.timeout(5):
        assert await inbox.row("k", 0) is None


def test_the_store_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from entropick_server.engine.vllm import side_channel

    packed, _, candidates = a_step()
    size = sum(map(len, encode(marks("a"), packed, candidates)))
    monkeypatch.setattr(side_channel, "_STORE_BYTES", 2 * size)
    monkeypatch.setattr(side_channel, "_STORE_KEYS", 3)
    outbox = Outbox(f"ipc://{tmp_path}/b")
    try:
        for key in "abc":
            outbox.send(marks(key), packed, candidates)
        assert outbox.take("a") == []
        for key in "bc":
            (message,) = outbox.take(key)
            assert [figures.mark.key for figures in decode(message)] == [key] * 3
        assert outbox.take("c") == []
        for key in "defg":
            outbox.send([marks(key)[0]], packed[:1], candidates)
        assert [len(outbox.take(key)) for key in "dg"] == [0, 1]
    finally:
        outbox.close()


def test_what_was_taken_is_not_told_again_and_rows_of_others_come_along(tmp_path: Path) -> None:
    packed, _, candidates = a_step()
    outbox = Outbox(f"ipc://{tmp_path}/b")
    try:
        outbox.send([marks("a")[0], marks("b")[0]], packed[:2], candidates)
        outbox.send([marks("a")[1]], packed[1:2], candidates)
        told = [[(f.mark.key, f.mark.position) for f in decode(m)] for m in outbox.take("a")]
        assert told == [[("a", 0), ("b", 0)], [("a", 1)]]
        outbox.send([marks("a")[2]], packed[2:], candidates)
        assert [[f.mark.position for f in decode(m)] for m in outbox.take("a")] == [[2]]
    finally:
        outbox.close()


def test_rows_that_stay_are_told_once_each(tmp_path: Path) -> None:
    """The same rows step after step: what was taken is gone for its key alone, and later steps are kept."""
    packed, _, candidates = a_step(2)
    outbox = Outbox(f"ipc://{tmp_path}/b")

    def step(position: int) -> None:
        outbox.send([Mark(key, position, False) for key in "ab"], packed, candidates)

    def taken(key: str) -> list[int]:
        found = [figures.mark for message in outbox.take(key) for figures in decode(message)]
        return [mark.position for mark in found if mark.key == key]

    try:
        step(0)
        step(1)
        assert taken("a") == [0, 1]
        assert taken("a") == []
        step(2)
        step(3)
        assert taken("a") == [2, 3]
        assert taken("b") == [0, 1, 2, 3]
        assert taken("nobody") == []
    finally:
        outbox.close()
