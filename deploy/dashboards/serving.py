"""The dashboard of the server's work: the panels of vLLM's own dashboard and more, under our names."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from .page import Row, page
from .panels import MODEL, AnyPanel, Query, buckets, number, quantiles, rate, rows, stacked, time_series


def serving() -> Dashboard:
    """Returns the dashboard ``entropick: serving``."""
    return page(
        "entropick-serving",
        "entropick: serving",
        "Traffic, latency, tokens, queue and KV cache.",
        [
            Row("At a glance", _glance()),
            Row("Traffic", _traffic()),
            Row("Latency", _latency()),
            Row("Scheduler and KV cache", _scheduler()),
            Row("Sizes", _sizes(), collapsed=True),
            Row("Server", _server()),
        ],
    )


def _glance() -> list[AnyPanel]:
    return [
        number(
            "Running",
            "Rows that run now; an open branch is one.",
            Query(f"sum(entropick_num_requests_running{{{MODEL}}})"),
        ),
        number(
            "Waiting",
            "Rows in the engine's queue now.",
            Query(f"sum(entropick_num_requests_waiting{{{MODEL}}})"),
        ),
        number(
            "Tokens/s",
            "Generated tokens a second, over 5 minutes.",
            Query(f"sum(entropick:generation_tokens:rate5m{{{MODEL}}})"),
        ),
        number(
            "Choices/s",
            "Choices that ended, a second, over 5 minutes.",
            Query(f"sum(entropick:request_success:rate5m{{{MODEL}}})"),
        ),
        number(
            "KV cache",
            "The fullest KV cache.",
            Query(f"max(entropick:kv_cache_usage_ratio:max{{{MODEL}}})"),
            "percentunit",
        ),
        number(
            "Failed",
            "Share of choices that the engine gave up, over 5 minutes.",
            Query(f"max(entropick:request_errors:ratio_rate5m{{{MODEL}}})"),
            "percentunit",
        ),
    ]


def _traffic() -> list[AnyPanel]:
    return [
        time_series(
            "Token throughput",
            "Prompt tokens and generated tokens a second.",
            [
                rate("entropick_prompt_tokens_total", legend="prompt"),
                rate("entropick_generation_tokens_total", legend="generated"),
            ],
        ),
        stacked(
            "Choices by end",
            "Choices that ended, a second, by finish reason.",
            [rate("entropick_request_success_total", "finished_reason")],
            "reqps",
        ),
        stacked(
            "HTTP by status",
            "HTTP requests a second, by route and status.",
            [rate("entropick_http_requests_total", "handler, status", "{{handler}} {{status}}")],
            "reqps",
        ),
    ]


def _latency() -> list[AnyPanel]:
    return [
        time_series(title, why, quantiles(f"entropick_{name}_seconds"), "s")
        for title, why, name in (
            ("Time to first token", "From a request's arrival to the first token.", "time_to_first_token"),
            ("Between tokens", "Time between two tokens of a choice.", "inter_token_latency"),
            (
                "Time per output token",
                "Mean time a token, a choice at a time.",
                "request_time_per_output_token",
            ),
            ("End to end", "From a request's arrival to its end.", "e2e_request_latency"),
            ("Queue", "From a request's arrival to its first step.", "request_queue_time"),
            ("Prefill", "From the first step to the first token.", "request_prefill_time"),
            ("Decode", "From the first token to the end.", "request_decode_time"),
            ("Inference", "From the first step to the end.", "request_inference_time"),
            ("Engine step", "One step of the engine: a token for every row.", "engine_step"),
        )
    ]


def _scheduler() -> list[AnyPanel]:
    hits, queries = (rate(f"entropick_prefix_cache_{name}_total").expr for name in ("hits", "queries"))
    return [
        time_series(
            "Rows running and waiting",
            "The engine's rows, by state.",
            [
                Query(f"sum(entropick_num_requests_running{{{MODEL}}})", "running"),
                Query(f"sum(entropick_num_requests_waiting{{{MODEL}}})", "waiting"),
            ],
        ),
        time_series(
            "KV cache in use",
            "Share of the blocks in use, a server.",
            [Query(f"entropick_kv_cache_usage_ratio{{{MODEL}}}", "{{instance}}")],
            "percentunit",
        ),
        time_series(
            "Prefix cache hits",
            "Share of prompt tokens whose keys were in the cache.",
            [Query(f"{hits} / {queries}", "hits")],
            "percentunit",
        ),
        time_series(
            "Preemptions",
            "Times a second that a sequence gave its blocks up.",
            [rate("entropick_num_preemptions_total", legend="preemptions")],
        ),
        buckets(
            "Tokens a step",
            "Generated tokens of a step, and prompt tokens that began in it.",
            "entropick_iteration_tokens",
        ),
        time_series(
            "HTTP answer time",
            "From an HTTP request to the last byte of its answer, 95 % by route.",
            quantiles("entropick_http_request_duration_seconds", (0.95,), "handler"),
            "s",
        ),
    ]


def _sizes() -> list[AnyPanel]:
    return [
        buckets(title, why, f"entropick_{name}")
        for title, why, name in (
            ("Prompt length", "Tokens of the prompt.", "request_prompt_tokens"),
            (
                "Computed prompt tokens",
                "Tokens of the prompt that the KV cache lacked.",
                "request_prefill_kv_computed_tokens",
            ),
            ("Reply length", "Tokens of the reply.", "request_generation_tokens"),
            ("max_tokens", "Tokens that a choice may have.", "request_params_max_tokens"),
            ("n", "Choices asked for, a prompt.", "request_params_n"),
            ("Preemptions a choice", "Times that a choice gave its blocks up.", "request_num_preemptions"),
        )
    ]


def _server() -> list[AnyPanel]:
    of_ours = "and on (instance) entropick_model_info"
    return [
        time_series(
            "Processor",
            "Processors in use by a server's process.",
            [Query(f"rate(process_cpu_seconds_total[$__rate_interval]) {of_ours}", "{{instance}}")],
        ),
        time_series(
            "Memory",
            "Resident memory of a server's process.",
            [Query(f"process_resident_memory_bytes {of_ours}", "{{instance}}")],
            "bytes",
        ),
        rows(
            "Model",
            "The served model, its profile and version.",
            [Query(f"entropick_model_info{{{MODEL}}}")],
            ["Value"],
        ),
        rows(
            "KV cache and limits",
            "Blocks, batch and context.",
            [Query(f"entropick_cache_config_info{{{MODEL}}}")],
            ["Value"],
        ).span(12),
        rows(
            "Alerts",
            "Alerts of ours that fire or are about to; empty while all is well.",
            [Query('ALERTS{alertname=~"Entropick.*"}')],
            ["Value"],
        ).span(12),
    ]
