"""A real Prometheus, some minutes of load: every query has data, or is empty for a reason that is shown."""

from __future__ import annotations

import math
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from entropick_sampler.signals import SIGNALS

from .conftest import DEPLOY, program
from .load import CHAT, Load
from .programs import Prometheus, Server
from .queries import RULES, json_queries, names, panel_queries, rules, variable_queries

BASELINE = re.compile(r"entropick:\w+:baseline1d")
"""compares with the day up to an hour ago, which a server of some minutes does not have"""
FIRING = "ALERTS{"
"""the list of alerts that fire, which is empty while all is well"""


def why_empty(expr: str, prometheus: Prometheus) -> str | None:
    """The reason why an expression has no data here, shown by another query; None where there is none."""
    if BASELINE.search(expr):
        source = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
        for name in BASELINE.findall(expr):
            recent = source[name].replace("[1d] offset 1h", "[1m]")
            assert recent != source[name]
            if not prometheus.values(recent):
                return None
        return "the baseline begins after an hour; over the last minute the same query has data"
    if expr.startswith(FIRING):
        fired = [rule["name"] for rule in prometheus.rules() if rule.get("state") in ("pending", "firing")]
        return None if fired else "no alert fires or is about to"
    return None


def check(place: str, expr: str, prometheus: Prometheus, empty: dict[str, str]) -> str | None:
    """Notes a query that is empty for a reason; returns the fault of another."""
    if prometheus.values(expr):
        return None
    reason = why_empty(expr, prometheus)
    if reason is None:
        return f"{place}: no data for {expr}"
    empty[place] = reason
    return None


def test_every_panel_has_data(loaded: Load, prometheus: Prometheus) -> None:
    empty: dict[str, str] = {}
    queries = list(panel_queries())
    faults = [fault for place, expr in queries if (fault := check(place, expr, prometheus, empty))]
    print(f"\n{len(queries)} queries of panels, {len(queries) - len(empty) - len(faults)} with data")
    for place, reason in empty.items():
        print(f"  empty: {place}: {reason}")
    assert not faults, "\n".join(faults)


def test_every_variable_has_values(loaded: Load, prometheus: Prometheus) -> None:
    for metric, label in variable_queries():
        assert prometheus.get(f"label/{label}/values", **{"match[]": metric}), (metric, label)


def test_every_rule_has_data(loaded: Load, prometheus: Prometheus) -> None:
    evaluated = {rule["name"]: rule for rule in prometheus.rules()}
    empty: dict[str, str] = {}
    faults = []
    for rule in rules():
        name = rule.get("record") or rule["alert"]
        assert evaluated[name]["health"] == "ok", evaluated[name]
        assert not evaluated[name].get("lastError"), evaluated[name]
        if "record" in rule and (fault := check(name, name, prometheus, empty)):
            faults.append(fault)
    print(f"\n{len(evaluated)} rules are evaluated without an error")
    for place, reason in empty.items():
        print(f"  empty: {place}: {reason}")
    assert not faults, "\n".join(faults)


MAY_FIRE = {"EntropickQueue", "EntropickSlowFirstToken", "EntropickSlowTokens"}
"""alerts that say that this machine is slow, or busy with other things"""


def test_every_alert_is_silent_over_figures_that_exist(loaded: Load, prometheus: Prometheus) -> None:
    states = {rule["name"]: rule["state"] for rule in prometheus.rules() if rule["type"] == "alerting"}
    empty: dict[str, str] = {}
    for rule in rules():
        if "alert" not in rule:
            continue
        slow = rule["alert"] in MAY_FIRE and bool(prometheus.get("query", query=rule["expr"])["result"])
        assert slow or states[rule["alert"]] == "inactive", rule["alert"]
        figures = names(rule["expr"]) or {'up{job="entropick"}'}
        for figure in figures:
            assert not check(f"{rule['alert']} / {figure}", figure, prometheus, empty)
        state = "right to fire, on a slow machine" if slow else "silent"
        print(f"  {rule['alert']}: {state}; it reads {', '.join(sorted(figures))}")


def test_exemplars_lead_to_requests(loaded: Load, server: Server, prometheus: Prometheus) -> None:
    now = time.time()
    for metric in ("entropick_logits_entropy_bits_bucket", "entropick_time_to_first_token_seconds_bucket"):
        found = prometheus.get("query_exemplars", query=metric, start=str(now - 600), end=str(now))
        exemplars = sorted(
            (e for series in found for e in series["exemplars"]), key=lambda e: float(e["timestamp"])
        )
        ids = [e["labels"]["request_id"] for e in exemplars]
        assert len(set(ids)) > 5
        newest = ids[-1]
        remembered = httpx.get(f"{server.url}/v1/requests/{newest}", timeout=30)
        assert remembered.status_code == 200
        print(f"\n{metric}: {len(ids)} exemplars of {len(set(ids))} requests; {newest} is remembered")
        if metric.startswith("entropick_logits"):
            values = [v for c in remembered.json()["choices"] for v in c["series"]["logits_entropy"]]
            assert any(math.isclose(v, float(exemplars[-1]["value"]), rel_tol=1e-5) for v in values)


