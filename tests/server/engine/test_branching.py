"""Branches: what is said is the best of continuations made one by one, whatever else runs."""

from __future__ import annotations

import random
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from entropick_sampler.branch_config import SCORERS, BranchConfig
from entropick_sampler.params import PolicyConfig
from entropick_sampler.strategy import Strategy
from entropick_server.engine import rollout
from entropick_server.engine.embedded.forward import ForwardOutput
from entropick_server.engine.embedded.model_runner import ModelRunner
from entropick_server.engine.types import EngineGauges, FinishReason, Request, Token

from .conftest import Room, same

Make = Callable[..., Request]
Open = Callable[..., Room]

ANYWHERE = frozenset(set(Strategy) - {Strategy.CLARIFY})
PROMPT = tuple(range(13))
QUIET = {"clarify_budget": 0.0}


def policy(overrides: dict[str, float] | None = None, **branch: Any) -> PolicyConfig:
    config = BranchConfig(**{"width": 3, "depth": 4, "on": ANYWHERE, "budget": 16.0, **branch})
    return PolicyConfig(preset="seed", overrides=overrides or QUIET, telemetry="full", branch=config)


def told(room: Room, request: Request) -> list[Token]:
    room.add(request)
    room.finish()
    assert room.core.gauges().blocks_used == 0
    return room.tokens[request.request_id]


def openings(tokens: list[Token]) -> list[tuple[int, int]]:
    """Where branches opened, and which one won."""
    return [(i, [b.chosen for b in t.branches].index(True)) for i, t in enumerate(tokens) if t.branches]


def verdicts(tokens: list[Token]) -> list[list[tuple[tuple[int, ...], bool]]]:
    return [[(b.token_ids, b.chosen) for b in t.branches] for t in tokens]


def continued(room: Room, request: Request, said: list[int], branch: int, depth: int) -> list[Token]:
    """One continuation, alone and without any branch: draws with the numbers of ``branch``."""
    plain = replace(
        request,
        request_id=f"alone-{len(room.tokens)}",
        policy=replace(request.policy, branch=None),
    )
    room.add(plain)
    row = room.row(plain.request_id)
    row.reply.pending = deque(said)
    tokens = room.tokens[plain.request_id]
    while len(tokens) < len(said):
        room.step()
    row.branch = branch
    room.core._sampler._sequences = ()  # its rows are laid out with the number
    while len(tokens) < len(said) + depth and plain.request_id not in room.ends:
        room.step()
    room.core.cancel(plain.request_id)
    room.core.report_between()
    return tokens[len(said) :]


def branch_alone(room: Room, request: Request, said: list[int], branch: int, depth: int) -> list[Token]:
    """What a branch says: its first token is the first of its candidates, whatever the row would keep."""
    if not branch:
        return continued(room, request, said, branch, depth)
    (chosen,) = continued(room, request, said, branch, 1)
    assert chosen.detail is not None
    begun = [*said, chosen.detail.candidates[0].token_id]
    rest = [] if depth == 1 else continued(room, request, begun, branch, depth - 1)
    # the figures of the first token: it is forced upon a request that ends there
    given = replace(request, request_id=f"given-{len(room.tokens)}", replayed_token_ids=tuple(begun))
    first = told(room, given)[-1]
    first = replace(first, strategy=chosen.strategy, parameters=chosen.parameters, forced=False)
    return [first] if first.token_id in request.sampling.stop_token_ids else [first, *rest]


