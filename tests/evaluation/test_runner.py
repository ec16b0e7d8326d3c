"""The runner: bodies, what is missing, refusals, failures, concurrency."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from entropick_eval import targets
from entropick_eval.arms import Arm, choose_arms
from entropick_eval.replies import read_reply
from entropick_eval.runner import Job, Plan, Runner, StoppedError, request_body, seed_of, to_result
from entropick_eval.store import Store
from entropick_sampler.reply_scores import rauq

from .support import Server, completion, item, refusal

GREEDY = Arm("greedy", {"temperature": 0.0})
FIXED = Arm("fixed", {"temperature": 0.7, "entropick": {"policy": "fixed"}})


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total


async def run(server: Server, folder: Path, samples: Any, items: Any, **options: Any) -> Runner:
    store = Store(folder, "m")
    store.load(arm for arm, _ in samples)
    runner = Runner(server.target(**options), store, Plan())
    await runner.run(items, samples, quiet)
    store.fold()
    return runner


# -- bodies --------------------------------------------------------------------------------------------


def test_the_body_for_our_server() -> None:
    one = item(1, max_tokens=9, stop=["\n"])
    body = request_body(Job(FIXED, one, 2), Plan(), True)
    assert body == {
        "messages": [{"role": "user", "content": "q1"}],
        "max_tokens": 9,
        "seed": seed_of(one, FIXED, 2),
        "stop": ["\n"],
        "temperature": 0.7,
        "entropick": {"policy": "fixed", "telemetry": "tokens", "answer": "first_sentence"},
    }
    assert request_body(Job(GREEDY, one, 0), Plan(keep="none"), True)["entropick"] == {"telemetry": "none"}


def test_all_signals_come_with_the_heads() -> None:
    arm, one = Arm("greedy", {"temperature": 0.0}), item(1)
    assert request_body(Job(arm, one, 0), Plan(keep="all"), True)["entropick"]["telemetry"] == "full"
    surprisals, attention = (0.5, 2.0, 1.0), ([[0.9, 0.2]], [[0.4, 0.3]], [[0.1, 0.8]])
    rows = [
        {
            "token": "a",
            "signals": {"surprisal": s, "logits_entropy": 1.0},
            "detail": {"attention_to_previous": heads},
        }
        for s, heads in zip(surprisals, attention, strict=True)
    ]
    told = {"summary": {}, "tokens": rows}
    answer = completion("aaa", 3, entropick=told).json()
    # a token's attention stands in the row behind it, and the last token's in none
    assert read_reply(answer).rauq == pytest.approx(rauq([0.5, 2.0], [[[0.1, 0.8]]]))
    assert to_result(Job(arm, one, 0), read_reply(answer), "c", 0.0, "all").features["rauq"] > 0
    for broken in ([[None, 0.8]], None):
        rows[2]["detail"] = {"attention_to_previous": broken} if broken else None
        assert read_reply(completion("aaa", 3, entropick=told).json()).rauq is None
    assert read_reply(completion("a", 1, entropick={"tokens": rows[:1]}).json()).rauq is None
    assert read_reply(completion("a", 1).json()).rauq is None


def test_the_body_for_another_server() -> None:
    body = request_body(Job(FIXED, item(1), 0), Plan(), False)
    assert "entropick" not in body
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 20, 256)
    assert "logprobs" not in request_body(Job(FIXED, item(1), 0), Plan(keep="none"), False)


def test_an_arm_wins_over_the_item() -> None:
    arm = Arm("short", {"max_tokens": 3, "entropick": {"telemetry": "full"}})
    body = request_body(Job(arm, item(1, max_tokens=9), 0), Plan(), True)
    assert (body["max_tokens"], body["entropick"]) == (3, {"telemetry": "full", "answer": "first_sentence"})


def test_consensus_gets_the_items_extractor() -> None:
    arm = Arm("c", {"entropick": {"consensus": {"k": 3}}})
    given = request_body(Job(arm, item(1, extract={"regex": "x"}), 0), Plan(), True)
    assert given["entropick"]["consensus"] == {"k": 3, "extract": {"regex": "x"}}
    derived = request_body(Job(arm, item(1, answer=5), 0), Plan(), True)
    assert derived["entropick"]["consensus"] == {"k": 3, "extract": "last_number"}
    own = Arm("c", {"entropick": {"consensus": {"extract": "text"}}})
    assert request_body(Job(own, item(1), 0), Plan(), True)["entropick"]["consensus"] == {"extract": "text"}
    open_prompt = request_body(Job(arm, item(1, answer=None), 0), Plan(), True)
    assert open_prompt["entropick"]["consensus"] is False
    assert arm.body == {"entropick": {"consensus": {"k": 3}}}


def test_seeds_differ_by_item_arm_and_sample() -> None:
    seeds = {
        seed_of(item(n), arm, sample) for n in range(5) for arm in (GREEDY, FIXED) for sample in range(5)
    }
    assert len(seeds) == 50
    assert all(0 <= seed < 2**31 for seed in seeds)


# -- answers -------------------------------------------------------------------------------------------


def test_a_reply_of_our_server() -> None:
    rows = [
        {"token": "x", "signals": {"surprisal": 1.0, "logits_entropy": 2.0}},
        {"token": "</s>", "signals": {"logits_entropy": 1.0}},
    ]
    answer = completion("x", 2, entropick={"tokens": rows, "summary": {"error_probability": 0.25}}).json()
    answer["usage"]["completion_tokens_details"] = {"branch_tokens": 5, "consensus_tokens": 11}
    reply = read_reply(answer)
    assert (reply.tokens, reply.spent, reply.error_probability) == (2, 18, 0.25)
    assert reply.signals == {"surprisal": (1.0, None), "logits_entropy": (2.0, 1.0), "offset": (0, 1)}


def test_characters_before_a_token_whose_bytes_are_part_of_one() -> None:
    texts = ["a", r"bytes:\xc3", r"bytes:\xa9", "é", "</s>"]
    rows = [{"token": text, "signals": {"surprisal": 1.0}} for text in texts]
    assert read_reply(completion("aéé", 5, entropick={"tokens": rows}).json()).signals["offset"] == (
        0,
        1,
        1,
        2,
        3,
    )


def test_a_reply_of_another_server_has_entropies_of_its_alternatives() -> None:
    from math import log

    top = [{"token": t, "logprob": log(p)} for t, p in (("a", 0.5), ("b", 0.25))]
    row = {"token": "a", "logprob": log(0.5), "top_logprobs": top}
    reply = read_reply(completion("a", 1, logprobs={"content": [row]}).json())
    assert reply.signals["surprisal"] == pytest.approx((1.0,))
    assert reply.signals["logits_entropy"] == pytest.approx((1.5,))  # 1/2, 1/4 and the rest 1/4
    bare = read_reply(completion("a", 1, logprobs={"content": [{"token": "a", "logprob": -1.0}]}).json())
    assert bare.signals["logits_entropy"] == (None,)


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [{"text": "x"}], "usage": {}}, [], None])
def test_an_answer_that_is_none(answer: Any) -> None:
    from entropick_eval.replies import AnswerError

    with pytest.raises(AnswerError, match="no chat completion"):
        read_reply(answer)


# -- runs ----------------------------------------------------------------------------------------------


async def test_a_second_run_computes_what_is_missing(tmp_path: Path) -> None:
    server = Server(lambda body: completion("yes"))
    first = await run(server, tmp_path, [(GREEDY, 1)], [item(1), item(2)])
    assert (first.outcome.computed, first.outcome.found) == (2, 0)
    second = await run(server, tmp_path, [(GREEDY, 1), (FIXED, 3)], [item(1), item(2), item(3)])
    assert (second.outcome.computed, second.outcome.found) == (1 + 9, 2)
    third = await run(server, tmp_path, [(GREEDY, 1), (FIXED, 3)], [item(1), item(2), item(3)])
    assert (third.outcome.computed, len(server.bodies)) == (0, 12)


async def test_other_code_and_another_question_are_computed_again(tmp_path: Path) -> None:
    server = Server(lambda body: completion("yes"))
    await run(server, tmp_path, [(GREEDY, 1)], [item(1)])
    assert (await run(server, tmp_path, [(GREEDY, 1)], [item(1)], code="new")).outcome.computed == 1
    changed = item(1, prompt="another question")
    assert (await run(server, tmp_path, [(GREEDY, 1)], [changed], code="new")).outcome.computed == 1


async def test_an_open_prompt_gets_one_reply(tmp_path: Path) -> None:
    server = Server(lambda body: completion("once upon a time"))
    outcome = (await run(server, tmp_path, [(FIXED, 5)], [item(1), item(2, answer=None)])).outcome
    assert outcome.computed == 5 + 1


async def test_a_refused_arm_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    def answer(body: Mapping[str, Any]) -> httpx.Response:
        if body["entropick"].get("policy") == "edt":
            return refusal("entropick.policy: no such policy", param="entropick.policy")
        return completion("yes")

    server = Server(answer)
    edt = choose_arms(["edt"], "greedy").requests["edt"]
    outcome = (await run(server, tmp_path, [(edt, 1), (GREEDY, 1)], [item(n) for n in range(50)])).outcome
    assert outcome.refused == {"edt": "400: entropick.policy: no such policy"}
    assert outcome.computed == 50
    assert not outcome.errors
    assert len(server.bodies) <= 50 + 16


@pytest.mark.parametrize("param", ["messages", "messages[0].content", "stop"])
async def test_a_refused_item_is_counted_and_the_arm_goes_on(tmp_path: Path, param: str) -> None:
    def answer(body: Mapping[str, Any]) -> httpx.Response:
        long = body["messages"][0]["content"] == "q1"
        return refusal("too long", param=param, code="context_length_exceeded") if long else completion("yes")

    outcome = (await run(Server(answer), tmp_path, [(GREEDY, 1)], [item(n) for n in range(3)])).outcome
    assert outcome.errors == {("greedy", "400: too long"): 1}
    assert (outcome.computed, outcome.refused) == (2, {})


async def test_a_full_server_is_asked_again(tmp_path: Path) -> None:
    answers = iter([refusal("queue full", 503), refusal("slow down", 429), completion("yes")])
    server = Server(lambda body: next(answers))
    outcome = (await run(server, tmp_path, [(GREEDY, 1)], [item(1)])).outcome
    assert (outcome.computed, len(server.bodies)) == (1, 3)


async def test_failures_are_counted_and_end_a_run_that_gets_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "_TRIES", 1)
    some = Server(
        lambda body: refusal("broken", 500) if body["messages"][0]["content"] == "q1" else completion("y")
    )
    outcome = (await run(some, tmp_path, [(GREEDY, 1)], [item(n) for n in range(4)])).outcome
    assert outcome.errors == {("greedy", "500: broken"): 1}
    assert outcome.computed == 3
    dead = Server(lambda body: refusal("broken", 500))
    with pytest.raises(StoppedError, match="20 requests failed in a row, the last with: 500: broken"):
        await run(dead, tmp_path, [(FIXED, 1)], [item(n) for n in range(100)])
    assert len(dead.bodies) < 60


async def test_another_server_is_not_asked_for_our_policies(tmp_path: Path) -> None:
    server = Server(lambda body: completion("yes"))
    arms = choose_arms(["greedy", "calibrated", "sampling", "consensus"], "greedy")
    outcome = (await run(server, tmp_path, arms.jobs(), [item(1)], ours=False)).outcome
    assert set(outcome.refused) == {"calibrated", "consensus"}
    assert outcome.computed == 2


async def test_concurrency_is_bounded(tmp_path: Path) -> None:
    running = most = 0

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1
        return completion("yes")

    server = Server(lambda body: completion("yes"))
    target = server.target()
    client = httpx.AsyncClient(transport=httpx.MockTransport(handler), base_url="http://server")
    store = Store(tmp_path, "m")
    runner = Runner(targets.Target(client, target.identity), store, Plan(concurrency=3))
    await runner.run([item(n) for n in range(20)], [(GREEDY, 1)], quiet)
    store.close()
    assert most == 3
    assert runner.outcome.computed == 20


async def test_a_cancelled_run_keeps_what_came(tmp_path: Path) -> None:
    server = Server(lambda body: completion("yes"))
    store = Store(tmp_path, "m")
    runner = Runner(server.target(), store, Plan(concurrency=1))
    enough = asyncio.Event()

    def progress(done: int, total: int) -> None:
        if done == 5:
            enough.set()

    task = asyncio.create_task(runner.run([item(n) for n in range(500)], [(GREEDY, 1)], progress))
    await enough.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    kept = runner.outcome.computed
    assert 5 <= kept < 500
    # as after a kill: nothing was folded, the last line may be torn
    store.close()
    with (tmp_path / "m" / "journal.jsonl").open("a") as journal:
        journal.write('{"arm":"a96')
    again = await run(server, tmp_path, [(GREEDY, 1)], [item(n) for n in range(500)])
    assert (again.outcome.found, again.outcome.computed) == (kept, 500 - kept)
