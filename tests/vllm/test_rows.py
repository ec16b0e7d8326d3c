"""Rows join, move, wait and go on; what a step did counts only where its token was taken."""

from __future__ import annotations

from typing import Any

import pytest

from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.embedded.sampling import ClarifyText
from entropick_server.engine.vllm.rows import Row, RowTable
from entropick_server.engine.vllm.wire import RowSpec

TEXT = ClarifyText((7, 8), (17, 18))


class Bytes:
    """Token 200 begins a character that 201 ends."""

    def token_bytes(self, token_id: int) -> bytes | None:
        return {200: b"\xc3", 201: b"\xa4"}.get(token_id, b"x")


def spec(key: str | None = "a", **more: Any) -> RowSpec:
    return RowSpec(SamplingParams(), PolicyConfig(), key, **more)


def test_a_token_that_was_thrown_away_leaves_no_trace() -> None:
    row = Row.of(spec())
    assert row.clarify_at(TEXT, 0) == (7, 8)
    assert row.drew(0, 7, (7, 8))
    row.settle(0, Bytes())  # type: ignore[arg-type]
    assert (row.clarify_used, list(row.forced)) == (0, [])
    assert row.drew(0, 7, (7, 8))
    row.settle(1, Bytes())  # type: ignore[arg-type]
    assert (row.clarify_used, row.since_clarify, list(row.forced)) == (1, 0, [8])
    assert row.drew(1, 8, ())
    row.settle(2, Bytes())  # type: ignore[arg-type]
    assert (row.clarify_used, row.since_clarify, list(row.forced)) == (1, 1, [])
    assert not row.drew(2, 3, ())


def test_no_text_in_the_middle_of_a_character_or_where_none_may_be() -> None:
    row = Row.of(spec())
    row.drew(0, 200, ())
    row.settle(1, Bytes())  # type: ignore[arg-type]
    assert row.clarify_at(TEXT, 1) == ()
    row.drew(1, 201, ())
    row.settle(2, Bytes())  # type: ignore[arg-type]
    assert row.clarify_at(TEXT, 2) == (17, 18)
    assert Row.of(spec(start=3)).clarify_at(TEXT, 0) == (17, 18)
    for no in (spec(rollout=True), spec(replay=True), RowSpec(SamplingParams(), PolicyConfig("fixed"))):
        assert Row.of(no).clarify_at(TEXT, 0) == ()


def test_rows_move_and_swap() -> None:
    table = RowTable()
    for place, key in enumerate("abc"):
        table.join(place, spec(key))
    table.join(3, None)
    table.leave(1)
    table.move(2, 1, swap=False)
    table.move(0, 3, swap=True)
    keys = [None if row is None else row.spec.key for row in table.at(range(4))]
    assert keys == [None, "c", None, "a"]
    table.move(3, 1, swap=True)
    assert [row and row.spec.key for row in table.at((1, 3))] == ["a", "c"]


@pytest.mark.parametrize("key", ["a", None])
def test_a_row_that_waited_goes_on(key: str | None) -> None:
    table = RowTable()
    table.join(0, spec(key))
    (row,) = table.at([0])
    assert row is not None
    row.clarify_used = 1
    table.leave(0)
    assert len(table) == 0
    output = [5]
    table.join(4, spec(key), output)
    (again,) = table.at([4])
    assert again is not None
    assert again.output is output
    table.join(5, spec(key, start=9))
    (other,) = table.at([5])
    assert other is not None
    assert other.clarify_used == 0
    assert again.clarify_used == (1 if key else 0)


def test_a_row_that_comes_back_elsewhere_without_having_left_goes_on() -> None:
    """V2 preempts two rows, says so to nobody, and gives the first of them the slot of the second."""
    table = RowTable()
    specs = spec("a", forced=(5, 6)), spec("b")
    for place, one in enumerate(specs):
        table.join(place, one)
    rows = table.at([0, 1])
    first = rows[0]
    assert first is not None
    first.drew(0, 5, ())
    first.settle(1, Bytes())  # type: ignore[arg-type]
    table.join(1, specs[0])
    table.join(0, specs[1])
    assert table.at([1, 0]) == rows
    assert list(first.forced) == [6]
    assert len(table) == 2
