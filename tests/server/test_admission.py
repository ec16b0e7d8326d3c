"""Admission: what waits, what runs, and the 503 for one prompt more, before anything is tokenised."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from entropick_server.admission import Admission, AdmittedPrompt
from entropick_server.protocol.errors import ApiError

from .support import Client, Watched, until

PLAIN = "/v1/completions"


def body(letter: str) -> dict[str, Any]:
    """A prompt that is long enough to be tokenised beside the event loop."""
    return {"prompt": letter * 3000, "max_tokens": 3}


def full(admission: Admission) -> bool:
    try:
        (place,) = admission.admit(1, 1)
    except ApiError:
        return True
    place.leave()
    return False


def test_the_refusal() -> None:
    admission = Admission(slots=1, max_queue=3)
    admission.admit(1, 2)
    with pytest.raises(ApiError) as refused:
        admission.admit(3, 1)
    assert refused.value.message == (
        "the queue is full: 2 replies wait or run, this request asks for 3, at most 4 are taken "
        "(max_num_seqs 1 + max_queue 3); try again later"
    )
    assert (refused.value.status, refused.value.code) == (503, "queue_full")
    assert refused.value.headers == {"Retry-After": "1"}


def test_a_request_that_could_never_be_taken_is_told_so() -> None:
    admission = Admission(slots=2, max_queue=6)
    admission.admit(1, 1)
    with pytest.raises(ApiError) as refused:
        admission.admit(3, 3, param="prompt")
    assert (refused.value.status, refused.value.param) == (400, "prompt")
    assert refused.value.message == (
        "prompt: 3 prompts of 3 replies each are 9 replies; at most 8 in one request "
        "(max_num_seqs 2 + max_queue 6)."
    )
    assert admission.replies == 1


def test_when_to_come_back_is_estimated_from_the_pace() -> None:
    now = 0.0
    admission = Admission(slots=2, max_queue=2, clock=lambda: now)
    (place,) = admission.admit(1, 4, held=True)

    def retry_after(replies: int) -> int:
        with pytest.raises(ApiError) as refused:
            admission.admit(1, replies)
        assert refused.value.status == 503
        return int(refused.value.headers["Retry-After"])

    assert retry_after(1) == 1, "nothing is known yet"
    for _ in range(6):
        now += 3.0
        place.begin()
        place.end()
        place.add_waiting()
    assert retry_after(1) == 3
    assert retry_after(4) == 10
    now += 1000.0
    assert retry_after(4) == 60


def test_slots_and_the_queue_behind_them() -> None:
    admission = Admission(slots=2, max_queue=1)
    places = [admission.admit(1, 1)[0] for _ in range(3)]
    assert full(admission)
    places[0].begin()
    assert full(admission), "it has a slot now, and the others are where they were"
    places[0].end()
    assert not full(admission)
    places[1].leave()
    places[1].leave()
    assert (admission.prompts, admission.replies) == (1, 1)


def test_a_held_prompt_stays_between_its_replies() -> None:
    admission = Admission(slots=2, max_queue=0)
    (held,) = admission.admit(1, 1, held=True)
    held.begin()
    held.end()
    assert (admission.prompts, admission.replies) == (1, 0)
    assert not full(admission), "it takes no slot meanwhile"
    held.add_waiting()
    held.add_waiting()
    assert full(admission), "two more replies to it take both slots"
    held.begin()
    held.begin()
    held.end()
    held.end()
    held.leave()
    assert (admission.prompts, admission.replies) == (0, 0)


def test_every_choice_counts() -> None:
    admission = Admission(slots=4, max_queue=14)
    first, second = (admission.admit(1, 8)[0] for _ in range(2))
    assert admission.replies == 16
    admission.admit(2, 1)
    assert full(admission)
    for _ in range(4):
        first.begin()
    assert full(admission), "a reply that runs counts as one that waits"
    second.leave()
    assert admission.replies == 10
    admission.admit(1, 8)
    first.end()
    assert not full(admission)
    first.leave()
    first.end()
    assert admission.replies == 10


def test_the_prompts_of_a_request_are_admitted_together_or_not_at_all() -> None:
    admission = Admission(slots=1, max_queue=2)
    (first,) = admission.admit(1, 1)
    with pytest.raises(ApiError):
        admission.admit(3, 1)
    assert admission.prompts == 1
    assert len(admission.admit(2, 1)) == 2
    first.leave()


@pytest.mark.parametrize("seed", range(20))
def test_against_counting(seed: int) -> None:
    """Random lives of single choices: there is room exactly while slots and queue hold fewer than all."""
    rng = random.Random(seed)
    slots, max_queue = rng.randint(1, 4), rng.randint(0, 3)
    admission = Admission(slots, max_queue)
    waiting: list[AdmittedPrompt] = []
    running: list[AdmittedPrompt] = []
    for _ in range(200):
        match rng.randrange(4):
            case 0 | 1:
                room = len(waiting) + len(running) < slots + max_queue
                assert full(admission) != room
                if room:
                    waiting += admission.admit(1, 1)
            case 2 if waiting and len(running) < slots:
                place = waiting.pop(0)
                place.begin()
                running.append(place)
            case 3 if running or waiting:
                group = running if running and rng.random() < 0.7 else waiting or running
                place = group.pop(rng.randrange(len(group)))
                if group is running:
                    place.end()
                else:
                    place.leave()
        assert admission.prompts == admission.replies == len(waiting) + len(running)


async def test_a_prompt_waits_while_it_is_tokenised(engine: Any, watched: Watched, serve: Any) -> None:
    async with serve(engine, max_num_seqs=1, max_queue=1) as client:
        state = client.app.state.server
        watched.gate.clear()
        first = asyncio.create_task(client.post(PLAIN, json=body("a")))
        second = Client(client.app, body("b"), PLAIN)
        await until(lambda: state.in_flight == 2)
        for prompt in ("c" * 3000, "c", ["c", "c"]):
            for stream in (False, True):
                answer = await client.post(PLAIN, json={"prompt": prompt, "stream": stream})
                assert answer.status_code == 503
                assert answer.json()["error"]["code"] == "queue_full"
                assert answer.headers["retry-after"] == "1"
        assert not any("c" in text for text in watched.texts), "refused before it is tokenised"
        second.gone.set()
        await second.task
        assert state.in_flight == 1
        waiting = asyncio.create_task(client.post(PLAIN, json={"prompt": "d"}))
        watched.gate.set()
        assert (await first).status_code == (await waiting).status_code == 200
        assert state.in_flight == 0


async def test_a_running_choice_holds_its_slot_until_it_ends(engine: Any, serve: Any) -> None:
    async with serve(engine, max_num_seqs=5, max_queue=0) as client:
        state = client.app.state.server
        engine.delay = 0.01
        stream = Client(client.app, {"prompt": "a", "n": 5, "stream": True}, PLAIN)
        await stream.arrived.wait()
        assert (await client.post(PLAIN, json={"prompt": "b"})).status_code == 503
        stream.gone.set()
        await stream.task
        assert state.in_flight == 0
        engine.delay = 0
        for fields in ({"n": 5}, {"n": 2, "best_of": 4}, {"stream": True, "n": 3}):
            assert (await client.post(PLAIN, json={"prompt": "b", **fields})).status_code == 200
            assert state.in_flight == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_request_waits_no_more(engine: Any, serve: Any, stream: bool) -> None:
    async with serve(engine, max_num_seqs=1, max_queue=1) as client:
        for fields in ({"max_tokens": 10**6}, {"stop_token_ids": [10**6]}):
            refused = await client.post(PLAIN, json={"prompt": ["a", "b"], "stream": stream, **fields})
            assert refused.status_code == 400
        engine.fail_after = 0
        for _ in range(3):
            failed = await client.post(PLAIN, json={"prompt": ["a", "b"], "stream": stream})
            assert failed.status_code == 500
        assert client.app.state.server.in_flight == 0
