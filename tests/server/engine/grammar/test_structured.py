"""Replies that follow a grammar: they validate, fork with their rows, and change nothing for others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from entropick_pico import model_path
from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.params import PolicyConfig
from entropick_sampler.strategy import Strategy
from entropick_server.engine.embedded.core import EngineCore
from entropick_server.engine.embedded.loader import load_model
from entropick_server.engine.grammar import masks
from entropick_server.engine.grammar.compiler import GrammarCompiler
from entropick_server.engine.grammar.spec import Grammar
from entropick_server.engine.grammar.state import GrammarState
from entropick_server.engine.types import EngineOptions, FinishReason, KeptToken, Request, Resumed, Token
from random_schemas import SchemaMaker

from ..conftest import END, VOCAB, Room, same

Make = Callable[..., Request]
Open = Callable[..., Room]
SEED = PolicyConfig(preset="seed", telemetry="full")
BRANCHES = PolicyConfig(
    preset="seed",
    branch=BranchConfig(width=3, depth=5, on=frozenset(set(Strategy) - {Strategy.CLARIFY}), budget=16.0),
)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "size": {"enum": ["small", "big", "ünsure"]},
        "list": {"type": "array", "items": {"type": "integer", "maximum": 999}, "maxItems": 3},
    },
    "required": ["name", "size", "list"],
    "additionalProperties": False,
}


class Bench:
    """An engine with a compiler of grammars for its model."""

    def __init__(self, core: EngineCore, loaded_tokenizer: Any, make: Make) -> None:
        self.room, self.tokenizer, self._make = Room(core), loaded_tokenizer, make
        info = core.info
        self.compiler = GrammarCompiler(loaded_tokenizer, info.vocab_size, info.eos_token_ids)
        self.ends = info.eos_token_ids

    def request(self, grammar: Grammar | Any, **fields: Any) -> Request:
        if not isinstance(grammar, Grammar):
            grammar = Grammar("json_schema", json.dumps(grammar, ensure_ascii=False))
        made = self._make(**{"max_tokens": 240, "stop_token_ids": self.ends, **fields})
        return replace(made, grammar=self.compiler.compile(grammar))

    def run(self, requests: Sequence[Request]) -> Room:
        for request in requests:
            self.room.add(request)
        return self.room.finish()

    def text(self, request: Request) -> str:
        tokens = self.room.tokens[request.request_id]
        return b"".join(self.tokenizer.token_bytes(t.token_id) or b"" for t in tokens).decode()


@pytest.fixture
def bench(room: Open, make_request: Make, model_folder: Callable[[str], Any]) -> Callable[..., Bench]:
    """``bench(...)``: an engine of a random-weight model, or of the shipped one."""

    def opened(*, pico: bool = False, **options: Any) -> Bench:
        if not pico:
            opened_room = room(**options)
            folder = model_folder("llama")
            loaded = load_model(EngineOptions(model=str(folder), device="cpu"))
            return Bench(opened_room.core, loaded.tokenizer, make_request)
        built = EngineOptions(model=str(model_path()), device="cpu", threads=1)
        loaded = load_model(built)
        return Bench(EngineCore(loaded, built, None), loaded.tokenizer, make_request)

    return opened


def validated(bench: Bench, requests: Sequence[Request], schemas: Sequence[Any]) -> int:
    """Checks every reply that came to its end, and counts them."""
    finished = 0
    for request, schema in zip(requests, schemas, strict=True):
        reason = bench.room.ends[request.request_id]
        assert reason in (FinishReason.STOP, FinishReason.LENGTH)
        if reason is FinishReason.STOP:
            finished += 1
            jsonschema.validate(json.loads(bench.text(request)), schema, jsonschema.Draft202012Validator)
    return finished


@pytest.mark.parametrize("pico", [False, True], ids=["random weights", "pico"])
@pytest.mark.parametrize("policy", [PolicyConfig(policy="fixed"), BRANCHES], ids=["fixed", "branches"])
def test_random_schemas(bench: Callable[..., Bench], pico: bool, policy: PolicyConfig) -> None:
    engine, maker = bench(pico=pico, blocks=1200) if not pico else bench(pico=True), SchemaMaker(8)
    schemas = [maker.schema() for _ in range(20)]
    requests = [
        engine.request(schema, seed=n, policy=policy, prompt=(5, 6, 7 + n))
        for n, schema in enumerate(schemas)
    ]
    engine.run(requests)
    assert validated(engine, requests, schemas) >= 12
    if policy is BRANCHES:
        assert any(t.branches for tokens in engine.room.tokens.values() for t in tokens)


def test_a_token_without_alternatives_says_so(bench: Callable[..., Bench]) -> None:
    engine = bench()
    request = engine.request(SCHEMA, policy=SEED, seed=3, logprobs=2)
    engine.run([request])
    tokens = engine.room.tokens[request.request_id]
    alone = [t for t in tokens if t.only_choice]
    assert len(alone) > 20
    for token in alone:
        assert (token.signals[0], token.logprob, token.surprisal) == (0.0, 0.0, 0.0)
        assert token.top_logprobs[0] == (token.token_id, 0.0)
        assert [p.token_id for p in token.most_probable if p.probability > 0] == [token.token_id]
        assert not token.branches
    assert all(t.signals[0] for t in tokens if not t.only_choice)
    # the end comes with the last character, not with a token of its own
    assert tokens[-1].token_id == ord("}")
    assert engine.room.ends[request.request_id] is FinishReason.STOP


def test_the_end_of_sequence_ends_what_may_go_on(bench: Callable[..., Bench]) -> None:
    engine = bench()
    requests = [engine.request(Grammar("regex", "[ab]{2,}"), seed=n, max_tokens=200) for n in range(8)]
    engine.run(requests)
    ended = [r for r in requests if engine.room.ends[r.request_id] is FinishReason.STOP]
    assert ended
    for request in requests:
        assert set(engine.text(request)) <= {"a", "b"}
    assert all(engine.room.text(r.request_id)[-1] == END for r in ended)


def test_a_cut_reply_says_length(bench: Callable[..., Bench]) -> None:
    engine = bench()
    whole = engine.request(SCHEMA, seed=3)
    engine.run([whole])
    said = engine.room.text(whole.request_id)
    cut, exact = (engine.request(SCHEMA, seed=3, max_tokens=n) for n in (len(said) - 1, len(said)))
    engine.run([cut, exact])
    assert engine.room.text(cut.request_id) == said[:-1]
    assert engine.room.ends[cut.request_id] is FinishReason.LENGTH
    assert engine.room.text(exact.request_id) == said
    assert engine.room.ends[exact.request_id] is FinishReason.STOP


def mixed(engine: Bench, make: Make) -> list[Request]:
    """Requests with and without a grammar, branches among them."""
    made = []
    for n in range(9):
        fields = {"seed": n, "prompt": (1, 2, 3 + n), "policy": (SEED, BRANCHES)[n % 2], "max_tokens": 60}
        plain = n % 3 == 2
        made.append(make(**fields) if plain else engine.request(SCHEMA, **fields))
    return made


def told(engine: Bench, requests: Sequence[Request]) -> list[list[Token]]:
    return [engine.room.tokens[request.request_id] for request in requests]


def test_what_else_runs_changes_nothing(bench: Callable[..., Bench], make_request: Make) -> None:
    together, alone = bench(), bench()
    requests = mixed(together, make_request)
    together.run(requests)
    for request in requests:
        # a compiled grammar is of a tokenizer, which both engines have alike
        alone.run([request])
    for a, b in zip(told(together, requests), told(alone, requests), strict=True):
        same(a, b)


def test_preemption_changes_nothing(bench: Callable[..., Bench], make_request: Make) -> None:
    tight, roomy = bench(blocks=34), bench()
    requests = mixed(tight, make_request)
    tight.run(requests)
    roomy.run(requests)
    assert tight.room.preempted
    for a, b in zip(told(tight, requests), told(roomy, requests), strict=True):
        same(a, b)


def test_choices_of_a_prompt_go_their_own_ways(bench: Callable[..., Bench]) -> None:
    engine = bench()
    first = engine.request(SCHEMA, seed=5)
    requests = [replace(first, request_id=f"c{n}", choice=n, group="g") for n in range(4)]
    engine.run(requests)
    assert len({engine.text(request) for request in requests}) == 4
    assert validated(engine, requests, [SCHEMA] * 4)


def test_a_rewound_reply_goes_on_in_its_grammar(bench: Callable[..., Bench]) -> None:
    engine = bench()
    whole = engine.request(SCHEMA, seed=11)
    engine.run([whole])
    said = engine.room.text(whole.request_id)
    kept = tuple(KeptToken(i) for i in said[:9])
    behind = replace(
        whole,
        request_id="behind",
        prompt_token_ids=(*whole.prompt_token_ids, *said[:9]),
        resumed=Resumed(kept, newest=tuple(said[:9])),
    )
    engine.run([behind])
    assert engine.room.text("behind") == said[9:]
    broken = replace(behind, request_id="broken", resumed=Resumed(kept[1:]))
    engine.room.core.add(broken)
    report = engine.room.core.report_between()
    assert report is not None
    (output,) = report.outputs
    assert output.finish_reason is FinishReason.ERROR
    assert "breaks the grammar" in (output.error or "")


def test_a_grammar_that_fails_ends_its_reply_alone(bench: Callable[..., Bench]) -> None:
    engine = bench()
    good, bad = (engine.request(SCHEMA, seed=n, request_id=name) for n, name in enumerate(["good", "bad"]))
    engine.room.add(good)
    engine.room.add(bad)
    for _ in range(4):
        engine.room.step()
    grammar = engine.room.row("bad").reply.grammar
    assert isinstance(grammar, GrammarState)
    grammar.take(200)
    engine.room.finish()
    assert engine.room.ends["bad"] is FinishReason.ERROR
    assert engine.room.ends["good"] is not FinishReason.ERROR
    assert engine.text(good).startswith('{"name"')


def test_masks_built_in_a_thread_are_the_same(
    bench: Callable[..., Bench], make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = bench()
    requests = mixed(here, make_request)
    here.run(requests)
    monkeypatch.setattr(masks, "_SLOW", -1.0)
    beside = bench()
    beside.run(requests)
    assert beside.room.core._sampler._masks._pool is not None
    for a, b in zip(told(here, requests), told(beside, requests), strict=True):
        same(a, b)


def test_no_clarifying_text_in_a_grammar(bench: Callable[..., Bench]) -> None:
    engine = bench()
    always = PolicyConfig(
        preset="seed",
        overrides={"greedy_entropy": 0, "clarify_entropy": 0.01, "clarify_varentropy": 4096},
    )
    request = engine.request(SCHEMA, policy=always)
    engine.run([request])
    assert not any(t.forced for t in engine.room.tokens[request.request_id])
    assert engine.room.core.info.vocab_size == VOCAB
