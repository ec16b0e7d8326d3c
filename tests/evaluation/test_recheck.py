"""Results computed again: a random part, a budget of tokens, and older results that are taken over or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from entropick_eval.arms import Arm
from entropick_eval.recheck import choose, restamp, restamped_line, stored, within
from entropick_eval.runner import Plan, Runner
from entropick_eval.store import Store
from entropick_eval.tasks import Item

from .support import Server, completion, item

GREEDY = Arm("greedy", {"temperature": 0.0})
WARM = Arm("warm", {"temperature": 0.7, "entropick": {"policy": "fixed"}})
ITEMS = [item(number) for number in range(30)]


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total


def echo(body: Mapping[str, Any]) -> httpx.Response:
    return completion(f"{body['messages'][0]['content']} {body['seed'] % 7}", 4 + body["seed"] % 3)


def other_when_warm(body: Mapping[str, Any]) -> httpx.Response:
    return completion("new words", 4) if body["temperature"] else echo(body)


async def filled(folder: Path, items: list[Item] = ITEMS) -> Store:
    store = Store(folder, "m")
    store.load([GREEDY, WARM])
    runner = Runner(Server(echo).target(code="old"), store, Plan())
    await runner.run(items, [(GREEDY, 1), (WARM, 3)], quiet)
    store.fold()
    return store


async def again(folder: Path, answer: Any, share: float = 0.1, items: list[Item] = ITEMS) -> Any:
    store = Store(folder, "m")
    store.load([GREEDY, WARM])
    target = Server(answer).target(code="new")
    return store, target, await restamp(items, [GREEDY, WARM], store, target, Plan(), share, 1, quiet)


def count(folder: Path, code: str) -> dict[str, int]:
    store = Store(folder, "m")
    store.load([GREEDY, WARM])
    target = Server(echo).target(code=code)
    return {
        arm.name: len(
            list(stored(ITEMS, [arm], store, lambda arm: target.identity.code_of(arm.reads_profile)))
        )
        for arm in (GREEDY, WARM)
    }


async def test_equal_results_are_taken_over_with_a_record(tmp_path: Path) -> None:
    await filled(tmp_path)
    store, target, outcome = await again(tmp_path, echo)
    assert [(one.arm, one.of, len(one.again), one.equal) for one in outcome] == [
        ("greedy", 30, 5, True),  # 3 are a tenth; 5 is the least
        ("warm", 90, 9, True),
    ]
    assert restamped_line(outcome[1]) == "stamped: warm: 9 of 90 computed again, all equal"
    (stamp,) = store.stamps(WARM)
    assert (stamp.again, stamp.of, stamp.to) == (9, 90, target.identity.code_of(False))
    assert len(stamp.codes) == 1
    assert stamp.codes[0] != stamp.to
    assert count(tmp_path, "new") == {"greedy": 30, "warm": 90}
    assert count(tmp_path, "old") == {"greedy": 0, "warm": 0}
    _, _, nothing = await again(tmp_path, echo)
    assert nothing == []


async def test_one_arm_that_changed_is_left_stale(tmp_path: Path) -> None:
    await filled(tmp_path)
    store, _, outcome = await again(tmp_path, other_when_warm)
    greedy, warm = outcome
    assert greedy.equal
    assert not warm.equal
    assert restamped_line(warm) == "changed: warm: 9 of 90 computed again, 9 differ; left stale"
    assert store.stamps(WARM) == ()
    assert count(tmp_path, "new") == {"greedy": 30, "warm": 0}
    assert count(tmp_path, "old") == {"greedy": 0, "warm": 90}


@pytest.mark.parametrize(("more", "equal"), [(0.0, True), (0.01, True), (0.03, False)])
async def test_figures_are_equal_to_their_last_digit(tmp_path: Path, more: float, equal: bool) -> None:
    def rows(added: float) -> Any:
        row = {"token": "x", "signals": {"surprisal": 0.5 + added, "logits_entropy": 1.0}}
        return lambda body: completion("xx", 2, entropick={"tokens": [row, row]})

    store = Store(tmp_path, "m")
    await Runner(Server(rows(0)).target(code="old"), store, Plan()).run(ITEMS[:6], [(GREEDY, 1)], quiet)
    store.fold()
    _, _, (greedy,) = await again(tmp_path, rows(more))
    assert all(one.same_text for one in greedy.again)
    assert greedy.equal is equal


async def test_other_coefficients_change_no_result(tmp_path: Path) -> None:
    def told(p: float, surprisal: float) -> Any:
        row = {"token": "x", "signals": {"surprisal": surprisal, "logits_entropy": 1.0}}
        block = {"tokens": [row, row], "summary": {"error_probability": p}}
        return lambda body: completion("xx", 2, entropick=block)

    store = Store(tmp_path, "m")
    runner = Runner(Server(told(0.2, 0.5)).target(code="old"), store, Plan())
    await runner.run(ITEMS[:6], [(GREEDY, 1)], quiet)
    assert {result.features["error_probability"] for result in store.results(GREEDY)} == {0.2}
    store.fold()
    _, _, (other,) = await again(tmp_path, told(0.9, 0.8))
    assert not other.equal
    _, _, (greedy,) = await again(tmp_path, told(0.9, 0.5))
    assert greedy.equal


async def test_a_refusal_is_no_equality(tmp_path: Path) -> None:
    await filled(tmp_path)
    _, _, outcome = await again(tmp_path, lambda body: httpx.Response(400, json={"error": "no"}))
    assert not any(one.equal for one in outcome)
    assert count(tmp_path, "new") == {"greedy": 0, "warm": 0}


async def test_only_the_items_at_hand_are_stamped(tmp_path: Path) -> None:
    await filled(tmp_path)
    await again(tmp_path, echo, items=ITEMS[:10])
    assert count(tmp_path, "new") == {"greedy": 10, "warm": 30}
    assert count(tmp_path, "old") == {"greedy": 20, "warm": 60}


async def test_a_budget_of_tokens(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    pool = list(stored(ITEMS, [GREEDY, WARM], store, lambda _: None))
    assert len(pool) == 120
    order = choose(pool, 1, 5)
    assert order != pool
    assert choose(pool, 1, 5) == order
    assert choose(pool, 1, 6) != order
    part = within(order, 100)
    assert part == order[: len(part)]
    assert sum(result.spent for _, result in part) <= 100
    assert sum(result.spent for _, result in order[: len(part) + 1]) > 100
    assert within(order, 1) == order[:1]
    assert within([], 10) == []
    assert len(choose(pool, 0.02, 0)) == 2


@pytest.mark.parametrize("items", [[item(number, prompt=f"changed {number}") for number in range(30)]])
async def test_results_of_changed_items_are_left_alone(tmp_path: Path, items: list[Item]) -> None:
    await filled(tmp_path)
    _, _, outcome = await again(tmp_path, echo, items=items)
    assert outcome == []
