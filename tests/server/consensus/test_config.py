"""The fields of ``consensus``: defaults, merging over a server's, refusals that name the field."""

from typing import Any

import pytest

from entropick_server.consensus.config import ConsensusConfig, StopConfig, WeightConfig, consensus_config


def test_defaults_and_names() -> None:
    assert consensus_config({"extract": "text"}) == ConsensusConfig("text")
    made = consensus_config(
        {
            "extract": {"regex": "a"},
            "k": 5.0,
            "weight": "none",
            "stop": {"rule": "beta", "threshold": 0.9},
            "first": "sample",
        }
    )
    assert made == ConsensusConfig({"regex": "a"}, 5, WeightConfig("none"), StopConfig("beta", 0.9), "sample")
    assert type(made.k) is int


def test_likeness_is_of_whole_texts() -> None:
    made = consensus_config({"extract": "similar"})
    assert made.similar
    assert made.extractor("The Fox!") == ("fox", 0, 8)
    assert not consensus_config({"extract": "text"}).similar


def test_thresholds_of_the_rules() -> None:
    assert StopConfig("beta").confidence == 0.95
    assert StopConfig("weighted_beta").confidence == StopConfig("cascade").confidence == 0.55
    assert StopConfig("beta", 0.7).confidence == 0.7


def test_fields_replace_those_of_the_server() -> None:
    server = consensus_config({"extract": "text", "k": 4, "weight": {"scale": 2}, "stop": {"threshold": 0.6}})
    made = consensus_config({"k": 7, "weight": {"cut": 0.5}, "stop": {"rule": "beta"}}, server)
    assert made == ConsensusConfig("text", 7, WeightConfig(scale=2.0, cut=0.5), StopConfig("beta", 0.6))
    # a bare name is the rule with its own numbers
    assert consensus_config({"stop": "beta"}, server).stop == StopConfig("beta")


def test_the_fields_come_back_as_they_can_be_sent() -> None:
    made = consensus_config({"extract": {"json_path": "$.a"}, "stop": "beta"})
    assert made.as_dict()["stop"]["threshold"] == 0.95
    assert consensus_config(made.as_dict()) == consensus_config(
        {"extract": {"json_path": "$.a"}, "stop": {"rule": "beta", "threshold": 0.95}}
    )


@pytest.mark.parametrize(
    ("fields", "name", "says"),
    [
        ({}, "extract", "is required"),
        ({"extract": "word"}, "extract", "last_number"),
        ({"extract": "alike"}, "extract", "or 'similar'"),
        ({"extract": {"regex": "(?=a)"}}, "extract", "look-around"),
        ({"extract": "text", "k": 1}, "k", "between 2 and 32"),
        ({"extract": "text", "k": 33}, "k", "between 2 and 32"),
        ({"extract": "text", "k": 2.5}, "k", "whole"),
        ({"extract": "text", "k": True}, "k", "number"),
        ({"extract": "text", "k": "3"}, "k", "number"),
        ({"extract": "text", "first": "best"}, "first", "greedy, sample"),
        ({"extract": "text", "weight": "heavy"}, "weight.by", "median_entropy"),
        ({"extract": "text", "weight": 3}, "weight", "name or an object"),
        ({"extract": "text", "weight": {"cut": 2}}, "weight.cut", "between 0 and 1"),
        ({"extract": "text", "stop": {"rule": ["all"]}}, "stop.rule", "cascade"),
        ({"extract": "text", "stop": {"treshold": 1}}, "stop.treshold", "threshold"),
        ({"extract": "text", "stop": {"threshold": 0.4}}, "stop.threshold", "between 0.5 and 1"),
        ({"extract": "text", "stop": {"rule": "esc", "window": 5}, "k": 4}, "stop.window", "at most k"),
        ({"extract": "text", "stop": {"ended": 1}}, "stop.ended", "true or false"),
        ({"extract": "text", "kk": 3}, "kk", "did you mean 'k'"),
    ],
)
def test_refusals(fields: dict[str, Any], name: str, says: str) -> None:
    with pytest.raises(ValueError, match=rf"^consensus\.{name}: ") as refused:
        consensus_config(fields)
    assert says in str(refused.value)
