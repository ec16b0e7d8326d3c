"""A request as a chain of segments: where branches open, which branch wins, which segments are aborted."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.genuineness import reference
from entropick_sampler.params import PolicyConfig
from entropick_sampler.signals import SIGNAL_NAMES
from entropick_sampler.strategy import Strategy
from entropick_server.engine.grammar.compiler import GrammarCompiler
from entropick_server.engine.grammar.spec import Grammar
from entropick_server.engine.reply import Drawn
from entropick_server.engine.reply_format.form import ReplyFormat
from entropick_server.engine.tokens import HeadEntropies
from entropick_server.engine.types import (
    FinishReason,
    PromptToken,
    Request,
    RequestOutput,
    Token,
    TokenParameters,
)
from entropick_server.engine.vllm.chain import Chain, Segment, SegmentToken
from entropick_server.engine.vllm.prompt_figures import prompt_tokens
from entropick_server.engine.vllm.wire import GrammarSpec

STOP = 99
CONTEXT = 100


class Bytes:
    def token_bytes(self, token_id: int) -> bytes | None:
        return b"x"


def token(token_id: int, strategy: Strategy, logprob: float = -1.0) -> Token:
    return Token(
        token_id, logprob, (1.0,) * len(SIGNAL_NAMES), strategy, TokenParameters(1.0, 1.0, 0, 0.0, 1)
    )


class Scripted:
    """A model that counts: the token at position p of branch b is p + 10 b; every third one is a doubt.

    Branch 2 is the most probable one. ``broken``: branches whose second token has bad logits.
    """

    def __init__(self, broken: tuple[int, ...] = (), stops: tuple[int, ...] = ()) -> None:
        self.ran: list[Segment] = []
        self.aborted = 0
        self.broken = broken
        self.stops = stops

    async def run(self, segment: Segment) -> AsyncGenerator[list[SegmentToken], None]:
        self.ran.append(segment)
        spec, done = segment.spec, False
        try:
            for i in range(segment.limit):
                at = spec.start + i
                if spec.stream in self.broken:
                    yield [SegmentToken(Drawn(token(0, Strategy.ADAPTIVE), error="bad logits"))]
                    return
                doubt = at % 3 == 0
                firsts = tuple((at + 10 * b, -1.0, 0.0) for b in (1, 2)) if doubt else ()
                stop = at in self.stops
                done = stop or i == segment.limit - 1
                strategy = Strategy.EXPLORE if doubt else Strategy.GREEDY
                drawn = STOP if stop else at + 10 * spec.stream
                logprob = -0.1 if spec.stream == 2 else -1.0
                yield [SegmentToken(Drawn(token(drawn, strategy, logprob), (), firsts), cached=2)]
                if done:
                    return
        finally:
            self.aborted += not done


class Watched(Scripted):
    """The same with the entropies of 2 x 3 heads, which depend on branch and position alone."""

    async def run(self, segment: Segment) -> AsyncGenerator[list[SegmentToken], None]:
        async with aclosing(super().run(segment)) as stream:
            at = segment.spec.start
            async for (token,) in stream:
                yield [token._replace(heads=HeadEntropies(entropies(segment.spec.stream, at), KEYS + at))]
                at += 1


KEYS = np.array([5, 4], dtype=np.int64)


def entropies(branch: int, at: int) -> Any:
    return np.random.default_rng([branch, at]).random((2, 3)).astype(np.float32) * 3


async def outputs(chain: Chain) -> list[RequestOutput]:
    return [output async for output in chain.run()]


def said(told: list[RequestOutput]) -> list[int]:
    return [t.token_id for output in told for t in output.tokens]


def chained(make_request: Callable[..., Request], model: Scripted, limit: int, **branch: Any) -> Chain:
    config = BranchConfig(width=3, **{"depth": 2, "budget": 16.0, **branch})
    policy = PolicyConfig(branch=config, telemetry="full")
    request = make_request(policy=policy, max_tokens=limit, stop_token_ids=(STOP,))
    return Chain(request, CONTEXT, model, Bytes())  # type: ignore[arg-type]


async def test_without_branches_there_is_one_segment(make_request: Callable[..., Request]) -> None:
    model = Scripted()
    told = await outputs(Chain(make_request(max_tokens=5), CONTEXT, model, Bytes()))  # type: ignore[arg-type]
    assert said(told) == [0, 1, 2, 3, 4]
    assert told[-1].finish_reason is FinishReason.LENGTH
    assert told[-1].cached_tokens == 2
    assert (len(model.ran), model.aborted) == (1, 0)


async def test_the_best_branch_is_kept_and_the_next_segment_stands_behind_it(
    make_request: Callable[..., Request],
) -> None:
    model = Scripted()
    chain = chained(make_request, model, 5)
    told = await outputs(chain)
    # 0 opens: branch 2 says 20, 21; then 2; 3 opens: 23, 24
    assert said(told) == [20, 21, 2, 23, 24]
    assert told[-1].finish_reason is FinishReason.LENGTH
    assert told[-1].branch_tokens == 8
    assert [verdict.kept for verdict in chain.verdicts] == [2, 2]
    ran = [(s.spec.start, s.spec.stream, s.limit) for s in model.ran]
    assert ran == [
        (0, 0, 5),
        (1, 0, 1),
        (1, 1, 1),
        (1, 2, 1),
        (2, 0, 3),
        (4, 0, 1),
        (4, 1, 1),
        (4, 2, 1),
    ]
    assert model.ran[4].prompt == (1, 20, 30, 20, 21)
    assert model.aborted == 2  # the segments in which branches opened
    assert all(s.spec.rollout_end == s.spec.start + s.limit for s in model.ran if s.spec.stream)
    records = told[0].tokens[0].branches
    assert [r.token_ids for r in records] == [(0, 1), (10, 11), (20, 21)]
    assert [r.chosen for r in records] == [False, False, True]


async def test_the_budget_closes(make_request: Callable[..., Request]) -> None:
    told = await outputs(chained(make_request, Scripted(), 8, budget=0.5))
    assert told[-1].branch_tokens == 4  # one opening of 2 x 2, no second one
    assert said(told)[:3] == [20, 21, 2]
    assert said(told)[3:] == [3, 4, 5, 6, 7]


class Lines(Bytes):
    """A tokenizer whose tokens 2, 11 and 23 end a line."""

    def token_bytes(self, token_id: int) -> bytes | None:
        return b"\xc2" if token_id in (1, 10, 22) else b"\xb6" if token_id in (2, 11, 23) else b"x"


class InPairs(Scripted):
    """A model whose tokens come two at a time, so that a batch holds tokens behind the end of a branch."""

    async def run(self, segment: Segment) -> AsyncGenerator[list[SegmentToken], None]:
        batch: list[SegmentToken] = []
        async with aclosing(super().run(segment)) as stream:
            async for tokens in stream:
                batch += tokens
                if len(batch) == 2:
                    yield batch
                    batch = []
        if batch:
            yield batch


@pytest.mark.parametrize("kind", [Scripted, InPairs])
async def test_a_branch_that_ends_early_is_aborted_and_judged_as_it_is(
    make_request: Callable[..., Request], kind: type[Scripted]
) -> None:
    """The branches of token 0 end behind 3, 2 and 4 tokens, with a character of two tokens."""
    model = kind()
    config = BranchConfig(width=3, budget=16.0, until="\u00b6")
    request = make_request(policy=PolicyConfig(branch=config, telemetry="full"), max_tokens=9)
    chain = Chain(request, CONTEXT, model, Lines())  # type: ignore[arg-type]
    told = await outputs(chain)
    records = told[0].tokens[0].branches
    assert [r.token_ids for r in records] == [(0, 1, 2), (10, 11), (20, 21, 22, 23)]
    assert said(told) == [20, 21, 22, 23, 4, 5, 26, 27, 28]
    assert told[-1].finish_reason is FinishReason.LENGTH
    assert told[-1].branch_tokens == 3 + 2 + 3 + 3
    ran = [(s.spec.start, s.spec.stream, s.limit) for s in model.ran]
    assert ran[:5] == [(0, 0, 9), (1, 0, 8), (1, 1, 8), (1, 2, 8), (4, 0, 5)]
    assert ran[5:] == [(7, 0, 2), (7, 1, 2), (7, 2, 2)]
    assert model.aborted == 2 + 3  # where branches opened, and the branches that ended early


@pytest.mark.parametrize(("stop", "lengths"), [((), (9, 9, 9)), (("\u00b6",), (3, 2, 4))])
async def test_branches_to_the_end_of_the_reply(
    make_request: Callable[..., Request], stop: tuple[str, ...], lengths: tuple[int, ...]
) -> None:
    config = BranchConfig(width=3, budget=16.0, until="end")
    policy = PolicyConfig(branch=config, telemetry="full")
    request = make_request(policy=policy, max_tokens=9, stop=stop)
    told = await outputs(Chain(request, CONTEXT, Scripted(), Lines()))  # type: ignore[arg-type]
    assert tuple(len(r.token_ids) for r in told[0].tokens[0].branches) == lengths
    assert told[0].finish_reason is (None if stop else FinishReason.LENGTH)
    assert len(said(told)) == 9


@pytest.mark.parametrize(
    ("limits", "opened"),
    [
        # at a doubt the entropy is 1 bit and the other first tokens are as probable as the drawn one
        ({"min_entropy": 1.0, "min_runner_up": 1.0}, 2),
        ({"min_entropy": 1.1}, 0),
    ],
)
async def test_limits_on_the_opening(
    make_request: Callable[..., Request], limits: dict[str, float], opened: int
) -> None:
    model = Scripted()
    told = await outputs(chained(make_request, model, 5, **limits))
    assert told[-1].branch_tokens == 4 * opened
    assert said(told) == ([20, 21, 2, 23, 24] if opened else [0, 1, 2, 3, 4])
    assert len(model.ran) == 1 + 4 * opened - bool(opened)


async def test_a_branch_with_bad_logits_is_passed_over(make_request: Callable[..., Request]) -> None:
    told = await outputs(chained(make_request, Scripted(broken=(2,)), 2))
    assert said(told) == [0, 1]
    assert told[-1].error is None


async def test_bad_logits_of_the_request_end_it(make_request: Callable[..., Request]) -> None:
    told = await outputs(chained(make_request, Scripted(broken=(0,)), 4))
    assert (told[-1].finish_reason, told[-1].error) == (FinishReason.ERROR, "bad logits")


async def test_a_winner_that_stopped_ends_the_request(make_request: Callable[..., Request]) -> None:
    told = await outputs(chained(make_request, Scripted(stops=(1,)), 9))
    assert said(told)[-1] == STOP
    assert told[-1].finish_reason is FinishReason.STOP


async def test_leaving_aborts_what_runs(make_request: Callable[..., Request]) -> None:
    model = Scripted()
    stream = Chain(make_request(max_tokens=50), CONTEXT, model, Bytes()).run()  # type: ignore[arg-type]
    await anext(stream)
    await stream.aclose()
    assert model.aborted == 1


@pytest.mark.parametrize("forced", [(5, 6, 7)])
async def test_replayed_tokens_know_no_stop(
    make_request: Callable[..., Request], forced: tuple[int, ...]
) -> None:
    model = Scripted()
    request = make_request(forced=forced, stop_token_ids=(STOP,))
    await outputs(Chain(request, CONTEXT, model, Bytes()))  # type: ignore[arg-type]
    (segment,) = model.ran
    assert (segment.spec.replayed, segment.stops, segment.limit) == (forced, (), 3)


async def test_the_context_ends_a_request(make_request: Callable[..., Request]) -> None:
    """Three tokens of prompt in a context of five leave two."""
    model = Scripted()
    told = await outputs(Chain(make_request(max_tokens=50), 5, model, Bytes()))  # type: ignore[arg-type]
    assert said(told) == [0, 1]
    assert told[-1].finish_reason is FinishReason.LENGTH
    assert [segment.limit for segment in model.ran] == [2]


async def test_what_the_policy_remembers_reaches_the_next_segment(
    make_request: Callable[..., Request],
) -> None:
    """A clarifying text began at the first token; the branches that open behind it know of it."""

    class Clarifies(Scripted):
        async def run(self, segment: Segment) -> AsyncGenerator[list[SegmentToken], None]:
            async for batch in super().run(segment):
                if segment.spec.start == 0:
                    (one,) = batch
                    drawn = one.drawn._replace(clarifying=(one.drawn.token.token_id,), firsts=())
                    if drawn.token.token_id:
                        drawn = one.drawn
                    batch = [one._replace(drawn=drawn)]
                yield batch

    model = Clarifies()
    await outputs(chained(make_request, model, 6))
    memory = [(s.spec.start, s.spec.clarify_used, s.spec.since_clarify) for s in model.ran]
    assert memory == [(0, 0, None), *[(4, 1, 3)] * 3, (5, 1, 4)]


@pytest.mark.parametrize("asked", ["scores", "seed", False])
async def test_windows_follow_the_branch_that_is_kept(
    make_request: Callable[..., Request], asked: Any
) -> None:
    """Each step of the reply is pushed once, whichever segment or branch drew it."""
    config = BranchConfig(width=3, depth=2, budget=16.0)
    policy = PolicyConfig(branch=config, genuineness=asked)
    request = make_request(policy=policy, max_tokens=20, stop_token_ids=(STOP,))
    told = await outputs(Chain(request, CONTEXT, Watched(), Bytes()))  # type: ignore[arg-type]
    tokens = [token for output in told for token in output.tokens]
    names = "genuineness", "genuineness_seed", "token_cost"
    got = [[token.signals[SIGNAL_NAMES.index(name)] for name in names] for token in tokens]
    if asked is False:
        assert got == [[1.0] * 3] * len(tokens), "as the segments gave them"
        return
    # the token that opens is drawn once, by the segment; the others of a rollout by branch 2
    branches = [0 if at % 3 == 0 or at % 3 == 2 else 2 for at in range(len(tokens))]
    bits = np.array([entropies(branch, at) for at, branch in enumerate(branches)])
    keys = np.array([KEYS + at for at in range(len(tokens))])
    for n in range(1, len(tokens) + 1):
        score, seed, cost = got[n - 1]
        assert cost is None
        if n < 8:
            assert (score, seed) == (None, None)
            continue
        assert score == pytest.approx(reference.genuineness(bits[:n], keys[:n]), abs=1e-6)
        wanted = pytest.approx(reference.genuineness_seed(bits[:n]), abs=1e-6) if asked == "seed" else None
        assert seed == wanted


class Costed(Watched):
    """The same with token costs of its heads, a prompt's log probabilities, and a surprisal of each token."""

    async def run(self, segment: Segment) -> AsyncGenerator[list[SegmentToken], None]:
        async with aclosing(super().run(segment)) as stream:
            at = segment.spec.start
            told = segment.prompt_logprobs is not None
            async for (one,) in stream:
                signals = list(one.drawn.token.signals)
                signals[SURPRISAL] = bits_of(segment.spec.stream, at)
                drawn = one.drawn._replace(token=replace(one.drawn.token, signals=tuple(signals)))
                heads = one.heads
                assert heads is not None
                if segment.spec.known is not None:
                    heads = heads._replace(costs=costs(segment.spec.stream, at))
                prompt = tuple(PromptToken(i, -math.log(2.0) * i, 1) for i in segment.prompt[1:])
                yield [one._replace(drawn=drawn, heads=heads, prompt=prompt if told else ())]
                told = False
                at += 1


