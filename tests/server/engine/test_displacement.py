"""Who gives its place to whom: found in a sorted queue as by looking at every waiting answer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropick_server.engine.embedded import displacement, scheduler
from entropick_server.engine.embedded.displacement import SHORT, displaced
from entropick_server.engine.embedded.ranked import Ranked
from entropick_server.engine.embedded.sequence import Sequence
from entropick_server.engine.embedded.turns import Turns

from .test_turns import Line


def in_order(turns: Turns) -> Iterator[Sequence]:
    """The next sequence of each answer, in the order of turns: all of them sorted anew."""
    if turns.hurried:
        yield turns._first[0]
        return
    for share in sorted(turns._shares.values(), key=lambda share: share.place):
        for line in sorted((line for line in share.lines.values() if line.rows), key=lambda line: line.place):
            yield line.rows[0]


def by_looking_at_all(
    prefilling: Seq[Sequence], decoding: Seq[Sequence], turns: Turns, limit: int | None
) -> tuple[Sequence, Sequence] | None:
    done = [sequence for sequence in decoding if displacement._had_turn(sequence)]
    if not done:
        return None
    newcomers = 2 * len(done) > len(prefilling) + len(decoding)
    by_share: dict[str, Sequence] = {}
    for sequence in done:
        best = by_share.get(sequence.request.share)
        if best is None or displacement._turn(sequence, turns) > displacement._turn(best, turns):
            by_share[sequence.request.share] = sequence
    most = max(by_share.values(), key=lambda sequence: displacement._turn(sequence, turns))
    for waits in in_order(turns):
        if limit is not None and len(waits.tokens) > limit:
            continue
        share, answer = turns.held(waits)
        if turns.held(most)[0] >= share + 2 and most.request.share != waits.request.share:
            return most, waits
        runs = by_share.get(waits.request.share)
        if runs is None:
            continue
        more = turns.held(runs)[1] - answer
        new = newcomers and waits.admitted < 0
        if more >= 2 or (more == 1 and new and 2 * len(waits.tokens) <= max(len(runs.tokens), 2 * SHORT)):
            return runs, waits
    return None


class Compared:
    """Both answers at every step of a scheduler."""

    def __init__(self) -> None:
        self.pairs = self.nobody = self.steps = 0

    def __call__(self, *given: Any) -> tuple[Sequence, Sequence] | None:
        prefilling, decoding, turns, limit = given
        assert list(turns.order()) == list(in_order(turns))
        wanted = by_looking_at_all(*given)
        for other in (limit, None, 40):
            here = prefilling, decoding, turns, other
            assert displaced(*here) == by_looking_at_all(*here)
        self.steps += 1
        self.pairs += wanted is not None
        self.nobody += wanted is None
        return wanted


@pytest.mark.parametrize("seed", range(3))
def test_the_pair_is_the_one_that_a_look_at_all_finds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = Compared()
    monkeypatch.setattr(scheduler, "displaced", compared)
    rng = random.Random(seed)
    line = Line(slots=rng.choice([2, 5, 16]), blocks=rng.choice([90, 2000]), budget=rng.choice([40, 512]))
    for _ in range(45):
        shares = rng.choice([[""], ["a", "b", "c"], [f"key-{i}" for i in range(30)]])
        for _ in range(rng.choice([0, 0, 1, 5])):
            line.ask(
                rng.choice([1, 10, 70, 130, 400, 1000]),
                rng.randint(1, 120),
                prompts=rng.choice([1, 1, 3]),
                choices=rng.choice([1, 1, 4]),
                share=rng.choice(shares),
            )
        for _ in range(rng.randint(1, 8)):
            if not line.scheduler.idle:
                line.step()
    line.finish()
    assert compared.pairs > 5
    assert compared.nobody > 10


def test_a_step_looks_at_few_of_a_long_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(slots=16, blocks=20_000)
    for _ in range(2000):
        line.ask(30, 300)
    looked = 0
    sizes = Sequence.__dict__["tokens"]

    class Counting:
        def __get__(self, sequence: Sequence, owner: Any = None) -> Any:
            nonlocal looked
            looked += 1
            return sizes.__get__(sequence, owner)

        def __set__(self, sequence: Sequence, value: Any) -> None:
            sizes.__set__(sequence, value)

    line.run(20)
    seen = []

    def counted(*given: Any) -> tuple[Sequence, Sequence] | None:
        nonlocal looked
        looked = 0
        monkeypatch.setattr(Sequence, "tokens", Counting())
        pair = displaced(*given)
        monkeypatch.setattr(Sequence, "tokens", sizes)
        seen.append(looked)
        return pair

    monkeypatch.setattr(scheduler, "displaced", counted)
    line.run(200)
    assert len(seen) > 100
    # those that run are looked at some times each; of the 1,984 that wait, some
    assert max(seen) < 300


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3), st.booleans()), max_size=60))
def test_ranked_items_are_sorted(changes: list[tuple[int, int, bool]]) -> None:
    ranked: Ranked[int, tuple[int, int]] = Ranked()
    known: dict[int, tuple[int, int]] = {}
    for item, place, stays in changes:
        if stays:
            known[item] = (place, item)
            ranked.put(item, known[item])
        else:
            known.pop(item, None)
            ranked.remove(item)
        wanted = sorted(known, key=known.__getitem__)
        assert list(ranked) == wanted
        assert len(ranked) == len(known)
        for begin in range(4):
            later = [(known[i], i) for i in wanted if known[i] >= (begin,)]
            assert list(ranked.from_place((begin,))) == later
