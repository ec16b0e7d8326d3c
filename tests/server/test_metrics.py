"""Prometheus: every metric moves, nothing stays behind, the page is well formed."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from entropick_sampler.signals import SIGNALS, Signal
from entropick_server.engine.types import FinishReason, RequestOutput, StepReport
from entropick_server.metrics import Metrics
from entropick_server.metrics.signals import SignalHistograms

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
        # this engine does not measure agreement: absent
        still = {"entropick_agreement_ratio", "entropick_live_agreement_ratio"}
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
        histograms.observe(part, ["r"] * len(part))
    known = values[np.isfinite(values)]
    samples = histograms.family(column, "m").samples
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
