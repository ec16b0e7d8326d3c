"""The rolling windows of replies: equal to float64 definitions, and untouched by all that happens beside."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.genuineness import reference
from entropick_sampler.genuineness.quadrants import UNKNOWN, Cuts, Quadrant, classify
from entropick_sampler.params import PolicyConfig
from entropick_sampler.profile import THRESHOLDS, Profile
from entropick_sampler.signals import SIGNAL_NAMES, STEP_SIGNALS, WINDOW_SIGNALS
from entropick_sampler.strategy import Strategy
from entropick_server.engine.types import Request, Token
from entropick_server.genuineness import genuineness_summary
from entropick_server.metrics import ChoiceFigures, Metrics, ServerFacts
from entropick_server.streaming.watched import genuineness_at_end

from .conftest import Room, tiny_model

Open = Callable[..., Room]
Make = Callable[..., Request]
FULL = PolicyConfig(policy="fixed", telemetry="full", genuineness="scores")
PROMPT = tuple(range(40, 60))
WINDOWS = [s.name for s in WINDOW_SIGNALS]


def told(room: Room, *requests: Request) -> list[list[Token]]:
    for request in requests:
        room.add(request)
    room.finish()
    return [room.tokens[request.request_id] for request in requests]


def windows(tokens: list[Token]) -> dict[str, list[float | None]]:
    columns = zip(*(t.signals[len(STEP_SIGNALS) :] for t in tokens), strict=True)
    return dict(zip(WINDOWS, map(list, columns), strict=True))


def close(got: list[float | None], wanted: list[float | None]) -> None:
    assert [x is None for x in got] == [x is None for x in wanted]
    known = [x for x in got if x is not None]
    assert known == pytest.approx([x for x in wanted if x is not None], rel=1e-4, abs=1e-6)


def or_none(x: float) -> float | None:
    return None if math.isnan(x) else x


def entropies(tokens: list[Token]) -> Any:
    return np.array([t.detail.attention_entropy for t in tokens if t.detail is not None])


@pytest.mark.parametrize(("name", "visible"), [("llama", 10_000), ("qwen3", 16), ("gemma2", 16)])
@pytest.mark.parametrize("first", [1, 20])
def test_every_token_has_the_figures_of_the_reference(
    name: str, visible: int, first: int, room: Open, make_request: Make
) -> None:
    layers = {"llama": (0, 1, 2), "qwen3": (1, 2), "gemma2": (0, 2)}[name]
    open_room = room(name=name, monitored_layers=layers)
    (tokens,) = told(open_room, make_request(PROMPT[:first], policy=FULL, max_tokens=80))
    got, bits = windows(tokens), entropies(tokens)
    logits = [t.signals[SIGNAL_NAMES.index("logits_entropy")] for t in tokens]
    keys = np.minimum(np.arange(first, first + 80), visible)[:, None].repeat(len(layers), 1)
    wanted: dict[str, list[float | None]] = {name: [] for name in WINDOWS}
    for n in range(1, len(tokens) + 1):
        some = bits[:n], keys[:n]
        wanted["genuineness"].append(or_none(reference.genuineness(*some)))
        wanted["entropy_variance"].append(or_none(reference.entropy_variance(*some)))
        wanted["collapse_rate"].append(or_none(reference.collapse_rate(*some)))
        wanted["entropy_window_variance"].append(or_none(reference.entropy_window_variance(logits[:n])))
    for signal in ("genuineness", "entropy_variance", "collapse_rate", "entropy_window_variance"):
        close(got[signal], wanted[signal])
    # a step with one visible key is left out
    assert [x is None for x in got["genuineness"]].index(False) == (8 if first == 1 else 7)
    for signal in ("genuineness_seed", "token_cost", "token_cost_relative", "sink_mass"):
        assert set(got[signal]) == {None}, "not asked for"
    last = tokens[-1].detail
    assert last is not None
    assert last.token_cost is None
    z = reference.normalised_entropy(bits, keys[..., None])
    np.testing.assert_allclose(last.genuineness, reference.head_genuineness(z), rtol=1e-4, atol=1e-6)
    # heads that fell by more than 0.2 from the step before; the first has none before it
    fell = (z[:-1] - z[1:] > reference.DROP).sum(axis=(1, 2))
    assert [t.collapsed for t in tokens] == [0, *fell]


def test_the_seed_form_and_none_at_all(room: Open, make_request: Make) -> None:
    policies = [
        PolicyConfig(policy="fixed", telemetry="full", genuineness=g) for g in ("seed", False, "scores")
    ]
    seed, none, plain = told(
        room(), *(make_request(PROMPT, policy=policy, seed=3, max_tokens=30) for policy in policies)
    )
    assert [t.token_id for t in seed] == [t.token_id for t in none] == [t.token_id for t in plain]
    assert set(none[-1].signals[len(STEP_SIGNALS) :]) == {None}
    bits, got = entropies(seed), windows(seed)
    for n in (7, 8, 20, 30):
        close([got["genuineness_seed"][n - 1]], [or_none(reference.genuineness_seed(bits[:n]))])
    close(got["genuineness"], windows(plain)["genuineness"])
    assert none[-1].detail is not None
    assert none[-1].detail.genuineness is None
    assert seed[-1].detail is not None
    np.testing.assert_allclose(
        seed[-1].detail.genuineness, reference.head_genuineness(bits), rtol=1e-4, atol=1e-6
    )
    # the source's cut points count the heads of the seed form
    assert seed[-1].counts is not None
    assert sum(seed[-1].counts[:3]) == bits[0].size
    assert plain[-1].counts is None


def replayed(room: Room, make: Make, request: Request, tokens: list[Token]) -> list[Token]:
    """The figures of the same reply, given from the beginning and alone."""
    given = tuple(t.token_id for t in tokens)
    policy = PolicyConfig(policy="fixed", genuineness=request.policy.genuineness)
    (again,) = told(room, make(request.prompt_token_ids, forced=given, policy=policy))
    return again


def compare(got: list[Token], wanted: list[Token]) -> None:
    one, other = windows(got), windows(wanted)
    assert one["genuineness"][-1] is not None
    for name in WINDOWS:
        close(one[name], other[name])


def test_forks_and_adoption_leave_them_unchanged(room: Open, make_request: Make) -> None:
    branch = BranchConfig(width=3, depth=5, budget=16, on=frozenset(Strategy))
    for scorer in ("mean_logprob", "confidence"):
        policy = PolicyConfig(
            preset="seed",
            branch=BranchConfig(width=branch.width, depth=5, budget=16, on=branch.on, scorer=scorer),
            telemetry="full",
            genuineness="scores",
        )
        request = make_request(PROMPT, policy=policy, seed=5, max_tokens=60)
        (tokens,) = told(room(), request)
        adopted = [i for t in tokens for i, b in enumerate(t.branches) if b.chosen]
        assert any(adopted), "another branch than the first was kept"
        compare(tokens, replayed(room(), make_request, request, tokens))


def test_preemption_leaves_them_unchanged(room: Open, make_request: Make) -> None:
    requests = [make_request(PROMPT[i:], policy=FULL, seed=i, max_tokens=60) for i in range(4)]
    crowded = room(blocks=20)
    together = told(crowded, *requests)
    assert crowded.preempted
    for request, tokens in zip(requests, together, strict=True):
        compare(tokens, replayed(room(), make_request, request, tokens))


def test_the_cache_and_the_choices_of_a_prompt_leave_them_unchanged(room: Open, make_request: Make) -> None:
    warm = room()
    first = make_request(PROMPT, policy=FULL, seed=1, max_tokens=20)
    (cold,) = told(warm, first)
    again = make_request(PROMPT, policy=FULL, seed=1, max_tokens=20)
    (hit,) = told(warm, again)
    assert warm.cached[again.request_id]
    compare(hit, cold)


def forced_costs(tokens: list[Token], prompt: tuple[int, ...], name: str) -> tuple[list[float], Any]:
    """By transformers' eager pass: surprisals of prompt and reply, and the attention maps of each layer."""
    model = tiny_model(name)
    text = [*prompt, *(t.token_id for t in tokens)]
    with torch.inference_mode():
        found = model(torch.tensor([text]), output_attentions=True)
    logprobs = found.logits[0].double().log_softmax(-1)
    bits = [0.0, *(-logprobs[at, text[at + 1]] / math.log(2) for at in range(len(text) - 1))]
    return [float(x) for x in bits], np.stack([a[0].double().numpy() for a in found.attentions])


