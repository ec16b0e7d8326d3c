"""Branches that a text or the end of the reply ends, in the embedded engine."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from entropick_server.engine.types import EngineGauges, FinishReason, Request, Token

from .conftest import END, Room, same
from .test_branching import PROMPT, branch_alone, openings, policy, told, verdicts

Make = Callable[..., Request]
Open = Callable[..., Room]

UNTIL = "a"
OTHERS = ("of", *(chr(i) for i in range(33, 97, 3)))
"""stop strings, so that about every tenth token of a random model ends a branch"""


def line_request(
    make: Make, seed: int, max_tokens: int, prompt: tuple[int, ...] = PROMPT, **branch: Any
) -> Request:
    fields = {"until": UNTIL, "depth": None, "budget": 16.0, **branch}
    return make(prompt, policy=policy(**fields), seed=seed, max_tokens=max_tokens, stop=OTHERS)


def ended(tokens: list[Token], texts: tuple[str, ...] = (UNTIL, *OTHERS)) -> list[Token]:
    """A continuation up to the token that completes one of the texts."""
    said = b""
    for count, token in enumerate(tokens, 1):
        said += bytes([token.token_id]) if token.token_id < 256 else b""
        if any(text.encode() in said for text in texts):
            return tokens[:count]
    return tokens


@pytest.mark.parametrize("cap", [None, 6])
def test_the_reply_is_made_of_the_best_continuations(cap: int | None, room: Open, make_request: Make) -> None:
    here, alone = room(), room()
    won, lengths = set(), set()
    for seed in range(2):
        request = line_request(make_request, seed, 30, depth=cap)
        got = told(here, request)
        said: list[int] = []
        while len(said) < len(got):
            at = got[len(said)]
            depth = min(cap or 30, 30 - len(said))
            rows = [ended(branch_alone(alone, request, said, b, depth)) for b in range(3)]
            means = [statistics.fmean(t.logprob for t in row) for row in rows]
            assert [b.token_ids for b in at.branches] == [tuple(t.token_id for t in row) for row in rows]
            assert [b.score for b in at.branches] == pytest.approx(means, abs=1e-4)
            best = [b.chosen for b in at.branches].index(True)
            assert means[best] == pytest.approx(max(means), abs=2e-4)
            same(got[len(said) : len(said) + len(rows[best])], rows[best])
            said += [t.token_id for t in rows[best]]
            won.add(best)
            lengths |= {len(row) for row in rows}
        assert said == [t.token_id for t in got]
        assert here.ends[request.request_id] is FinishReason.LENGTH
    assert len(won) > 1
    assert len(lengths) > 3


def test_branches_to_the_end_open_once(room: Open, make_request: Make) -> None:
    """The winner's end is the reply's; without branches the text is that of branch 0."""
    here = room()
    request = line_request(make_request, 3, 40, until="end")
    request = replace(
        request, sampling=replace(request.sampling, stop=(), stop_token_ids=(END, *range(0, 256, 20)))
    )
    got = told(here, request)
    (opening,) = openings(got)
    assert opening[0] == 0
    records = got[0].branches
    assert len({len(b.token_ids) for b in records}) > 1
    chosen = next(b for b in records if b.chosen)
    assert chosen.token_ids == tuple(t.token_id for t in got)
    plain = replace(request, policy=replace(request.policy, branch=None))
    assert records[0].token_ids == tuple(t.token_id for t in told(room(), plain))
    assert here.ends[request.request_id] is FinishReason.STOP


@pytest.mark.parametrize(
    ("blocks", "rows"), [(400, 64), (400, 3), (18, 16), (11, 2)], ids=["roomy", "slots", "blocks", "both"]
)
def test_a_text_is_the_same_alone_and_in_a_crowd(
    blocks: int, rows: int, room: Open, make_request: Make
) -> None:
    requests = [
        line_request(
            make_request,
            i,
            30 + i,
            tuple(range(i, i + 9 + 3 * i)),
            width=3 + i % 2,
            until="end" if i == 3 else UNTIL,
            scorer=("mean_logprob", "mean_excess")[i % 2],
        )
        for i in range(6)
    ]
    here = room(blocks, max_num_seqs=rows)
    last: dict[str, int] = {}
    for request in requests:
        here.add(request)
    while not here.core.idle:
        for output in here.step().outputs:
            last[output.request_id] = output.branch_tokens
    assert here.core.gauges() == EngineGauges(0, 0, 0, here.core.gauges().blocks_total)
    if blocks < 400:
        assert here.preempted
    for request in requests:
        alone = told(room(), request)
        same(here.tokens[request.request_id], alone)
        assert verdicts(here.tokens[request.request_id]) == verdicts(alone)
        lost = sum(len(b.token_ids) for t in alone for b in t.branches if not b.chosen)
        assert last[request.request_id] == lost > 0


def test_the_budget_holds_what_long_branches_can_cost(room: Open, make_request: Make) -> None:
    """Two losers of at most 20 tokens may cost 40: those that end early leave room for another opening."""
    request = line_request(make_request, 1, 40, depth=20, budget=1.5)
    tokens = told(room(), request)
    spent = 0
    for at, token in enumerate(tokens):
        if token.branches:
            assert spent + 2 * min(20, 40 - at) <= 60
            spent += sum(len(b.token_ids) for b in token.branches if not b.chosen)
    assert 0 < spent <= 60
    assert len(openings(tokens)) > 1
    # without a depth they may cost all that is left: 2 x 30 tokens at token 10, more before
    assert openings(told(room(), line_request(make_request, 1, 40, budget=1.5)))[0][0] == 10


def test_cancelling_while_branches_wait_for_the_verdict(room: Open, make_request: Make) -> None:
    for rows in (16, 2):
        here = room(max_num_seqs=rows)
        request = line_request(make_request, 2, 90, until="end", width=5)
        here.add(request)
        while not any(s.ended is not None or s.reply.rolled_out for s in family(here, request)):
            here.step()
        assert here.tokens[request.request_id] == []
        here.core.cancel(request.request_id)
        assert here.core.gauges().blocks_used == 0
        assert here.core.idle
        here.core.report_between()
        other = line_request(make_request, 5, 30)
        same(told(here, other), told(room(), other))


def family(room: Room, request: Request) -> list[Any]:
    root = room.row(request.request_id)
    return [root, *root.branches] if root.branches else []


def test_a_text_that_never_comes_leaves_the_depth(room: Open, make_request: Make) -> None:
    request = replace(line_request(make_request, 4, 30, depth=5, until="no such line"))
    request = replace(request, sampling=replace(request.sampling, stop=()))
    fixed = replace(request, policy=policy(depth=5))
    assert verdicts(told(room(), request)) == verdicts(told(room(), fixed))