def test_json_queries_have_data(loaded: Load, server: Server) -> None:
    newest = httpx.get(f"{server.url}/v1/requests", timeout=30).json()["data"][0]["id"]
    for place, target in json_queries():
        url = target["url"].replace("${request}", newest)
        found: Any = httpx.get(f"{server.url}{url}", timeout=30).json()
        for part in re.findall(r"\w+", target["root_selector"].replace("${choice}", "0")):
            found = found[int(part)] if part.isdigit() else found[part]
        if target["json_options"]["columnar"]:
            lengths = {len(found[column["selector"]]) for column in target["columns"]}
            assert len(lengths) == 1, place
            assert lengths != {0}, place
        else:
            assert found, place
            for column in target["columns"]:
                value = found[0]
                for part in column["selector"].split("."):
                    value = value.get(part, {}) if part == "error_probability" else value[part]


def test_promtool(loaded: Load, server: Server, promtool: str) -> None:
    folder = DEPLOY / "prometheus"
    tests = sorted(map(str, (folder / "tests").glob("*.yml")))
    for command in (
        ["check", "config", str(folder / "prometheus.yml")],
        ["check", "rules", *map(str, RULES)],
        ["test", "rules", *tests],
    ):
        run = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        print(f"\npromtool {command[0]} {command[1]}: {len(command) - 2} files, passed")


def test_promtool_finds_nothing_in_the_metrics_but_bits(loaded: Load, server: Server, promtool: str) -> None:
    """Of names in bits it remarks that data sizes are counted in bytes; a bit of information is none."""
    command = [promtool, "check", "metrics"]
    run = subprocess.run(command, input=server.page(), capture_output=True, text=True, check=False)
    remarks = (run.stdout + run.stderr).splitlines()
    bits = {s.metric for s in SIGNALS if s.unit == "bits"}
    bits |= {name.replace("entropick_", "entropick_live_", 1) for name in bits}
    bits |= {"entropick_layer_token_cost_bits", "entropick_request_token_cost_bits"}
    other = [
        line
        for line in remarks
        if not (
            (found := re.fullmatch(r'(\S+) use base unit "bytes" instead of "bits"', line))
            and found[1] in bits
        )
    ]
    assert run.returncode in (0, 3), remarks
    assert not other, other
    print(f"\npromtool check metrics: {len(remarks)} remarks, each that bits should be bytes; no other")


def test_series_stay_as_many_over_5000_requests(loaded: Load, server: Server, prometheus: Prometheus) -> None:
    counts = [(0, server.series())]
    for _ in range(5):
        loaded.short(1000)
        counts.append((counts[-1][0] + 1000, server.series()))
    time.sleep(11)  # two scrapes
    in_prometheus = prometheus.newest('count({__name__=~"entropick_.*", job="entropick"})')
    print("\nrequests -> series of the page:", ", ".join(f"{n} -> {series}" for n, series in counts))
    print(f"series of the server in Prometheus at the end: {in_prometheus:.0f}")
    assert loaded.ends.keys() <= {200, 400}, loaded.ends
    assert len({series for _, series in counts[1:]}) == 1
    assert in_prometheus == counts[-1][1], "no series of a choice that ended is left"


def test_a_slot_follows_one_request(server: Server, tmp_path: Path, loaded: Load) -> None:
    """Every value that Prometheus saw of the slot is the value of a token of the series, and they advance."""
    with Prometheus(
        program("prometheus"), DEPLOY / "prometheus", tmp_path, server.address, "200ms"
    ) as prometheus:
        prometheus.wait_for_scrapes(3)
        body = {
            "messages": [{"role": "user", "content": "Tell me a story."}],
            "temperature": 1.5,
            "seed": 5,
            "ignore_eos": True,
            "entropick": {"policy": "fixed"},
        }
        answer = httpx.post(f"{server.url}{CHAT}", json=body, timeout=120).json()
        time.sleep(1)
        (slot,) = prometheus.get("query", query="entropick_live_logits_entropy_bits[1m]")["result"]
        assert prometheus.get("query", query="entropick_live_logits_entropy_bits")["result"] == []
    seen = [(float(at), float(value)) for at, value in slot["values"]]
    record = httpx.get(f"{server.url}/v1/requests/{answer['id']}", timeout=30).json()
    series = record["choices"][0]["series"]["logits_entropy"]
    print(
        f"\n{answer['id']}: {len(series)} tokens; slot {slot['metric']['slot']} was scraped {len(seen)} times"
    )
    place = -1
    for at, value in seen:
        place = next(
            i for i in range(max(place, 0), len(series)) if math.isclose(series[i], value, rel_tol=1e-5)
        )
        print(f"  {at - seen[0][0]:6.2f} s  gauge {value:.6f}  token {place}: {series[place]:.6f}")
    assert len(seen) >= 3
