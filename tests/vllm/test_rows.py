"""Rows join, move, wait and go on; a step counts only where vLLM took its token."""

from __future__ import annotations

import gc
import math
import weakref
from collections import deque
from types import ModuleType
from typing import Any

import pytest
import torch

from entropick_kernels.attention_stats.costs import UNKNOWN
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.grammar.spec import Grammar
from entropick_server.engine.reply import ClarifyingText
from entropick_server.engine.reply_format.form import ReplyFormat
from entropick_server.engine.vllm import rows
from entropick_server.engine.vllm.row_grammars import RowGrammars
from entropick_server.engine.vllm.rows import Row, RowTable
from entropick_server.engine.vllm.wire import GrammarSpec, RowSpec

TEXT = ClarifyingText((7, 8), (17, 18))


class Bytes:
    """Token 200 begins a character that 201 ends."""

    def token_bytes(self, token_id: int) -> bytes | None:
        return {200: b"\xc3", 201: b"\xa4"}.get(token_id, b"x")


def spec(key: str | None = "a", **more: Any) -> RowSpec:
    return RowSpec(SamplingParams(), PolicyConfig(), key, **more)


def test_a_token_that_was_thrown_away_leaves_no_trace() -> None:
    row = Row.of(spec())
    assert row.reply.clarifying_text(TEXT) == (7, 8)
    assert row.drew(0, 7, (7, 8))
    row.settle(0, Bytes())  # type: ignore[arg-type]
    assert (row.reply.clarify_used, list(row.reply.pending)) == (0, [])
    assert row.drew(0, 7, (7, 8))
    row.settle(1, Bytes())  # type: ignore[arg-type]
    assert (row.reply.clarify_used, row.reply.since_clarify, list(row.reply.pending)) == (1, 0, [8])
    assert row.drew(1, 8, ())
    row.settle(2, Bytes())  # type: ignore[arg-type]
    assert (row.reply.clarify_used, row.reply.since_clarify, list(row.reply.pending)) == (1, 1, [])
    assert not row.drew(2, 3, ())


def test_a_row_knows_the_tokens_before_it() -> None:
    row = Row.of(spec(start=3, newest=(1, 2, 3)))
    for taken, (token, repeated) in enumerate(((1, 1), (2, 2), (4, 0))):
        row.drew(taken, token, ())
        row.settle(taken + 1, Bytes())  # type: ignore[arg-type]
        assert row.reply.history.repeated == repeated
    assert row.reply.history.newest == (1, 2, 3, 1, 2, 4)


def test_a_row_that_was_not_parked_learns_its_tokens_again() -> None:
    row = Row.of(spec(start=2, newest=(1, 2)), output=[5, 1, 2])
    row.settle(3, Bytes())  # type: ignore[arg-type]
    assert (row.reply.length, row.reply.history.newest, row.reply.history.repeated) == (5, (1, 2, 5, 1, 2), 2)


def test_a_row_emits_the_tokens_that_its_request_named() -> None:
    """Named tokens are given; what is pending behind them is the rest of a clarifying text."""
    begun = spec(start=2, newest=(1, 2), pending=(5, 6, 8), named=2, clarify_used=1, tokens=2, surprisal=3.5)
    row = Row.of(begun)
    for taken, (token, named) in enumerate(((5, True), (6, True), (8, False))):
        assert (row.reply.pending[0], row.reply.names_next) == (token, named)
        assert row.drew(taken, token, (), 0.5)
        row.settle(taken + 1, Bytes())  # type: ignore[arg-type]
    assert not row.reply.pending
    assert (row.reply.tokens, row.reply.surprisal, row.reply.clarify_used) == (5, 5.0, 1)
    # a row that joined anew and was not parked
    again = Row.of(begun, output=[5])
    again.settle(1, Bytes())  # type: ignore[arg-type]
    assert (list(again.reply.pending), again.reply.named, again.reply.length) == ([6, 8], 1, 3)


def test_no_text_in_the_middle_of_a_character_or_where_none_may_be() -> None:
    row = Row.of(spec())
    row.drew(0, 200, ())
    row.settle(1, Bytes())  # type: ignore[arg-type]
    assert row.reply.clarifying_text(TEXT) == ()
    row.drew(1, 201, ())
    row.settle(2, Bytes())  # type: ignore[arg-type]
    assert row.reply.clarifying_text(TEXT) == (17, 18)
    assert Row.of(spec(start=3)).reply.clarifying_text(TEXT) == (17, 18)
    for no in (spec(rollout_end=3), spec(replayed=(7,)), RowSpec(SamplingParams(), PolicyConfig("fixed"))):
        assert Row.of(no).reply.clarifying_text(TEXT) == ()


def test_rows_move_and_swap() -> None:
    table = RowTable()
    for index, key in enumerate("abc"):
        table.join(index, spec(key))
    table.join(3, None)
    table.leave(1)
    table.move(2, 1, swap=False)
    table.move(0, 3, swap=True)
    keys = [None if row is None else row.spec.key for row in table.at(range(4))]
    assert keys == [None, "c", None, "a"]
    table.move(3, 1, swap=True)
    assert [row and row.spec.key for row in table.at((1, 3))] == ["a", "c"]


