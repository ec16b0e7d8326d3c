"""The queries of the dashboards, rules and alerts, as Prometheus takes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dashboards.__main__ import all_panels

DEPLOY = Path(__file__).parents[2] / "deploy"
PAGES = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
VARIABLES = {"$model": ".*", "$slot": ".*", "$__rate_interval": "1m"}
"""the variables of the pages and of Grafana"""


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every panel with the name of its page."""
    for path in PAGES:
        page = json.loads(path.read_text())
        yield from ((page["title"], panel) for panel in all_panels(page))


def panel_queries() -> Iterator[tuple[str, str]]:
    """Every PromQL query of a panel: where it is, and the query with its variables filled in."""
    for page, panel in panels():
        for target in panel["targets"]:
            if expr := target.get("expr"):
                for name, value in VARIABLES.items():
                    expr = expr.replace(name, value)
                yield f"{page} / {panel['title']} / {target['refId']}", expr


def variable_queries() -> Iterator[tuple[str, str]]:
    """The metric and the label of every variable of a page that asks Prometheus."""
    for path in PAGES:
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"])
                assert found, variable
                yield found[1], found[2]


def json_queries() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every query of a JSON route."""
    for page, panel in panels():
        for target in panel["targets"]:
            if target.get("type") == "json":
                yield f"{page} / {panel['title']}", target


def rules() -> Iterator[dict[str, Any]]:
    """Every recording rule and alert."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def names(expr: str) -> set[str]:
    """The metrics of ours in an expression, recorded or scraped."""
    return set(re.findall(r"\b(?:entropick[a-z0-9_:]*)\b", re.sub(r'"[^"]*"', '""', expr)))