@pytest.mark.parametrize(
    ("candidates", "stops", "on"),
    [
        (1, (), ANYWHERE),
        (4, (), ANYWHERE),
        (1, tuple(range(0, 300, 9)), ANYWHERE),
        (2, (), frozenset({Strategy.HIGH_UNCERTAINTY})),
    ],
)
def test_the_reply_is_made_of_the_best_continuations(
    candidates: int, stops: tuple[int, ...], on: frozenset[Strategy], room: Open, make_request: Make
) -> None:
    here, alone = room(), room()
    # with this cut about half of the model's tokens are highly uncertain, the others adaptive
    cut = {"high_uncertainty_varentropy": 2.6, "n_candidates": float(candidates)}
    branch = policy({**QUIET, **cut}, on=on)
    won, short, unopened = set(), 0, 0
    for seed in range(4):
        request = make_request(PROMPT, policy=branch, seed=seed, max_tokens=22, stop_token_ids=stops)
        got = told(here, request)
        said: list[int] = []
        while len(said) < len(got):
            (first,) = continued(alone, request, said, 0, 1)
            at = got[len(said)]
            if first.strategy not in on:
                assert not at.branches
                same([at], [first])
                said.append(first.token_id)
                unopened += 1
                continue
            depth = min(4, 22 - len(said))
            rows = [branch_alone(alone, request, said, b, depth) for b in range(3)]
            means = [statistics.fmean(t.logprob for t in row) for row in rows]
            assert [b.token_ids for b in at.branches] == [tuple(t.token_id for t in row) for row in rows]
            assert [b.score for b in at.branches] == pytest.approx(means, abs=1e-4)
            best = means.index(max(means))
            assert [b.chosen for b in at.branches] == [b == best for b in range(3)]
            winner = rows[best]
            committed = got[len(said) : len(said) + len(winner)]
            drawn = committed[0].parameters.n_candidates
            assert drawn == (candidates if not best and first.strategy is Strategy.ADAPTIVE else 1)
            assert committed[0].detail is not None
            assert len(committed[0].detail.candidates) == drawn
            same(committed, winner)
            said += [t.token_id for t in winner]
            won.add(best)
            short += any(len(row) < depth for row in rows)
        assert said == [t.token_id for t in got]
        ended = FinishReason.STOP if got[-1].token_id in stops else FinishReason.LENGTH
        assert here.ends[request.request_id] is ended
        assert ended is FinishReason.STOP or len(got) == 22
    assert won == {0, 1, 2}
    assert bool(short) == bool(stops), "branches ended early where they could"
    assert bool(unopened) == (on != ANYWHERE)


def test_the_first_branch_is_the_text_without_branches(
    room: Open, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "select", lambda scored: 0)
    for candidates in (1, 4):
        branch = policy({**QUIET, "n_candidates": float(candidates)}, width=4, depth=5)
        request = make_request(PROMPT, policy=branch, seed=3, max_tokens=31)
        got = told(room(), request)
        assert [i for i, _ in openings(got)] == [0, 5, 10, 15, 20, 25, 30]
        plain = replace(request, policy=replace(branch, branch=None))
        same(got, told(room(), plain))


def test_each_scorer_says_something_else(room: Open, make_request: Make) -> None:
    texts = set()
    for scorer in SCORERS:
        here = room()
        request = make_request(PROMPT, policy=policy(scorer=scorer, width=5, depth=6), seed=9, max_tokens=60)
        tokens = told(here, request)
        texts.add(tuple(t.token_id for t in tokens))
        assert any(best for _, best in openings(tokens))
        for token in tokens:
            scores = [b.score for b in token.branches if not b.chosen]
            assert all(s <= next(b.score for b in token.branches if b.chosen) for s in scores)
    assert len(texts) >= 6


@pytest.mark.parametrize("budget", [0.0, 0.3, 1.0])
def test_the_budget_holds(budget: float, room: Open, make_request: Make) -> None:
    here = room()
    request = make_request(PROMPT, policy=policy(budget=budget), seed=1, max_tokens=50)
    here.add(request)
    slots, verdicts, outputs = set(), [], []
    while not here.core.idle:
        report = here.step()
        verdicts += report.verdicts
        outputs += report.outputs
        slots |= {
            s for s, o in zip(report.slots, report.outputs, strict=True) if o.tokens and not o.finish_reason
        }
    tokens = here.tokens[request.request_id]
    records = [b for t in tokens for b in t.branches if not b.chosen]
    counted = sum(len(b.token_ids) for b in records)
    # an opening costs 2 losers of 4 tokens at most
    assert 50 * budget - 8 < counted <= 50 * budget
    assert counted == outputs[-1].branch_tokens == sum(v.tokens for v in verdicts)
    assert [best for _, best in openings(tokens)] == [v.kept for v in verdicts]
    assert len(tokens) == 50
    assert len(slots) == 1, "a request keeps its place whichever branch it goes on as"
    if not budget:
        plain = replace(request, policy=replace(request.policy, branch=None))
        same(tokens, told(room(), plain))


