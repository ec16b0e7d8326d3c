"""Panels with one look, and the queries in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Panel,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS: Final = DataSourceRef(type_val="prometheus", uid="entropick-prometheus")
MODEL: Final = 'model_name=~"$model"'
"""the matcher that every query of a metric of ours has"""
HEIGHT: Final = 8
AnyPanel: TypeAlias = Builder[Panel]
PanelBuilder = TypeVar("PanelBuilder", timeseries.Panel, heatmap.Panel, stat.Panel, table.Panel)


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and the legend of its series."""

    expr: str
    legend: str = ""
    exemplars: bool = False


def quantiles(metric: str, levels: Sequence[float] = (0.5, 0.95, 0.99), by: str = "") -> list[Query]:
    """Returns the queries of a histogram's quantiles; ``by``: a label that splits them."""
    labels, legend = (f"le, {by}", f"{{{{{by}}}}} ") if by else ("le", "")
    summed = f"sum by ({labels}) (rate({metric}_bucket{{{MODEL}}}[$__rate_interval]))"
    return [
        Query(
            f"histogram_quantile({level}, {summed})",
            f"{legend}{level:.0%}",
            exemplars=level == levels[-1],
        )
        for level in levels
    ]


def rate(metric: str, by: str = "", legend: str = "", matcher: str = "") -> Query:
    """Returns the query of a counter's rate, summed, or by a label; ``matcher``: a further label matcher."""
    matchers = f"{MODEL}, {matcher}" if matcher else MODEL
    summed = f"sum by ({by})" if by else "sum"
    default = f"{{{{{by}}}}}" if by else metric
    return Query(f"{summed} (rate({metric}{{{matchers}}}[$__rate_interval]))", legend or default)


def time_series(title: str, why: str, queries: Sequence[Query], unit: str = "short") -> timeseries.Panel:
    """Returns a panel of lines over time."""
    panel = (
        timeseries.Panel().unit(unit).fill_opacity(8).line_width(1).show_points(common.VisibilityMode.NEVER)
    )
    legend = (
        common_builders.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    tooltip = common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    return _filled(panel.legend(legend).tooltip(tooltip), title, why, queries)


def stacked(title: str, why: str, queries: Sequence[Query], unit: str = "short") -> timeseries.Panel:
    """Returns a panel of areas that add up."""
    stacking = common_builders.StackingConfig().mode(common.StackingMode.NORMAL)
    return time_series(title, why, queries, unit).fill_opacity(60).line_width(0).stacking(stacking)


def buckets(title: str, why: str, metric: str, unit: str = "short") -> heatmap.Panel:
    """Returns a heat map of a histogram over time, with its exemplars."""
    expr = f"sum by (le) (rate({metric}_bucket{{{MODEL}}}[$__rate_interval]))"
    axis = heatmap.YAxisConfig().unit(unit)
    panel = heatmap.Panel().y_axis(axis).show_tooltip().show_y_histogram().exemplars_color("#ffffff")
    return _filled(panel, title, why, [Query(expr, "{{le}}", exemplars=True)], PromQueryFormat.HEATMAP)


def number(title: str, why: str, query: Query, unit: str = "short") -> stat.Panel:
    """Returns a panel of one number, with its course in the background."""
    reduced = common_builders.ReduceDataOptions().calcs(["lastNotNull"])
    panel = stat.Panel().unit(unit).reduce_options(reduced).color_mode(common.BigValueColorMode.NONE)
    return _filled(panel, title, why, [query]).height(4).span(4)


def rows(
    title: str,
    why: str,
    queries: Sequence[Query],
    hidden: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
) -> table.Panel:
    """Returns a table of the newest values, a row a series.

    ``hidden`` columns are left out; ``names``: new names of columns, where "Value #A" is the first query's.
    """
    excluded = dict.fromkeys(("Time", "__name__", "instance", "job", *hidden), True)
    panel = _filled(table.Panel(), title, why, queries, PromQueryFormat.TABLE)
    if len(queries) > 1:
        panel = panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    options = {"excludeByName": excluded, "renameByName": dict(names or {})}
    return panel.with_transformation(DataTransformerConfig(id_val="organize", options=options))


def link(title: str, url: str) -> DynamicConfigValue:
    """Returns the property of a field that leads to another page."""
    return DynamicConfigValue(id_val="links", value=[{"title": title, "url": url}])


def _filled(
    panel: PanelBuilder,
    title: str,
    why: str,
    queries: Sequence[Query],
    form: PromQueryFormat = PromQueryFormat.TIME_SERIES,
) -> PanelBuilder:
    """Returns the panel with its title, a line that says what it shows, and its queries."""
    panel = panel.title(title).description(why).datasource(PROMETHEUS).height(HEIGHT).span(8)
    for index, query in enumerate(queries):
        panel = panel.with_target(target(query, chr(ord("A") + index), form))
    return panel


def target(query: Query, ref_id: str, form: PromQueryFormat) -> prometheus.Dataquery:
    """Returns a query as Grafana has it: a table is of one moment, all else of a range."""
    built = (
        prometheus.Dataquery()
        .expr(query.expr)
        .legend_format(query.legend)
        .ref_id(ref_id)
        .format(form)
        .exemplar(query.exemplars)
        .datasource(PROMETHEUS)
    )
    return built.instant() if form is PromQueryFormat.TABLE else built.range()
