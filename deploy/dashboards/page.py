"""A dashboard of rows of panels, with the variables that all of ours share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardLinkType,
    VariableRefresh,
)

from .panels import PROMETHEUS, AnyPanel


@dataclass(frozen=True, slots=True)
class Row:
    """A titled row of panels; a collapsed row asks Prometheus nothing until it is opened."""

    title: str
    panels: Sequence[AnyPanel]
    collapsed: bool = False


def page(uid: str, title: str, why: str, content: Sequence[Row], refresh: str = "10s") -> dashboard.Dashboard:
    """Returns a dashboard with its rows, the choice of a model and links to the other dashboards."""
    links = (
        dashboard.DashboardLink("entropick")
        .type(DashboardLinkType.DASHBOARDS)
        .tags(["entropick"])
        .as_dropdown(False)
        .keep_time(True)
        .include_vars(True)
    )
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(why)
        .tags(["entropick"])
        .refresh(refresh)
        .time("now-30m", "now")
        .timezone("browser")
        .readonly()
        .with_variable(label_variable("model", "label_values(entropick_model_info, model_name)", "Model"))
        .link(links)
    )
    for row in content:
        if row.collapsed:
            hidden = dashboard.Row(row.title).collapsed(True)
            for panel in row.panels:
                hidden = hidden.with_panel(panel)
            built = built.with_row(hidden)
        else:
            built = built.with_row(dashboard.Row(row.title))
            for panel in row.panels:
                built = built.with_panel(panel)
    return built


def label_variable(name: str, query: str, label: str) -> dashboard.QueryVariable:
    """Returns a variable that takes the values of a label, several or all of them."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(PROMETHEUS)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .all_value(".*")
        .multi(True)
    )


def as_json(built: dashboard.Dashboard) -> str:
    """Returns a dashboard as Grafana reads it: panels numbered, keys sorted for readable diffs."""
    finished = built.build()
    _number(finished)
    return JSONEncoder(sort_keys=True, indent=1, ensure_ascii=False).encode(finished) + "\n"


def _number(finished: Dashboard) -> None:
    number = 0
    for panel in finished.panels or []:
        number += 1
        panel.id_val = number
        for inner in getattr(panel, "panels", None) or []:
            number += 1
            inner.id_val = number