SURPRISAL = SIGNAL_NAMES.index("surprisal")


def bits_of(branch: int, at: int) -> float:
    return at + 100.0 * branch


def costs(branch: int, at: int) -> Any:
    return np.random.default_rng([branch, at, 1]).random((2, 3, 4)).astype(np.float32) * 6


@pytest.mark.parametrize(("asked", "of_prompt"), [(True, None), ("seed", 2), ("scores", None), ("scores", 1)])
async def test_surprisals_follow_the_branch_that_is_kept(
    make_request: Callable[..., Request], asked: Any, of_prompt: int | None
) -> None:
    """The first segment asks vLLM for those of the prompt; later ones, and branches, bring what is known."""
    config = BranchConfig(width=3, depth=2, budget=16.0)
    policy = PolicyConfig(branch=config, genuineness=asked)
    request = make_request((1, 2, 3), policy=policy, max_tokens=20, prompt_logprobs=of_prompt)
    model = Costed()
    told = await outputs(Chain(request, CONTEXT, model, Bytes()))  # type: ignore[arg-type]
    assert [len(output.prompt) for output in told] == [0 if of_prompt is None else 2, *[0] * (len(told) - 1)]
    wanted = asked != "scores"
    assert model.ran[0].prompt_logprobs == (0 if wanted and of_prompt is None else of_prompt)
    assert all(segment.prompt_logprobs is None for segment in model.ran[1:])
    tokens = [token for output in told for token in output.tokens]
    reply = [token.signals[SURPRISAL] for token in tokens]
    for segment in model.ran:
        if not wanted:
            assert segment.spec.known is None
            continue
        assert segment.spec.prompt_tokens == len(segment.prompt)
        if segment is model.ran[0]:
            assert segment.spec.known == (0.0,)
            continue
        start = segment.spec.start
        known = [0.0, 2.0, 3.0, *reply[:start]]
        if segment.spec.rollout_end:
            # its first token is the one that opened it, or was drawn beside that, with log probability -1
            known[-1] = 1 / math.log(2.0) if segment.spec.stream else bits_of(0, start - 1)
        assert segment.spec.known == pytest.approx(known)
    got = [token.signals[SIGNAL_NAMES.index("token_cost")] for token in tokens]
    if not wanted:
        assert got == [None] * len(tokens)
        return
    branches = [0 if at % 3 == 0 or at % 3 == 2 else 2 for at in range(len(tokens))]
    paid = np.array([costs(branch, at)[..., 0] for at, branch in enumerate(branches)])
    paid[0] = np.nan  # the prompt's surprisals come behind its step
    for n in range(1, len(tokens) + 1):
        expected = reference.token_cost(paid[:n])
        assert (got[n - 1] is None) == math.isnan(expected)
        if got[n - 1] is not None:
            assert got[n - 1] == pytest.approx(expected, abs=1e-5)


