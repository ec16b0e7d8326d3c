"""The generated pages are fresh and whole; every rule has a unit test; every name in a query exists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.server.conftest import FakeEngine, make_profile

from dashboards.__main__ import main
from entropick_server.engine.types import EngineGauges
from entropick_server.metrics import Metrics, ServerFacts

from .queries import DEPLOY, PAGES, json_queries, names, panel_queries, panels, rules, variable_queries


def test_the_pages_and_the_list_of_panels_are_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_four_pages_with_panels_that_say_what_they_show() -> None:
    uids = [json.loads(path.read_text())["uid"] for path in PAGES]
    assert sorted(uids) == [f"entropick-{n}" for n in ("genuineness", "requests", "serving", "uncertainty")]
    found = list(panels())
    for page, panel in found:
        assert all(panel[part] for part in ("title", "description", "targets")), (page, panel)
    titles = [(page, panel["title"]) for page, panel in found]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_panels_are_numbered_and_do_not_overlap(path: Path) -> None:
    page = json.loads(path.read_text())
    flat = [inner for panel in page["panels"] for inner in (panel, *panel.get("panels", []))]
    assert len({panel["id"] for panel in flat}) == len(flat)
    taken: set[tuple[int, int]] = set()
    for panel in page["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_rule_has_a_unit_test() -> None:
    tested = "".join(path.read_text() for path in (DEPLOY / "prometheus" / "tests").glob("*.yml"))
    for rule in rules():
        if "alert" in rule:
            cases = [case for case in _alert_tests() if case["alertname"] == rule["alert"]]
            assert any(case["exp_alerts"] for case in cases), rule["alert"]
        else:
            assert rule["record"] in tested, rule["record"]


def _alert_tests() -> list[dict[str, Any]]:
    found = []
    for path in (DEPLOY / "prometheus" / "tests").glob("*.yml"):
        for test in yaml.safe_load(path.read_text())["tests"]:
            found += test.get("alert_rule_test", [])
    return found


def served_names() -> set[str]:
    """The names of all samples that a server can have."""
    metrics = Metrics()
    engine = FakeEngine()
    facts = ServerFacts("0", "torch", 4, True)
    metrics.bind(engine.info, make_profile(), facts, lambda: EngineGauges(0, 0, 0, 1))
    found = set()
    for family in metrics.snapshot().families:
        for suffix in ("", "_total", "_bucket", "_sum", "_count"):
            found.add(family.name + suffix)
    return found


def test_every_name_in_a_query_is_served_or_recorded() -> None:
    known = served_names() | {rule["record"] for rule in rules() if "record" in rule}
    queries = [
        *panel_queries(),
        *((str(rule.get("record") or rule["alert"]), rule["expr"]) for rule in rules()),
    ]
    queries += [(f"variable {label}", metric) for metric, label in variable_queries()]
    assert len(queries) > 100
    for place, expr in queries:
        assert names(expr) or "process_" in expr or "ALERTS" in expr or "up{" in expr, (place, expr)
        for name in names(expr):
            assert name in known, (place, name)


def test_json_queries_ask_routes_of_the_server() -> None:
    found = {target["url"] for _, target in json_queries()}
    assert found == {"/v1/requests", "/v1/requests/${request}"}


def test_provisioning_names_the_data_sources_of_the_pages() -> None:
    file = DEPLOY / "grafana" / "provisioning" / "datasources" / "entropick.yml"
    provided = {(source["type"], source["uid"]) for source in yaml.safe_load(file.read_text())["datasources"]}
    used = {(panel["datasource"]["type"], panel["datasource"]["uid"]) for _, panel in panels()}
    assert used == provided


def test_compose_mounts_files_that_exist() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yml").read_text())["services"]
    mounts = [volume for service in services.values() for volume in service["volumes"]]
    paths = [volume.partition(":")[0] for volume in mounts if volume.startswith("./")]
    assert len(paths) == 5
    for path in paths:
        assert (DEPLOY / path).exists(), path