COSTED = PolicyConfig(policy="fixed", telemetry="full", genuineness=True)


@pytest.mark.parametrize(("name", "decoder"), [("llama", "auto"), ("llama", "torch"), ("qwen3", "auto")])
def test_token_costs_are_those_of_an_eager_pass(
    name: str, decoder: Any, room: Open, make_request: Make
) -> None:
    # in chunks of a few tokens; the first step's keys are not all known before it, so it has no cost
    open_room = room(name=name, decoder=decoder, max_num_batched_tokens=17, max_num_seqs=4)
    (tokens,) = told(open_room, make_request(PROMPT, policy=COSTED, max_tokens=70))
    bits, attention = forced_costs(tokens, PROMPT, name)
    layers = len(attention)
    first = len(PROMPT) - 1
    rows = attention[:, :, first : first + len(tokens)]
    costs = np.einsum("lhtk,k->tlh", rows, bits)
    costs[0] = np.nan
    sinks = rows[..., 0].transpose(2, 0, 1).copy()
    relative = np.empty_like(costs)
    for t in range(len(tokens)):
        # qwen3's last two layers see 16 keys
        for layer in range(layers):
            n = first + t + 1
            start = max(0, n - 16) if name == "qwen3" and layer else 0
            relative[t, layer] = costs[t, layer] / np.mean(bits[start:n])
            if start:
                sinks[t, layer] = np.nan
    sinks[0] = np.nan
    got = windows(tokens)
    for signal, series in (("token_cost", costs), ("token_cost_relative", relative), ("sink_mass", sinks)):
        by_head = series if signal == "token_cost" else series.reshape(len(tokens), -1)
        wanted = [or_none(getattr(reference, signal)(by_head[: n + 1])) for n in range(len(tokens))]
        assert wanted[0] is None
        assert [x is None for x in got[signal]] == [x is None for x in wanted]
        assert [x for x in got[signal] if x is not None] == pytest.approx(
            [x for x in wanted if x is not None], rel=1e-4, abs=1e-4
        )
    last = tokens[-1].detail
    assert last is not None
    mean = np.nanmean(costs[-64:], axis=0)
    np.testing.assert_allclose(np.array(last.token_cost), mean, rtol=1e-4, atol=1e-4)


