"""Figures by head in the published JSON form: written, read again, and refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from entropick_lens.heads import attention, geometry
from entropick_lens.heads.contract import read_contract, to_contract
from entropick_lens.heads.relation import Dynamic, relate
from entropick_lens.section import InspectError

from .support import QUIET, make, opened


def test_figures_that_were_written_are_read(tmp_path: Path) -> None:
    model = opened(make(tmp_path))
    of_weights, over_text = geometry.measure(model, QUIET, {}), attention.measure(model, QUIET, {})
    written = to_contract(of_weights, over_text)
    assert (written["num_layers"], written["num_heads"]) == (4, 6)
    assert len(written["static"][0]["metric_singvals_per_head"][5]) == 8
    path = tmp_path / "heads.json"
    path.write_text(json.dumps(written))
    again, dynamic = read_contract(path)
    assert dynamic == Dynamic(over_text.entropy, over_text.score_std)
    assert again.singular_values == of_weights.singular_values
    assert (again.op, again.spec_ent) == (of_weights.op, of_weights.spec_ent)
    assert len(relate(again, dynamic, 100, 0).pairs) == 7 * 2 + 7 * 3


def good() -> dict[str, Any]:
    return {
        "num_layers": 1,
        "num_heads": 2,
        "dynamic": [{"mean_attention_entropy_per_head": [1, 2.0], "mean_logit_std_per_head": [0.5, 1]}],
        "static": [{"metric_singvals_per_head": [[1.0, 3.0], [2, 1]]}],
    }


def test_singular_values_in_any_order_are_sorted(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(good()))
    assert read_contract(tmp_path / "a.json")[0].singular_values == (((3.0, 1.0), (2.0, 1.0)),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 0}, "num_layers: must be a whole number"),
        ({"num_heads": True}, "num_heads: must be a whole number"),
        ({"num_layers": 2}, "dynamic: must be a list of num_layers = 2"),
        ({"static": [3]}, "static: must be a list"),
        ({"static": [{}]}, r"static\[0\]\.metric_singvals_per_head: must be a list of 2 heads"),
        ({"static": [{"metric_singvals_per_head": [[1.0], []]}]}, r"metric_singvals_per_head\[1\]"),
        ({"static": [{"metric_singvals_per_head": [[1.0], [-2.0]]}]}, "below 0"),
        ({"dynamic": [{"mean_attention_entropy_per_head": [1.0]}]}, r"dynamic\[0\]\.mean_attention"),
    ],
)
def test_a_field_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**good(), **change}))
    with pytest.raises(InspectError, match=message):
        read_contract(path)


@pytest.mark.parametrize("text", ["[]", "{", '{"num_layers": NaN}'])
def test_files_of_another_kind_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InspectError):
        read_contract(tmp_path / "a.json")