def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float | None, float, bool]]:
    """Entropy, runner-up's share and outcome of every question whether a token is in doubt."""
    asked: list[tuple[float | None, float, bool]] = []
    real = rollout.in_doubt

    def noted(config: BranchConfig, entropy: float | None, share: float) -> bool:
        asked.append((entropy, share, real(config, entropy, share)))
        return asked[-1][2]

    monkeypatch.setattr(rollout, "in_doubt", noted)
    return asked


def test_limits_keep_branches_to_doubtful_tokens(
    room: Open, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Branches open at the tokens that pass; where none does the text is the text without branches."""
    asked = spied(monkeypatch)
    opened = []
    for limits in ({}, {"min_entropy": 7.0}, {"min_runner_up": 0.9}, {"min_entropy": 64.0}):
        asked.clear()
        request = make_request(PROMPT, policy=policy(**limits), seed=6, max_tokens=50)
        tokens = told(room(), request)
        passed = [one for one in asked if one[2]]
        assert len(openings(tokens)) == len(passed)
        if "min_runner_up" in limits:
            assert all(len({b.token_ids[0] for b in t.branches}) > 1 for t in tokens if t.branches)
        assert all((h or 0) >= limits.get("min_entropy", 0) for h, _, _ in passed)
        assert all(share >= limits.get("min_runner_up", 0) for _, share, _ in passed)
        opened.append(len(passed))
        if limits:
            assert len(asked) > len(passed), "a limit that kept nothing out proves nothing"
    assert opened[0] > opened[1] > 0
    assert opened[0] > opened[2] > 0
    assert opened[3] == 0
    plain = replace(request, policy=replace(request.policy, branch=None))
    same(tokens, told(room(), plain))


def crowd(make: Make, count: int, tokens: int) -> list[Request]:
    branch = policy(width=4, depth=6)
    return [
        make(
            tuple(range(i, i + 9 + 3 * i)),
            policy=branch if i % 4 else replace(branch, branch=None),
            seed=i,
            max_tokens=tokens + i,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("blocks", "rows"), [(400, 64), (400, 3), (18, 16), (11, 2)], ids=["roomy", "slots", "blocks", "both"]
)
def test_a_text_is_the_same_alone_and_in_a_crowd(
    blocks: int, rows: int, room: Open, make_request: Make
) -> None:
    requests = crowd(make_request, 8, 40)
    here = room(blocks, max_num_seqs=rows)
    for request in requests:
        here.add(request)
        here.step()
    here.finish()
    assert here.core.gauges() == EngineGauges(0, 0, 0, here.core.gauges().blocks_total)
    if blocks < 400:
        assert here.preempted
    won = 0
    for request in requests:
        alone = told(room(), request)
        same(here.tokens[request.request_id], alone)
        assert here.ends[request.request_id] is FinishReason.LENGTH
        assert verdicts(here.tokens[request.request_id]) == verdicts(alone)
        won += sum(best > 0 for _, best in openings(alone))
    assert won > 10


@pytest.mark.parametrize("seed", [1, 6, 18, 20])
def test_requests_of_all_kinds_under_pressure(seed: int, room: Open, make_request: Make) -> None:
    rng = random.Random(seed)
    clarify = {"clarify_varentropy": 2.4, "clarify_budget": 4.0, "clarify_cooldown": 50.0}
    several: list[Request] = []
    for _ in range(8):
        branch = policy(
            rng.choice([QUIET, clarify, {**QUIET, "n_candidates": 3.0}]),
            width=rng.randint(2, 6),
            depth=rng.randint(1, 14),
            budget=rng.choice([1.0, 4.0]),
            scorer=rng.choice(SCORERS),
        )
        prompt = tuple(rng.randrange(256) for _ in range(rng.randint(1, 30)))
        tokens, ends = rng.randint(30, 64), tuple(rng.sample(range(300), rng.choice([0, 4])))
        several.append(
            make_request(
                prompt, policy=branch, seed=rng.randrange(99), max_tokens=tokens, stop_token_ids=ends
            )
        )
    here = room(rng.randint(12, 16), max_num_seqs=rng.randint(4, 12))
    for request in several:
        here.add(request)
    gone = several[rng.randrange(4)].request_id
    leaves = rng.randint(5, 60)
    while not here.core.idle:
        here.step()
        leaves -= 1
        if not leaves:
            here.core.cancel(gone)
    assert here.core.gauges() == EngineGauges(0, 0, 0, here.core.gauges().blocks_total)
    assert len(here.preempted) > 3
    opened = 0
    for request in several:
        if request.request_id != gone:
            alone = told(room(), request)
            same(here.tokens[request.request_id], alone)
            assert verdicts(here.tokens[request.request_id]) == verdicts(alone)
            opened += len(openings(alone))
    assert opened > 10


def test_a_request_with_branches_is_preempted_and_goes_on(room: Open, make_request: Make) -> None:
    request = make_request(PROMPT, policy=policy(width=8, depth=16), seed=4, max_tokens=64)
    small = room(11)
    got = told(small, request)
    assert request.request_id in small.preempted
    same(got, told(room(), request))
    assert any(best for _, best in openings(got))


def test_cancelling_in_the_middle_frees_every_branch(room: Open, make_request: Make) -> None:
    for rows in (16, 2):
        here = room(max_num_seqs=rows)
        request = make_request(PROMPT, policy=policy(width=5, depth=20), max_tokens=90)
        other = make_request(PROMPT, policy=policy(width=2), seed=5, max_tokens=30)
        here.add(request)
        for _ in range(6):
            here.step()
        load = here.core.gauges()
        assert (load.running + load.waiting) == 5
        assert here.tokens[request.request_id] == []
        here.core.cancel(request.request_id)
        assert here.core.gauges().blocks_used == 0
        assert here.core.idle
        here.core.report_between()
        same(told(here, other), told(room(), other))


def test_no_clarifying_text_begins_in_a_rollout(room: Open, make_request: Make) -> None:
    overrides = {
        "clarify_varentropy": 2.4,
        "clarify_budget": 16.0,
        "clarify_cooldown": 50.0,
    }
    request = make_request(PROMPT, policy=policy(overrides, depth=5), seed=5, max_tokens=200)
    tokens = told(room(), request)
    opened = [i for i, _ in openings(tokens)]
    inserted = [i for i, t in enumerate(tokens) if t.forced]
    assert inserted
    assert len(opened) > 1
    assert not set(inserted) & {i + k for i in opened for k in range(5)}


@pytest.mark.parametrize("whose", ["branch", "parent"])
def test_bad_logits_in_a_rollout(
    whose: str, room: Open, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = ModelRunner.forward

    def poisoned(self: ModelRunner, batch: Any) -> ForwardOutput | None:
        measured = forward(self, batch)
        for i, row in enumerate(measured.sequences if measured else ()):
            if row.reply.length == 2 and row.branch == (2 if whose == "branch" else 0):
                measured.logits[i, 5] = float("nan")  # type: ignore[union-attr]
        return measured

    monkeypatch.setattr(ModelRunner, "forward", poisoned)
    here = room()
    request = make_request(PROMPT, policy=policy(), seed=2, max_tokens=12)
    tokens = told(here, request)
    if whose == "branch":
        assert [len(t.branches) for t in tokens if t.branches] == [2, 3, 3]
        assert len(tokens) == 12
        assert here.ends[request.request_id] is FinishReason.LENGTH
    else:
        assert here.ends[request.request_id] is FinishReason.ERROR
        assert tokens == []


def test_what_has_no_strategy_does_not_branch(room: Open, make_request: Make) -> None:
    for changes in ({"temperature": 0.0}, {"policy": replace(policy(), policy="fixed")}):
        request = make_request(PROMPT, **{"policy": policy(), "max_tokens": 9, **changes})
        assert openings(told(room(), request)) == []
    forced = make_request(PROMPT, forced=tuple(range(40, 50)), policy=policy())
    assert openings(told(room(), forced)) == []
