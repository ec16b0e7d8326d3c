"""The outcome of a comparison: scores, calibration, the recommendation and how to serve with it."""

from __future__ import annotations

import json
import math
import shlex
from typing import Any

import pytest

from entropick_eval.arms import Arm, choose_arms
from entropick_eval.bootstrap import Interval
from entropick_eval.collect import Answer, Collected
from entropick_eval.comparison import Row, Scored, Table
from entropick_eval.open_text import OpenReply
from entropick_eval.recommend import as_consensus, recommend, serve_with
from entropick_eval.summary import summarise_half
from entropick_server import cli
from entropick_server.consensus.config import consensus_config
from entropick_server.settings import Settings


def answers(n: int) -> list[Answer]:
    """Builds answers, every third wrong: ``good`` says so, ``mean_entropy`` as a doubt, ``bad`` nothing."""
    found = []
    for at in range(n):
        right = at % 3 > 0
        features = {
            "good": float(right),
            "mean_entropy": float(not right),
            "bad": 1.0,
            "error_probability": 0.25,
            **({"answer_sum": -1.0} if right else {}),
            **({"rare": 1.0} if at else {}),
        }
        found.append(Answer(str(at), "ab"[at % 2], right, features))
    return found


def test_scores_and_calibration_of_the_baseline() -> None:
    marks = answers(60)
    scored = {one.item: Scored(float(one.right), 5, 5) for one in marks}
    found = Collected(
        {one.item: one.family for one in marks}, {"greedy": scored}, {"greedy": {}}, {"greedy": marks}
    )
    half = summarise_half("fit", found, choose_arms(["greedy"], "greedy"), "greedy", 200, 0)
    rows = {row.score: row for row in half.scores}
    assert set(rows) == {"good", "mean_entropy", "bad", "error_probability", "answer_sum"}
    for name in ("good", "mean_entropy", "answer_sum"):
        assert rows[name].within == rows[name].pooled == (1.0, 1.0, 1.0)
        assert rows[name].prr[0] == pytest.approx(1)
    assert rows["bad"].within[0] == 0.5
    assert half.calibration is not None
    assert half.calibration.n == 60
    # always 1/4 where a third is wrong
    assert half.calibration.ece == pytest.approx(1 / 12)
    assert half.calibration.brier == pytest.approx(1 / 3 * 0.75**2 + 2 / 3 * 0.25**2)
    assert half.calibration.base == pytest.approx(2 / 9)
    assert half.open == ()


def test_open_prompts_have_their_own_table() -> None:
    replies = {"p": OpenReply("a b c d a b c d", 9, 1.5), "q": OpenReply("e f", 3, None)}
    found = Collected({}, {"greedy": {}}, {"greedy": replies}, {})
    half = summarise_half("fit", found, choose_arms(["greedy"], "greedy"), "greedy", 200, 0)
    (row,) = half.open
    assert row.means["repeated_4grams"].estimate == pytest.approx(0.1)
    assert (row.means["mean_surprisal"].estimate, row.means["mean_surprisal"].n) == (1.5, 1)
    assert row.distinct[1] == pytest.approx(6 / 10)
    assert half.tables == ()


def row(arm: str, accuracy: float, relative: float, low: float = 0.01, missing: int = 0) -> Row:
    own = Interval(accuracy, 0, 1, 10)
    difference = None if arm == "base" else Interval(accuracy - 0.4, low, 1, 10)
    return Row(arm, own, difference, 0.01, 0.02, 10 * relative, 5, relative, missing)


def test_the_best_arm_of_each_budget_is_recommended() -> None:
    fit = Table(
        "all",
        10,
        (
            row("base", 0.4, 1),
            row("cheap", 0.45, 1.5),
            row("same", 0.6, 3.4),
            row("middle", 0.6, 3.2),
            row("dear", 0.7, 9),
            row("partly", 0.9, 1, missing=1),
        ),
    )
    test = Table("all", 10, (row("base", 0.4, 1), row("cheap", 0.4, 1.5, low=-0.1), row("middle", 0.5, 3.2)))
    found = recommend(fit, test, "base")
    assert [(one.budget, one.arm, one.confirmed) for one in found] == [
        (1.6, "cheap", False),
        (3.5, "middle", True),
        (math.inf, "dear", False),
    ]
    assert [one.confirmed for one in recommend(fit, None, "base")] == [False] * 3
    alone = Table("all", 10, (row("base", 0.4, 1), row("worse", 0.3, 1)))
    assert [one.arm for one in recommend(alone, None, "base")] == ["base"]


def settings_of(command: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Returns the settings that a printed command line makes."""
    seen: list[Any] = []
    monkeypatch.setattr(cli, "_serve", lambda settings, theirs: seen.append(settings) or 0)
    assert cli.main(shlex.split(command)[1:]) == 0
    found: Settings = seen[0]
    return found


def test_the_command_makes_the_arms_setting_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {
        "temperature": 0.3,
        "entropick": {
            "preset": "calibrated",
            "branch": {"width": 3},
            "overrides": {"top_p": 0.5},
            "telemetry": "full",
        },
    }
    found = serve_with(Arm("a", body), "/my models/m")
    assert json.loads(found.body) == body
    assert found.by_clients == ()
    settings = settings_of(found.command, monkeypatch)
    assert (settings.model, settings.preset, settings.branch) == ("/my models/m", "calibrated", {"width": 3})
    assert settings.overrides == {"temperature": 0.3, "top_p": 0.5}
    assert settings.telemetry == "summary"


def test_what_clients_have_to_send_is_said() -> None:
    fixed = Arm("a", {"temperature": 0.7, "top_p": 0.9, "entropick": {"policy": "fixed"}})
    assert serve_with(fixed, "").by_clients == ("temperature", "top_p")
    assert serve_with(fixed, "").command == "entropick serve --policy fixed"
    greedy = serve_with(Arm("greedy", {"temperature": 0.0}), "m")
    assert (greedy.by_clients, greedy.command) == (
        (),
        "entropick serve m --overrides '{\"temperature\": 0.0}'",
    )


def test_a_rule_that_the_server_has_is_served_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    arms = choose_arms(
        ["vote_3", "weighted_vote_5", "cascade_6", "best_of_5", "again_if_no_answer"], "greedy"
    )
    made = {
        name: as_consensus(rule, arms.requests[rule.of], "last_number") for name, rule in arms.rules.items()
    }
    assert made["best_of_5"] is None
    assert made["again_if_no_answer"] is None
    for name, (k, stop, first, weight) in {
        "vote_3": (3, "all", "sample", "none"),
        "weighted_vote_5": (5, "all", "sample", "mean_logprob"),
        "cascade_6": (6, "cascade", "greedy", "answer_logprob"),
    }.items():
        arm = made[name]
        assert arm is not None
        settings = settings_of(serve_with(arm, "m").command, monkeypatch)
        assert settings.consensus is not None
        config = consensus_config(settings.consensus)
        assert (config.k, config.stop.rule, config.first, config.weight.by) == (k, stop, first, weight)
        assert config.extract == "last_number"