def test_what_runs_beside_leaves_token_costs_unchanged(room: Open, make_request: Make) -> None:
    """Branches, preemption, the prefix cache and other choices; beside them a request that asks for none."""
    branch = BranchConfig(width=3, depth=5, budget=16, on=frozenset(Strategy))
    policy = PolicyConfig(preset="seed", branch=branch, telemetry="full", genuineness="seed")
    request = make_request(PROMPT, policy=policy, seed=5, max_tokens=40)
    beside = [make_request(PROMPT, seed=i, max_tokens=40) for i in range(3)]
    crowded = room(blocks=26)
    told(crowded, make_request(PROMPT, max_tokens=20))  # fills the cache, without surprisals
    tokens, *others = told(crowded, request, *beside)
    assert crowded.preempted
    assert any(i for t in tokens for i, b in enumerate(t.branches) if b.chosen)
    assert not crowded.cached[request.request_id], "its prompt is computed for the surprisals"
    assert any(crowded.cached[r.request_id] for r in beside)
    compare(tokens, replayed(room(), make_request, request, tokens))
    for other in others:
        assert set(windows(other)["token_cost"]) == {None}
    choices = [
        replace(make_request(PROMPT, policy=COSTED, seed=9, max_tokens=12), choice=c, group="g")
        for c in (0, 1)
    ]
    several = told(room(), *choices)
    for choice, reply in zip(choices, several, strict=True):
        assert reply[-1].signals[SIGNAL_NAMES.index("token_cost")] is not None
        compare(reply, replayed(room(), make_request, choice, reply))


def test_a_decoder_of_modules_does_not_know_the_prompt(room: Open, make_request: Make) -> None:
    (tokens,) = told(
        room(decoder="modules"), make_request(PROMPT, policy=COSTED, max_tokens=60, temperature=0.0)
    )
    costs = windows(tokens)["token_cost"]
    assert costs[0] is None
    assert costs[-1] is not None, "most of the attention is on the reply by now"
    assert costs[-1] > 0


def cut(room: Room, cuts: Cuts) -> None:
    """Puts cut points into force; the other figures decide nothing here."""
    room.core.set_profile(
        Profile("m", "d", (0, 1, 2), "2026-01-01", 1, {}, dict.fromkeys(THRESHOLDS, 1.0), genuineness=cuts)
    )