class Letters(Bytes):
    """The token of a number is its digit, or the sign behind the digits."""

    reply_format = ReplyFormat(lambda ids: "")

    def token_bytes(self, token_id: int) -> bytes | None:
        return bytes([48 + token_id]) if token_id < STOP else None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [byte - 48 for byte in text.encode()]

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return "<stop>"


@pytest.mark.parametrize(("pattern", "reason"), [("[0-9]{4}", "stop"), ("[0-9]{3}[a-z]", "error")])
async def test_a_reply_that_follows_a_grammar(
    make_request: Callable[..., Request], pattern: str, reason: str
) -> None:
    tokenizer: Any = Letters()
    compiler = GrammarCompiler(tokenizer, CONTEXT, (STOP,))
    request = make_request(max_tokens=9, stop_token_ids=(STOP,))
    request = replace(request, grammar=compiler.compile(Grammar("regex", pattern)))
    model = Scripted()
    told = await outputs(Chain(request, CONTEXT, model, tokenizer))
    assert said(told) == [0, 1, 2, 3]
    assert told[-1].finish_reason is not None
    assert told[-1].finish_reason.value == reason
    assert (told[-1].error is not None) == (reason == "error")
    assert model.aborted == 1, "vLLM knows no grammar"
    (segment,) = model.ran
    assert segment.spec.grammar == GrammarSpec(Grammar("regex", pattern), (STOP,))