def test_a_row_whose_place_another_takes_goes_on_later() -> None:
    """V1 tells of a row that waits, and whose place the last row takes, by the move alone."""
    table = RowTable()
    for index, key in enumerate("ab"):
        table.join(index, spec(key))
    (first,) = table.at([0])
    table.move(1, 0, swap=False)
    assert len(table) == 1
    table.join(1, spec("a"))
    assert table.at([1]) == [first]


def test_a_row_knows_what_is_penalised_and_banned() -> None:
    """From its specification, its own tokens, and again where vLLM says its tokens anew."""
    asked = SamplingParams(
        repetition_penalty=1.5, bad_words=((8, 9, 3),), min_tokens=4, stop_token_ids=(2,), seed=1
    )
    begun = RowSpec(asked, PolicyConfig(), "a", start=2, newest=(7, 8), seen=(1, 7), output=(7, 8))
    row = Row.of(begun)
    row.drew(0, 9, ())
    row.settle(1, Bytes())  # type: ignore[arg-type]
    learned = Row.of(begun, output=[9])
    learned.settle(1, Bytes())  # type: ignore[arg-type]
    for one in (row, learned):
        adjustments = one.reply.adjustments
        assert adjustments is not None
        assert adjustments.length == one.reply.length == 3
        assert adjustments.banned() == {2, 3}
        ids, counts = adjustments.seen
        assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == {1: 0, 7: 1, 8: 1, 9: 1}
    assert Row.of(RowSpec(asked, PolicyConfig(), "a", replayed=(5,))).reply.adjustments is None


@pytest.mark.parametrize("key", ["a", None])
def test_a_row_that_waited_goes_on(key: str | None) -> None:
    table = RowTable()
    table.join(0, spec(key))
    (row,) = table.at([0])
    assert row is not None
    row.reply.clarify_used = 1
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
    assert other.reply.clarify_used == 0
    assert again.reply.clarify_used == (1 if key else 0)


def test_a_row_that_comes_back_elsewhere_without_having_left_goes_on() -> None:
    """V2 preempts two rows, says so to nobody, and gives the first of them the slot of the second."""
    table = RowTable()
    specs = spec("a", replayed=(5, 6)), spec("b")
    for index, one in enumerate(specs):
        table.join(index, one)
    rows = table.at([0, 1])
    first = rows[0]
    assert first is not None
    first.drew(0, 5, ())
    first.settle(1, Bytes())  # type: ignore[arg-type]
    table.join(1, specs[0])
    table.join(0, specs[1])
    assert table.at([1, 0]) == rows
    assert list(first.reply.pending) == [6]
    assert len(table) == 2


def test_a_replayed_row_that_waited_goes_on_behind_its_tokens() -> None:
    """Nothing of it is kept: its specification and the number of its tokens say what comes next."""
    table = RowTable()
    replayed = spec("a", replayed=(5, 6, 7, 8))
    table.join(0, replayed, [])
    table.leave(0)
    table.join(1, replayed, [5, 6])
    (row,) = table.at([1])
    assert row is not None
    row.settle(2, Bytes())  # type: ignore[arg-type]
    assert list(row.reply.pending) == [7, 8]
    assert row.reply.length == 2


def test_a_plain_row_that_waited_goes_on_behind_its_tokens() -> None:
    """A row without a key is not known again; its position is the number of its tokens all the same."""
    table = RowTable()
    table.join(0, spec(None))
    table.leave(0)
    table.join(1, spec(None), [5, 6, 7])
    (row,) = table.at([1])
    assert row is not None
    row.settle(3, Bytes())  # type: ignore[arg-type]
    assert (row.reply.length, row.reply.clarifying_text(TEXT)) == (3, (17, 18))


def surprisals(table: RowTable, index: int) -> list[float]:
    (row,) = table.at([index])
    assert row is not None
    assert row.surprisals is not None
    return row.surprisals.read().tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("replayed", [(), (5, 6)])
def test_a_row_that_waited_keeps_its_surprisals(replayed: tuple[int, ...]) -> None:
    """Whichever blocks its keys get, its numbers are its own; of other rows nothing is told."""
    table = RowTable()
    asked = spec("a", replayed=replayed, known=(0.0,), prompt_tokens=2)
    table.join(0, asked)
    table.join(1, spec("b"))
    for index in (0, 1, 7):
        table.tell_prompt(index, torch.tensor([-math.log(4.0)]))
    (row, other) = table.at([0, 1])
    assert row is not None
    assert other is not None
    assert other.surprisals is None
    # what vLLM threw away leaves no trace; a token of a grammar's only choice is known to cost nothing
    for taken, token, bits in ((0, 5, 9.0), (0, 5, 1.5), (1, 6, 0.0)):
        row.settle(taken, Bytes())  # type: ignore[arg-type]
        row.drew(taken, token, (), bits, only_choice=bits == 0.0)
    row.settle(2, Bytes())  # type: ignore[arg-type]
    assert surprisals(table, 0) == [0.0, 2.0, 1.5, 0.0]
    assert (row.reply.tokens, row.reply.surprisal) == (1, 1.5)
    table.leave(0)
    table.join(3, asked, [5, 6])
    assert surprisals(table, 3) == [0.0, 2.0, 1.5, 0.0]


