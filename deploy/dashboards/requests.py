"""The dashboard of single requests: running requests by slot, recent requests from the JSON routes."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, table, trend
from grafana_foundation_sdk.models import common

from entropick_sampler.signals import SIGNALS, Signal

from .json_route import SERVER, JsonQuery, JsonQueryBuilder, Kind
from .page import Row, label_variable, page
from .panels import HEIGHT, MODEL, AnyPanel, Query, buckets, link, rows, time_series

_SERIES = "/v1/requests/${request}"
_OF_CHOICE = "choices[${choice}].series"
_SLOT = f'{MODEL}, slot=~"$slot"'
_LIVE = ("logits_entropy", "logits_varentropy", "surprisal", "attention_entropy")


def requests() -> dashboard.Dashboard:
    """Returns the dashboard ``entropick: requests``."""
    built = page(
        "entropick-requests",
        "entropick: requests",
        "The entropy of single requests: running ones by slot, recent ones token by token.",
        [
            Row("Running now, by slot", _live()),
            Row("Find a request", _find()),
            Row("Request ${request}, token by token", _recent()),
        ],
        refresh="5s",
    )
    slots = "label_values(entropick_live_logits_entropy_bits, slot)"
    return (
        built.with_variable(label_variable("slot", slots, "Slot"))
        .with_variable(dashboard.TextBoxVariable("request").label("Request").default_value("none"))
        .with_variable(dashboard.TextBoxVariable("choice").label("Choice").default_value("0"))
    )


def _live() -> list[AnyPanel]:
    metrics = {signal.name: signal for signal in SIGNALS}
    lines: list[AnyPanel] = []
    for name in _LIVE:
        signal = metrics[name]
        title = f"{name.replace('_', ' ')} by slot ({signal.unit})"
        metric = _live_metric(signal)
        why = f"The newest value of {name} of every running choice; a slot's line ends with its choice."
        panel = time_series(title, why, [Query(f"{metric}{{{_SLOT}}}", "slot {{slot}}")])
        lines.append(panel.span(12).show_points(common.VisibilityMode.AUTO))
    names = {f"Value #{chr(ord('A') + i)}": name.replace("_", " ") for i, name in enumerate(_LIVE)}
    newest = [
        Query(
            f"sum by (slot) ({metrics[name].metric.replace('entropick_', 'entropick_live_', 1)}{{{_SLOT}}})"
        )
        for name in _LIVE
    ]
    lines.append(rows("Slots", "The newest values of every slot.", newest, names=names).span(24))
    return lines


def _live_metric(signal: Signal) -> str:
    return signal.metric.replace("entropick_", "entropick_live_", 1)


def _find() -> list[AnyPanel]:
    columns: dict[str, Kind] = {
        "id": "string",
        "choice": "number",
        "created": "timestamp_epoch_s",
        "finish_reason": "string",
        "prompt_tokens": "number",
        "completion_tokens": "number",
        "duration": "number",
        "summary.signals.logits_entropy.mean": "number",
        "summary.signals.logits_entropy.max": "number",
        "summary.error_probability": "number",
    }
    recent = (
        table.Panel()
        .title("Recent requests")
        .description("What GET /v1/requests remembers, newest first; an id opens its tokens below.")
        .datasource(SERVER)
        .height(HEIGHT)
        .span(12)
        .with_target(JsonQueryBuilder(JsonQuery("/v1/requests", "data", columns)))
        .override_by_name("id", [link("tokens", "/d/entropick-requests?var-request=${__value.raw}")])
    )
    dots = "Every dot is a token of a request: a click on its id opens the request below."
    return [
        buckets("Entropy of all tokens, with exemplars", dots, "entropick_logits_entropy_bits").span(12),
        recent,
    ]


def _recent() -> list[AnyPanel]:
    panels: list[AnyPanel] = []
    for title, why, names in (
        ("Entropy and surprisal", "Bits at every token of the reply.", ("logits_entropy", "surprisal")),
        ("Varentropy", "Bits^2 at every token of the reply.", ("logits_varentropy",)),
        ("Attention entropy", "Bits at every token of the reply.", ("attention_entropy",)),
        ("Genuineness", "G and the collapse rate over the last steps.", ("genuineness", "collapse_rate")),
    ):
        columns: dict[str, Kind] = {"index": "number", **dict.fromkeys(names, "number")}
        query = JsonQuery(_SERIES, _OF_CHOICE, columns, columnar=True)
        panels.append(
            trend.Panel()
            .title(title)
            .description(why)
            .datasource(SERVER)
            .x_field("index")
            .height(HEIGHT)
            .span(12)
            .with_target(JsonQueryBuilder(query))
        )
    told: dict[str, Kind] = {
        "index": "number",
        "token": "string",
        "strategy": "string",
        "temperature": "number",
        **{signal.name: "number" for signal in SIGNALS},
    }
    tokens = (
        table.Panel()
        .title("Tokens")
        .description("The tokens of the reply with the strategy that picked each, and all of its signals.")
        .datasource(SERVER)
        .height(12)
        .span(24)
        .with_target(JsonQueryBuilder(JsonQuery(_SERIES, _OF_CHOICE, told, columnar=True)))
    )
    return [*panels, tokens]