async def test_branches_follow_the_grammar(make_request: Callable[..., Request]) -> None:
    tokenizer: Any = Letters()
    compiler = GrammarCompiler(tokenizer, CONTEXT, (STOP,))
    config = BranchConfig(width=3, depth=2, budget=16.0)
    request = make_request(policy=PolicyConfig(branch=config), max_tokens=9, stop_token_ids=(STOP,))
    request = replace(request, grammar=compiler.compile(Grammar("regex", "(.|\n){20}")))
    model = Scripted()
    await outputs(Chain(request, CONTEXT, model, tokenizer))
    for segment in model.ran:
        assert segment.spec.grammar is not None
        assert segment.spec.grammar.written == segment.prompt[len(request.prompt_token_ids) :]
    assert len(model.ran) > 4


class Ranked(Scripted):
    """The same with figures of the prompt on the first token of a segment that wants them."""

    async def run(self, segment: Segment) -> AsyncGenerator[list[SegmentToken], None]:
        wanted = segment.prompt_logprobs
        figures = () if wanted is None else (PromptToken(20, -0.5, 2, ((7, -0.25),) * wanted),)
        async with aclosing(super().run(segment)) as stream:
            async for (token,) in stream:
                yield [token._replace(prompt=figures)]
                figures = ()


@pytest.mark.parametrize("branches", [False, True])
async def test_the_prompt_is_told_once_also_where_branches_open_at_the_first_token(
    make_request: Callable[..., Request], branches: bool
) -> None:
    model = Ranked()
    policy = PolicyConfig(branch=BranchConfig(width=3, depth=2, budget=16.0) if branches else None)
    request = make_request(policy=policy, max_tokens=5, prompt_logprobs=1)
    told = await outputs(Chain(request, CONTEXT, model, Bytes()))  # type: ignore[arg-type]
    assert [output.prompt for output in told if output.prompt] == [(PromptToken(20, -0.5, 2, ((7, -0.25),)),)]
    assert told[0].prompt
    assert [segment.prompt_logprobs for segment in model.ran] == [1, *[None] * (len(model.ran) - 1)]
    assert len(model.ran) == (8 if branches else 1)