def test_each_head_has_its_quadrant(room: Open, make_request: Make) -> None:
    open_room = room()
    (tokens,) = told(open_room, make_request(PROMPT, policy=COSTED, seed=2, max_tokens=40))
    last = tokens[-1].detail
    assert last is not None
    assert last.quadrant is None, "without cut points"
    g, x = np.array(last.genuineness), np.array(last.token_cost)
    low, high = np.quantile(g, (0.3, 0.6))
    cuts = Cuts(float(np.median(x)), float(high), float(low), 64, pull=-1e-6)
    cut(open_room, cuts)
    policies = COSTED, replace(COSTED, genuineness="scores")
    requests = [make_request(PROMPT, policy=policy, seed=2, max_tokens=40) for policy in policies]
    costed, plain = told(open_room, *requests)
    assert costed[-1].detail is not None
    assert plain[-1].detail is not None
    wanted = classify(g, x, cuts)
    assert (wanted != UNKNOWN).all()
    assert costed[-1].detail.quadrant == tuple(
        tuple(Quadrant(q).label for q in of_layer) for of_layer in wanted.tolist()
    )
    counts = costed[-1].counts
    assert counts is not None
    assert list(counts.by_region().values()) == [int((wanted == q).sum()) for q in Quadrant]
    assert plain[-1].counts is not None
    assert plain[-1].counts[:3] == counts[:3]
    assert {name for heads in plain[-1].detail.quadrant or () for name in heads} == {
        "genuine", "mechanical", "transition",
    }  # fmt: skip
    # the summary and the metrics say the same of the choice's end
    summary = genuineness_summary(requests[0], costed, cuts)
    figures = genuineness_at_end(requests[0], costed, cuts)
    assert summary is not None
    assert figures is not None
    assert summary.quadrants == {q.label: float((wanted == q).mean()) for q in Quadrant}
    assert figures.heads == counts.by_region()
    assert (figures.score, figures.collapse_rate) == (summary.score, windows(costed)["collapse_rate"][-1])
    assert summary.pull is not None
    assert summary.pull.pulled == figures.pulled == (summary.pull.delta < -1e-6)


def test_the_metrics_of_a_running_batch(room: Open, make_request: Make) -> None:
    """Gauges by slot follow one reply's series, layers are means of heads, and all of them go at the end."""
    open_room = room(max_num_seqs=2)
    cut(open_room, Cuts(4.0, 0.05, 0.01, 64))
    core, metrics = open_room.core, Metrics()
    metrics.bind(core.info, None, ServerFacts("1", "embedded", 2, True), core.gauges)

    def page() -> dict[tuple[str, ...], float]:
        text, _ = metrics.snapshot().encode("")
        return {
            (s.name, *(v for k, v in sorted(s.labels.items()) if k != "model_name")): s.value
            for family in text_string_to_metric_families(text.decode())
            for s in family.samples
        }

    request = make_request(PROMPT, policy=COSTED, max_tokens=30)
    metrics.choices.on_begin(request.request_id)
    open_room.add(request)
    layers = None
    while not core.idle:
        report = open_room.step()
        metrics.on_step(report)
        layers = report.layers or layers
        found, tokens = page(), open_room.tokens[request.request_id]
        if report.gauges.running and tokens:
            got = windows(tokens[-1:])
            for signal, metric in (("genuineness", "genuineness_score"), ("token_cost", "token_cost_bits")):
                assert found.get((f"entropick_live_{metric}", "0")) == got[signal][0]
            if tokens[-1].counts is not None:
                shares = [v for k, v in found.items() if k[0] == "entropick_live_quadrant_share_ratio"]
                assert len(shares) == 5
                assert sum(shares) == pytest.approx(1.0)
    assert layers is not None
    assert layers.layers == (0, 1, 2)
    assert not [k for k in page() if k[0].startswith(("entropick_live_", "entropick_layer_"))]
    figures = genuineness_at_end(request, open_room.tokens[request.request_id], None)
    metrics.on_end(request.request_id, "length", 1.0, ChoiceFigures(20, 0, 30, 30, figures))
    ended = page()
    for name in ("genuineness_score", "token_cost_bits", "collapse_rate_ratio"):
        assert ended[(f"entropick_request_{name}_count",)] == 1
    assert sum(v for k, v in ended.items() if k[0] == "entropick_head_quadrant_total") == 12


def test_the_layers_means_are_those_of_the_heads(room: Open, make_request: Make) -> None:
    open_room = room()
    requests = [make_request(PROMPT[i:], policy=COSTED, max_tokens=40) for i in range(2)]
    for request in requests:
        open_room.add(request)
    for _ in range(20):
        open_room.step()
    # a second has gone by
    found = open_room.core._sampler.watched_layers(math.inf)
    newest = [open_room.tokens[r.request_id][-1].detail for r in requests]
    g = np.mean([np.array(d.genuineness) for d in newest if d is not None], axis=(0, 2))
    x = np.mean([np.array(d.token_cost) for d in newest if d is not None], axis=(0, 2))
    assert found is not None
    np.testing.assert_allclose(found.genuineness, g, rtol=1e-9)
    np.testing.assert_allclose(found.token_cost, x, rtol=1e-9)
    assert open_room.core._sampler.watched_layers(0.0) is None, "within a second"