def test_surprisals_of_rows_that_are_gone_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first; a row that comes back without has none that are known, not zeros."""
    monkeypatch.setattr(rows, "_PARKED_SURPRISALS", 1000)
    table = RowTable()
    specs = [spec(key, known=(0.0, 3.0), prompt_tokens=150) for key in "abc"]
    for one in specs:
        table.join(0, one)
    table.leave(0)
    for index, one in enumerate(specs):
        table.join(index, one, [5])
        (row,) = table.at([index])
        assert row is not None
        row.settle(1, Bytes())  # type: ignore[arg-type]
        assert len(surprisals(table, index)) == 151
    assert surprisals(table, 0) == [0.0, 3.0, *[UNKNOWN] * 149]


class Output(list[int]):
    """vLLM's list of a request's tokens; unlike a plain list it can be watched."""


def held_tokens(root: object) -> int:
    """Counts the numbers in all lists, tuples and deques that an object holds on to."""
    seen: set[int] = set()
    waiting, tokens = [root], 0
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, type | ModuleType):
            continue
        seen.add(id(found))
        if isinstance(found, list | tuple | deque):
            tokens += sum(isinstance(value, int) for value in found)
        waiting += gc.get_referents(found)
    return tokens


@pytest.mark.parametrize("replays", [False, True])
def test_rows_that_ended_hold_no_tokens(replays: bool) -> None:
    """5,000 requests of 500 tokens came and went: 2.5 million tokens, of which none is held."""
    table, outputs = RowTable(), []
    for number in range(5000):
        output = Output(range(500))
        outputs.append(weakref.ref(output))
        given = tuple(range(1000, 1500)) if replays and number % 10 == 0 else ()
        table.join(number % 16, spec(f"row-{number}", replayed=given), output)
        (row,) = table.at([number % 16])
        assert row is not None
        row.settle(499, Bytes())  # type: ignore[arg-type]
        row.drew(499, 7, ())
    for index in range(16):
        table.leave(index)
    del output, row
    assert sum(output() is not None for output in outputs) == 0
    assert held_tokens(table) < 50_000


class Letters:
    """A token for each byte of ASCII; 128 ends a reply."""

    reply_format = ReplyFormat(lambda ids: "")

    def token_bytes(self, token_id: int) -> bytes | None:
        return bytes([token_id]) if token_id < 128 else None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return "<end>"


def allowed(row: Row, grammars: RowGrammars) -> str:
    masks = grammars.masks([row.follow(grammars)])
    assert masks is not None
    return "".join(chr(i) for i in range(128) if masks.words[0][i // 32] >> (i % 32) & 1)


def test_a_row_follows_its_grammar() -> None:
    tokenizer: Any = Letters()
    grammars = RowGrammars(tokenizer, 129)
    asked = GrammarSpec(Grammar("regex", "a(bx|cy|dz)"), (128,), (ord("a"),))
    row = Row.of(spec(start=1, grammar=asked))
    assert allowed(row, grammars) == "bcd"
    row.drew(0, ord("c"), ())
    # thrown away: the prompt was not finished
    row.settle(0, tokenizer)
    assert allowed(row, grammars) == "bcd"
    row.drew(0, ord("c"), ())
    row.settle(1, tokenizer)
    assert allowed(row, grammars) == "y"
    # vLLM may run a step more behind the end
    row.drew(1, ord("y"), ())
    row.settle(2, tokenizer)
    assert allowed(row, grammars) == ""
    assert row.reply.error is None
    assert Row.of(spec()).follow(grammars) is None


def test_a_row_that_was_not_parked_learns_its_grammar_again() -> None:
    tokenizer: Any = Letters()
    grammars = RowGrammars(tokenizer, 129)
    asked = GrammarSpec(Grammar("regex", "a(bx|cy|dz)"), (128,))
    row = Row.of(spec(grammar=asked), output=[ord("a"), ord("d")])
    row.settle(2, tokenizer)
    assert allowed(row, grammars) == "z"
    # under V2 the tokens are not known: the server checks what comes
    lost = Row.of(spec(grammar=asked))
    lost.settle(2, tokenizer)
    assert len(allowed(lost, grammars)) == 128
    assert "not known" in (lost.reply.error or "")
    broken = Row.of(spec(grammar=GrammarSpec(Grammar("regex", "("), (128,))))
    assert len(allowed(broken, grammars)) == 128
