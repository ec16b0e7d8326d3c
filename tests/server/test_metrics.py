"""Prometheus: every metric moves, nothing stays behind, the page is well formed."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from entropick_sampler.signals import SIGNALS, Signal
from entropick_server.engine.types import FinishReason, RequestOutput, StepReport
from entropick_server.metrics import ChoiceFigures, Metrics
from entropick_server.metrics.batched import BatchedHistogram
from entropick_server.metrics.drift import DriftCollector
from entropick_server.metrics.signals import STRATEGIES, SignalHistograms
from entropick_server.metrics.writing import PageWriter

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Hi"}]}


async def samples(client: httpx.AsyncClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    page = (await client.get("/metrics")).text
    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in parse_plain(page)
        for s in family.samples
        if s.name.startswith("entropick_")
    }


def total(found: dict[Any, float], name: str, **labels: str) -> float:
    return sum(v for (n, have), v in found.items() if n == name and set(labels.items()) <= set(have))


async def test_the_page_before_the_model_is_loaded(engine: Any, serve: Any) -> None:
    engine.load_gate.clear()
    async with serve(engine, wait=False) as client:
        assert (await client.get("/metrics")).status_code == 200
        assert await samples(client) == {}


async def test_every_metric_moves(engine: Any, serve: Any) -> None:
    """Whole requests, one that fails and one that is cancelled: each sample of ours changes somewhere."""
    async with serve(engine) as client:
        engine.preempt_at = 2
        await client.post(CHAT, json=BODY)
        await client.post(CHAT, json={**BODY, "max_tokens": 1})
        await client.post(CHAT, json={**BODY, "temperature": 0})
        engine.fail_after = 2
        await client.post(CHAT, json=BODY)
        engine.fail_after = None
        engine.delay = 0.2
        slow = asyncio.create_task(client.post(CHAT, json={**BODY, "stream": True}))
        running = await samples(client)
        while not slow.done() and not total(running, "entropick_live_logits_entropy_bits"):
            await asyncio.sleep(0.01)
            running = await samples(client)
        slow.cancel()
        await asyncio.wait({slow})
        done = await samples(client)
        names = {name for name, _ in running} | {name for name, _ in done}
        # this engine neither measures agreement nor rolls out branches, and nobody asked for a vote; it knows
        # no cut points of genuineness, which tests/server/test_genuineness_metrics.py has
        still = {"entropick_agreement_ratio", "entropick_live_agreement_ratio", "entropick_branch_"}
        still |= {"entropick_consensus_", "entropick_elaboration_pull_", "entropick_head_"}
        for name in names:
            if name.startswith(tuple(still)):
                continue
            assert total(running, name) + total(done, name) > 0, name


async def test_counts(engine: Any, serve: Any) -> None:
    async with serve(engine) as client:
        engine.preempt_at = 3
        usage = (await client.post(CHAT, json=BODY)).json()["usage"]
        await client.post(CHAT, json={**BODY, "max_tokens": 2, "temperature": 0})
        found = await samples(client)
        tokens = usage["completion_tokens"] + 2
        assert total(found, "entropick_generation_tokens_total") == tokens
        assert total(found, "entropick_tokens_total") == tokens
        assert total(found, "entropick_tokens_total", strategy="none") == 2
        assert total(found, "entropick_tokens_total", forced="true") == 1
        assert total(found, "entropick_prompt_tokens_total") == 2 * usage["prompt_tokens"]
        assert usage["prompt_tokens_details"] == {"cached_tokens": 4}
        assert total(found, "entropick_prefix_cache_queries_total") == 2 * usage["prompt_tokens"]
        assert total(found, "entropick_prefix_cache_hits_total") == 2 * 4
        assert total(found, "entropick_num_preemptions_total") == 1
        assert total(found, "entropick_logits_entropy_bits_count") == tokens
        assert total(found, "entropick_logits_entropy_bits_bucket", le="+Inf") == tokens
        assert total(found, "entropick_agreement_ratio_count") == 0
        assert total(found, "entropick_request_success_total", finished_reason="stop") == 1
        assert total(found, "entropick_request_success_total", finished_reason="length") == 1
        assert total(found, "entropick_time_to_first_token_seconds_count") == 2
        assert total(found, "entropick_inter_token_latency_seconds_count") == tokens - 2
        assert total(found, "entropick_e2e_request_latency_seconds_count") == 2
        assert total(found, "entropick_request_queue_time_seconds_count") == 2
        assert total(found, "entropick_engine_step_seconds_count") == tokens
        assert {dict(labels).get("model_name") for _, labels in found} == {"fake"}


async def test_what_never_ran_is_not_counted(engine: Any, serve: Any) -> None:
    async with serve(engine) as client:
        engine.full = True
        for body in ({"prompt": "a"}, {"prompt": ["a", "b"]}, {"prompt": ["a", "b"], "stream": True}):
            assert (await client.post("/v1/completions", json=body)).status_code == 503
        found = await samples(client)
        assert total(found, "entropick_request_success_total") == 0
        assert total(found, "entropick_e2e_request_latency_seconds_count") == 0
        assert (await client.get("/v1/requests")).json()["data"] == []
        engine.full = False
        await client.post(CHAT, json=BODY)
        assert total(await samples(client), "entropick_request_success_total") == 1
        assert len((await client.get("/v1/requests")).json()["data"]) == 1


async def test_a_request_that_failed_is_counted(engine: Any, serve: Any) -> None:
    async with serve(engine) as client:
        engine.fail_after = 0
        assert (await client.post(CHAT, json=BODY)).status_code == 500
        found = await samples(client)
        assert total(found, "entropick_request_success_total", finished_reason="error") == 1


async def test_gauges_of_running_requests_come_and_go(engine: Any, serve: Any) -> None:
    async with serve(engine) as client:
        engine.delay = 0.02
        both = [asyncio.create_task(client.post(CHAT, json=BODY)) for _ in range(2)]
        found: dict[Any, float] = {}

        async def slots() -> set[str]:
            nonlocal found
            found = await samples(client)
            return {dict(k[1])["slot"] for k in found if k[0] == "entropick_live_logits_entropy_bits"}

        while await slots() != {"0", "1"}:
            assert not any(task.done() for task in both)
            await asyncio.sleep(0.005)
        assert total(found, "entropick_num_requests_running") == 2
        assert total(found, "entropick_kv_cache_usage_ratio") == pytest.approx(2 / 8)
        both[0].cancel()
        engine.delay = 0
        await both[1]
        await asyncio.wait(both)
        found = await samples(client)
        assert not [k for k in found if k[0].startswith("entropick_live_")]
        assert total(found, "entropick_num_requests_running") == 0


async def test_a_report_between_steps_is_no_step(engine: Any, serve: Any) -> None:
    async with serve(engine) as client:
        await client.post(CHAT, json={**BODY, "max_tokens": 1})
        before = await samples(client)
        assert total(before, "entropick_engine_step_seconds_count") == 1
        cancelled = RequestOutput("r", (), FinishReason.CANCELLED)
        report = StepReport((cancelled,), (-1,), engine.gauges(), (), 0.0)
        for listener in engine.listeners:
            listener(report)
        after = await samples(client)
        assert total(after, "entropick_engine_step_seconds_count") == 1
        assert total(after, "entropick_engine_step_seconds_bucket") == total(
            before, "entropick_engine_step_seconds_bucket"
        )


async def test_help_says_choices_where_choices_are_counted(client: httpx.AsyncClient) -> None:
    await client.post("/v1/completions", json={"prompt": ["a", "b"], "n": 3, "max_tokens": 2})
    page = (await client.get("/metrics")).text
    families = {family.name: family for family in parse_plain(page)}
    found = await samples(client)
    for name, metric in (
        ("request_success", "request_success_total"),
        ("time_to_first_token_seconds", "time_to_first_token_seconds_count"),
        ("e2e_request_latency_seconds", "e2e_request_latency_seconds_count"),
        ("request_queue_time_seconds", "request_queue_time_seconds_count"),
    ):
        assert total(found, f"entropick_{metric}") == 6, "one POST"
        assert "choice" in families[f"entropick_{name}"].documentation.lower(), name
        assert not families[f"entropick_{name}"].documentation.startswith("Requests")
    assert total(found, "entropick_prompt_tokens_total") == 2 * len("xa")
    assert "once for all choices" in families["entropick_prompt_tokens"].documentation
    for name in ("num_requests_running", "num_requests_waiting"):
        assert families[f"entropick_{name}"].documentation.startswith("Rows")


async def test_openmetrics_with_exemplars(client: httpx.AsyncClient) -> None:
    answer = await client.post(CHAT, json=BODY)
    page = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert page.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in parse_open(page.text)}
    for name in ("entropick_logits_entropy_bits", "entropick_time_to_first_token_seconds"):
        exemplars = [s.exemplar for s in families[name].samples if s.exemplar]
        assert {e.labels["request_id"] for e in exemplars} == {answer.json()["id"]}
    assert (await client.get(f"/v1/requests/{answer.json()['id']}")).status_code == 200
    assert not any("request_id" in s.labels for f in families.values() for s in f.samples)


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda s: s.name)
def test_histograms_agree_with_counting(signal: Signal) -> None:
    rng = np.random.default_rng(0)
    histograms, column = SignalHistograms(), SIGNALS.index(signal)
    bounds = np.array(signal.buckets)
    values = np.concatenate(
        [rng.uniform(min(0, bounds[0] * 1.2), bounds[-1] * 1.2, 200), bounds, [np.nan, np.inf]]
    )
    rows = rng.uniform(0, 1, (len(values), len(SIGNALS)))
    rows[:, column] = values
    for part in np.array_split(rows, 7):
        histograms.observe(part, np.full(len(part), 2), ["r"] * len(part), [1.0] * len(part))
    known = values[np.isfinite(values)]
    samples = [s for s in histograms.family(column, "m").samples if s.labels["strategy"] == STRATEGIES[2]]
    found = {s.labels["le"]: s.value for s in samples if s.name == f"{signal.metric}_bucket"}
    sums = [s.value for s in samples if s.name == f"{signal.metric}_sum"]
    # OpenMetrics allows no sum beside buckets below 0: it would not be a counter
    assert sums == ([] if signal.buckets[0] < 0 else [pytest.approx(known.sum())])
    for bound in signal.buckets:
        assert found[str(float(bound))] == np.sum(known <= bound)
    assert found["+Inf"] == len(known)


def test_two_apps_do_not_share_metrics() -> None:
    Metrics()
    Metrics()


async def test_signals_are_counted_by_strategy(engine: Any, serve: Any) -> None:
    async with serve(engine) as client:
        await client.post(CHAT, json=BODY)
        await client.post(CHAT, json={**BODY, "temperature": 0})
        found = await samples(client)
        name = "entropick_logits_entropy_bits_count"
        seen = {dict(labels)["strategy"] for (n, labels) in found if n == name}
        assert seen == {"none", "greedy", "clarify", "explore", "high_uncertainty", "adaptive"}
        for strategy in seen:
            drawn = total(found, "entropick_tokens_total", strategy=strategy)
            assert total(found, name, strategy=strategy) == drawn > 0


def test_a_batched_histogram_is_what_the_library_counts() -> None:
    bounds = (0.1, 0.5, 2.0)
    ours, theirs = BatchedHistogram("x_seconds", "Help.", bounds), CollectorRegistry()
    histogram = Histogram("x_seconds", "Help.", ["model_name"], registry=theirs, buckets=bounds)
    assert list(ours.collect()) == [], "it has no name yet"
    ours.bind("m")
    histogram.labels("m")
    rng = np.random.default_rng(0)
    for values in ([], [0.1, 0.5, 2.0, 0.0], rng.exponential(1, 1300)):
        for value in values:
            ours.observe(float(value))
            histogram.labels("m").observe(float(value))
        (found,), (wanted,) = ours.collect(), theirs.collect()
        samples = {(s.name, s.labels.get("le")): s.value for s in wanted.samples if "_created" not in s.name}
        assert {(s.name, s.labels.get("le")): pytest.approx(s.value) for s in found.samples} == samples
        assert (found.documentation, found.type) == (wanted.documentation, wanted.type)


def test_every_strategy_has_its_series_before_its_first_token() -> None:
    histograms = SignalHistograms()
    assert {s.labels["strategy"] for s in histograms.family(0, "m").samples} == set(STRATEGIES)
    assert {s.value for s in histograms.family(0, "m").samples} == {0}
    histograms.observe(np.ones((1, len(SIGNALS))), np.array([0]), ["r"], [1.0])
    told = [s for s in histograms.family(0, "m").samples if s.name.endswith("_count")]
    assert {s.labels["strategy"]: s.value for s in told} == {
        strategy: float(strategy == STRATEGIES[0]) for strategy in STRATEGIES
    }


async def test_no_series_appears_when_something_is_counted(engine: Any, serve: Any) -> None:
    """rate() misses the first count of a series that it makes."""
    async with serve(engine) as client:
        before = {key for key in await samples(client) if not key[0].startswith("entropick_live_")}
        for fields in ({}, {"n": 2, "temperature": 0}, {"n": 0}, {"stream": True}):
            await client.post(CHAT, json={**BODY, **fields})
        await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1})
        await client.post("/tokenize", json={"prompt": "x"})
        engine.fail_after = 2
        await client.post(CHAT, json=BODY)
        engine.full = True
        await client.post(CHAT, json=BODY)
        await client.get("/v1/models")
        await client.get("/v1/requests/unknown")
        after = {key for key in await samples(client) if not key[0].startswith("entropick_live_")}
        assert after == before


async def test_a_choice_whose_client_leaves_in_its_first_step_is_counted(engine: Any, serve: Any) -> None:
    """The report of the step comes behind the end; what is cancelled before any step never counts."""
    async with serve(engine) as client:
        metrics = client.app.state.server.metrics
        figures = ChoiceFigures(3, 0, 0, 5)
        gauges = engine.gauges()
        for name in ("ran", "never"):
            metrics.choices.on_begin(name)
            assert not metrics.on_end(name, "cancelled", 0.2, figures)
        cancelled = RequestOutput("never", (), FinishReason.CANCELLED)
        metrics.on_step(StepReport((cancelled,), (-1,), gauges, (("ran", 0.1),), 0.01))
        cancelled = RequestOutput("ran", (), FinishReason.CANCELLED)
        metrics.on_step(StepReport((cancelled,), (0,), gauges, (), 0.01))
        metrics.on_step(StepReport((), (), gauges, (("other", 0.1),), 0.01))
        found = await samples(client)
        assert total(found, "entropick_request_success_total", finished_reason="cancelled") == 1
        assert total(found, "entropick_request_queue_time_seconds_count") == 2
        for name in ("e2e_request_latency", "request_inference_time"):
            assert total(found, f"entropick_{name}_seconds_count") == 1
        # those of which no report ever comes are forgotten in time
        for number in range(3000):
            metrics.choices.on_begin(f"refused-{number}")
            metrics.on_end(f"refused-{number}", "error", 0.1, figures)
        assert len(metrics.choices._left) <= 1024


async def test_what_a_choice_asked_for_and_got(engine: Any, serve: Any) -> None:
    async with serve(engine) as client:
        engine.preempt_at = 2
        await client.post("/v1/completions", json={"prompt": ["abcde", "fghi"], "n": 2, "max_tokens": 7})
        found = await samples(client)

        def histogram(name: str) -> tuple[float, float]:
            return total(found, f"entropick_{name}_count"), total(found, f"entropick_{name}_sum")

        assert histogram("request_prompt_tokens") == (4, 2 * len("xabcde") + 2 * len("xfghi"))
        assert histogram("request_prefill_kv_computed_tokens") == (4, 2 * (6 - 4) + 2 * (5 - 4))
        assert histogram("request_generation_tokens") == (4, 28)
        assert histogram("request_params_max_tokens") == (4, 28)
        assert histogram("request_params_n") == (2, 4)
        assert histogram("request_num_preemptions") == (4, 4)
        assert histogram("iteration_tokens")[0] == total(found, "entropick_engine_step_seconds_count")
        assert total(found, "entropick_clarifying_texts_total") == 4
        whole = histogram("e2e_request_latency_seconds")[1]
        parts = [
            histogram(f"{part}_seconds")
            for part in ("request_queue_time", "request_prefill_time", "request_decode_time")
        ]
        assert [count for count, _ in parts] == [4, 4, 4]
        assert sum(seconds for _, seconds in parts) == pytest.approx(whole)
        inference = histogram("request_inference_time_seconds")
        assert inference[1] == pytest.approx(whole - parts[0][1])
        per_token = histogram("request_time_per_output_token_seconds")
        assert per_token == (4, pytest.approx(parts[2][1] / 6))


async def test_http_requests_by_route_and_status(client: httpx.AsyncClient) -> None:
    await client.post(CHAT, json=BODY)
    await client.post(CHAT, json={**BODY, "n": 0})
    await client.get("/v1/requests/unknown")
    for path in ("/invented/1", "/invented/2"):
        await client.request("BREW", path)
    found = await samples(client)
    counted = {
        (dict(k)["method"], dict(k)["handler"], dict(k)["status"]): v
        for (name, k), v in found.items()
        if name == "entropick_http_requests_total" and v
    }
    assert counted == {
        ("POST", CHAT, "200"): 1,
        ("POST", CHAT, "400"): 1,
        ("GET", "/v1/requests/{answer_id}", "404"): 1,
        ("other", "none", "404"): 2,
    }


async def test_facts_of_model_and_profile(engine: Any, serve: Any, profile: Any) -> None:
    engine.profile = profile
    async with serve(engine, max_num_seqs=5) as client:
        found = await samples(client)
        assert total(found, "entropick_model_info", architecture="Fake", profile=profile.id) == 1
        assert total(found, "entropick_cache_config_info", num_blocks="8", max_num_seqs="5") == 1
        level = {"signal": "logits_entropy", "level": "0.5"}
        assert total(found, "entropick_calibration_bin_tokens_total") == 0
        assert total(found, "entropick_calibration_quantile", **level) == 4
        assert total(found, "entropick_calibration_threshold", threshold="greedy_entropy") == 0.5


def test_drift_counts_drawn_tokens_by_the_bins_of_the_profile(profile: Any) -> None:
    drift = DriftCollector()
    assert list(drift.collect()) == []
    drift.bind("m", profile)
    values = np.full((6, len(SIGNALS)), np.nan)
    # the quantiles of this profile are 0, 1 ... 8; the last row was forced
    values[:, 0] = [-1.0, 0.0, 0.5, 8.0, 9.0, 3.5]
    drift.observe(values, np.array([True] * 5 + [False]))
    tokens, shares = drift.collect()
    counts = {s.labels["level"]: s.value for s in tokens.samples if s.labels["signal"] == SIGNALS[0].name}
    assert {k: v for k, v in counts.items() if v} == {"0.01": 2, "0.05": 1, "0.99": 1, "1.0": 1}
    assert sum(s.value for s in tokens.samples) == 5
    assert [round(s.value, 9) for s in shares.samples] == [
        0.01, 0.04, 0.05, 0.15, 0.25, 0.25, 0.15, 0.05, 0.04, 0.01,
    ]  # fmt: skip


def test_the_newest_value_of_a_bucket_is_its_exemplar() -> None:
    histograms = SignalHistograms()
    values = np.full((4, len(SIGNALS)), np.nan)
    values[:, 0] = [0.03, 0.04, 7.0, 0.02]
    histograms.observe(values, np.array([0, 0, 0, 1]), ["a-0", "b-0", "c-0", "d-0"], [1.0, 2.0, 3.0, 4.0])
    told = {
        (s.labels["strategy"], s.labels["le"]): (
            s.exemplar.labels["request_id"],
            s.exemplar.value,
            s.exemplar.timestamp,
        )
        for s in histograms.family(0, "m").samples
        if s.exemplar
    }
    assert told == {
        (STRATEGIES[0], "0.05"): ("b", 0.04, 2.0),
        (STRATEGIES[0], "8.0"): ("c", 7.0, 3.0),
        (STRATEGIES[1], "0.05"): ("d", 0.02, 4.0),
    }


async def test_tokens_that_wait_are_counted_at_a_scrape_and_beyond_it(engine: Any, serve: Any) -> None:
    async with serve(engine) as client:
        generated = 0
        for _ in range(12):
            generated += (await client.post(CHAT, json=BODY)).json()["usage"]["completion_tokens"]
        assert generated > 300
        found = await samples(client)
        assert total(found, "entropick_logits_entropy_bits_count") == generated
        assert found == {**found, **{k: v for k, v in (await samples(client)).items() if "logits" in k[0]}}


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "text/plain; version=1.0.0; escaping=allow-utf-8",
        "application/openmetrics-text",
        "application/openmetrics-text; version=1.0.0; escaping=allow-utf-8",
        "application/openmetrics-text; version=1.0.0; escaping=underscores",
        "application/openmetrics-text; version=1.0.0; escaping=dots",
        "application/openmetrics-text; version=1.0.0; escaping=values",
    ],
)
async def test_the_page_is_what_the_library_writes(
    engine: Any, serve: Any, profile: Any, accept: str
) -> None:
    engine.profile = profile
    async with serve(engine, served_model_name='a "b"\\c') as client:
        await client.post(CHAT, json=BODY)
        await client.post(CHAT, json={**BODY, "temperature": 0})
        metrics = client.app.state.server.metrics
        metrics.choices.on_first_token("a-0", 0.1, 3_000_000)
        page = metrics.snapshot()
        for _ in range(2):  # what was written before is remembered
            found, content_type = page.encode(accept)
            encoder, wanted_type = choose_encoder(accept)
            assert found == encoder(page)
            assert content_type == wanted_type
        assert found.count(b"\n") > 1000


def test_a_kind_of_family_without_a_form_is_no_page() -> None:
    with pytest.raises(ValueError, match="of type info"):
        PageWriter().write([InfoMetricFamily("entropick_x", "Help.")], openmetrics=True)


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
async def test_no_series_tells_when_it_was_made(client: httpx.AsyncClient, accept: str) -> None:
    await client.post(CHAT, json=BODY)
    page = (await client.get("/metrics", headers={"Accept": accept})).text
    assert "entropick_request_success_total" in page
    assert "_created" not in page