async def test_a_prompt_alone_draws_a_token_that_nobody_gets(make_request: Callable[..., Request]) -> None:
    model = Ranked()
    request = make_request(max_tokens=0, prompt_logprobs=0)
    told = await outputs(Chain(request, CONTEXT, model, Bytes()))  # type: ignore[arg-type]
    (output,) = told
    assert (output.tokens, output.finish_reason) == ((), FinishReason.LENGTH)
    assert output.prompt == (PromptToken(20, -0.5, 2),)
    assert model.ran[0].limit == 1


def test_figures_of_vllm_become_ours() -> None:
    def told(**ranks: tuple[float, int]) -> dict[int, Any]:
        return {int(name[1:]): SimpleNamespace(logprob=lp, rank=rank) for name, (lp, rank) in ranks.items()}

    rows = [None, told(_8=(-3.0, 9), _5=(-0.5, 1), _6=(-1.0, 2)), told(_5=(-0.5, 1), _6=(-1.0, 2))]
    first = PromptToken(8, -3.0, 9, ((5, -0.5), (6, -1.0)))
    assert prompt_tokens([1, 8, 5], 0, rows, 2) == (first, PromptToken(5, -0.5, 1, ((5, -0.5), (6, -1.0))))
    # what comes later goes on
    assert prompt_tokens([1, 8, 5], 1, rows[2:], 0) == (PromptToken(5, -0.5, 1),)
