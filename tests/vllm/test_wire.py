"""The specification of a row survives its way from server to worker, and a client's text is checked."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropick_pico import model_path
from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.profile import PROFILE_FILE, Profile
from entropick_sampler.reply_adjustments import adjusts
from entropick_sampler.strategy import Strategy
from entropick_server.engine.grammar.spec import GRAMMAR_KINDS, Grammar
from entropick_server.engine.vllm.wire import (
    GrammarSpec,
    RowSpec,
    parse,
    plain_profile,
    read_profile,
    servable,
)

SILENT: dict[str, Any] = {"temperature": None, "top_p": None, "top_k": None, "min_p": None, "seed": None}
specs = st.builds(
    RowSpec,
    st.builds(
        SamplingParams,
        temperature=st.none() | st.floats(0, 2),
        top_p=st.none() | st.floats(0.1, 1),
        top_k=st.none() | st.integers(-1, 100),
        min_p=st.none() | st.floats(0, 1),
        seed=st.integers(-(1 << 63), (1 << 63) - 1),
        logprobs=st.none() | st.integers(0, 20),
    )
    | st.builds(
        SamplingParams,
        presence_penalty=st.floats(-2, 2),
        frequency_penalty=st.floats(-2, 2),
        repetition_penalty=st.floats(0.1, 2),
        logit_bias=st.lists(st.tuples(st.integers(0, 1000), st.floats(-100, 100))).map(tuple),
        min_tokens=st.integers(1, 10),
        bad_words=st.lists(st.lists(st.integers(0, 1000), min_size=1).map(tuple)).map(tuple),
        allowed_token_ids=st.none() | st.lists(st.integers(0, 1000)).map(tuple),
        stop_token_ids=st.lists(st.integers(0, 1000)).map(tuple),
    ),
    st.builds(
        PolicyConfig,
        st.sampled_from(["entropix", "fixed"]),
        st.sampled_from(["calibrated", "seed"]),
        st.dictionaries(st.sampled_from(["greedy_entropy", "clarify_budget"]), st.integers(0, 9)),
        st.sampled_from(["none", "summary", "tokens", "full"]),
        branch=st.none()
        | st.builds(
            BranchConfig, width=st.integers(2, 16), on=st.frozensets(st.sampled_from(list(Strategy)))
        ),
    ),
    key=st.text(min_size=1),
    start=st.integers(0, 1000),
    stream=st.integers(0, (1 << 32) - 1),
    replayed=st.lists(st.integers(0, 1000)).map(tuple),
    rollout_end=st.integers(0, 1000),
    clarify_used=st.integers(0, 16),
    since_clarify=st.none() | st.integers(0, 1000),
    unfinished=st.binary(max_size=3),
    pending=st.lists(st.integers(0, 1000)).map(tuple),
    named=st.integers(0, 10),
    tokens=st.integers(0, 1000),
    surprisal=st.floats(0, 1e6),
    newest=st.lists(st.integers(0, 1000)).map(tuple),
    grammar=st.none()
    | st.builds(
        GrammarSpec,
        st.builds(Grammar, st.sampled_from(GRAMMAR_KINDS), st.text()),
        st.lists(st.integers(0, 1000), min_size=1).map(tuple),
        st.lists(st.integers(0, 1000)).map(tuple),
    ),
) | st.builds(
    RowSpec,
    st.just(SamplingParams()),
    st.just(PolicyConfig()),
    key=st.just("k"),
    known=st.lists(st.floats(-1, 60)).map(tuple),
    prompt_tokens=st.integers(1, 1000),
)


def _as_sent(spec: RowSpec) -> RowSpec:
    """A specification tells of a reply's tokens only where its logits are adjusted."""
    tokens = {"seen": (4, 5), "output": (6, 6)} if adjusts(spec.sampling) else {}
    return replace(spec, **tokens)


@given(specs.map(_as_sent))
def test_a_row_survives_the_way(spec: RowSpec) -> None:
    sent = json.loads(json.dumps(spec.as_dict()))
    got = parse(sent, SILENT)
    assert got == spec
    assert got.known == spec.known


def test_a_profile_survives_the_way() -> None:
    profile = Profile.load(model_path() / PROFILE_FILE)
    for sent in (profile, replace(profile, opening_weights={7: -0.25, 3: 1.5})):
        got = read_profile(json.loads(json.dumps(plain_profile(sent))))
        # but for what decides nothing, which stays in the server
        assert got == replace(sent, error=None, genuineness=None)
        assert got is not None
        assert got.id == sent.id
    assert read_profile(None) is None


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ({"temperture": 1}, "entropick.temperture: no such field"),
        ({"policy": "other"}, "entropick.policy: must be one of entropix, fixed"),
        ({"preset": 3}, "entropick.preset"),
        ({"overrides": {"top_p": 7}}, "entropick.overrides.top_p: must be between"),
        ({"overrides": {"topp": 1}}, "did you mean 'top_p'"),
        ({"overrides": 3}, "entropick.overrides: must be an object"),
        ({"seed": 1 << 64}, "entropick.seed"),
        ({"seed": True}, "entropick.seed"),
    ],
)
def test_a_clients_mistakes_are_named(field: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(field if isinstance(field, str) else json.dumps(field), SILENT)


def test_a_client_may_be_brief() -> None:
    spec = parse("{}", {**SILENT, "seed": 5, "temperature": 0.5})
    assert spec.policy == PolicyConfig("entropix", "calibrated")
    assert (spec.sampling.seed, spec.sampling.temperature, spec.key) == (5, 0.5, None)
    assert servable(spec, None).policy.preset == "seed"
