"""Layers to monitor, chosen by an inspection that the server reads as data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from entropick_lens import document
from entropick_server import cli
from entropick_server.engine.base import ModelLoadError
from entropick_server.engine.inspected import inspected_layers, kept_inspection
from entropick_server.engine.source import read_source
from entropick_server.engine.types import EngineOptions
from entropick_server.settings import SettingsError, load_settings

from .support import make
from .test_inspect_command import FEW


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "model"
    path.mkdir()
    return make(path)


def test_half_of_the_layers_in_the_order_of_the_choice(folder: Path) -> None:
    options = EngineOptions(str(folder), monitored_layers=0.5)
    with pytest.raises(
        ModelLoadError, match=r"auto: there is no entropick_inspect\.json.*run `entropick inspect "
    ):
        read_source(options)
    assert cli.main(["inspect", str(folder), *FEW, "--sections", "head_attention"]) == 0
    data = json.loads((folder / document.FILE).read_text())
    order = data["sections"]["head_attention"]["result"]["layer_choice"]["order"]
    source = read_source(options)
    assert source.monitored_layers == tuple(sorted(order[:2]))
    quarter = read_source(EngineOptions(str(folder), monitored_layers=0.25))
    assert quarter.monitored_layers == (order[0],)
    assert read_source(EngineOptions(str(folder), monitored_layers=1.0)).monitored_layers == (0, 1, 2, 3)
    # the identity is that of a start without the choice: the file beside the weights is no part of it
    assert (
        source.model_hash == read_source(EngineOptions(str(folder))).model_hash == data["model"]["identity"]
    )


def test_a_model_without_a_folder_of_the_users_has_its_data_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", *FEW, "--sections", "head_attention"]) == 0
    (kept,) = (tmp_path / "cache" / "entropick" / "inspections").iterdir()
    identity = json.loads(kept.read_text())["model"]["identity"]
    assert kept == kept_inspection(tmp_path / "cache" / "entropick", identity)
    assert len(inspected_layers("pico", tmp_path, identity, 4)) == 2
    # another section, from another folder
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli.main(["inspect", *FEW, "--sections", "overview"]) == 0
    assert {"head_attention", "overview"} <= json.loads(kept.read_text())["sections"].keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"identity": "other"}}, "is of another model"),
        ({"sections": {}}, "has no choice of layers"),
        ({"model": 3}, "has no choice of layers"),
        ({"order": [0, 1, 2]}, "orders other layers than 0 to 3"),
        ({"order": [0, 1, 2, 2]}, "orders other layers than 0 to 3"),
        ({"order": [0, 1, 2, True]}, "orders other layers than 0 to 3"),
    ],
)
def test_data_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    choice = {"order": change.pop("order", [3, 1, 0, 2])}
    data = {
        "model": {"identity": "mine"},
        "sections": {"head_attention": {"result": {"layer_choice": choice}}},
        **change,
    }
    path = tmp_path / "entropick_inspect.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ModelLoadError, match=message) as error:
        inspected_layers("m", tmp_path, "mine", 4, cache=tmp_path)
    assert "run `entropick inspect m --sections head_attention` first" in str(error.value)


def test_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, share in (("auto", 0.5), ("auto:0.25", 0.25), ("auto:.1", 0.1), ("auto:1", 1.0)):
        assert load_settings(monitored_layers=text).engine_options("m").monitored_layers == share
    assert load_settings(monitored_layers="2,0").engine_options("m").monitored_layers == (2, 0)
    for wrong in ("automatic", "auto:", "auto:0", "auto:0.0", "auto:1.5", "auto:25%", "auto:-1"):
        with pytest.raises(SettingsError, match="monitored_layers"):
            load_settings(monitored_layers=wrong)


def test_shares_are_rounded_down_and_name_one_layer_at_least(tmp_path: Path) -> None:
    order = list(range(100))[::-1]
    data = {
        "model": {"identity": "mine"},
        "sections": {"head_attention": {"result": {"layer_choice": {"order": order}}}},
    }
    (tmp_path / "entropick_inspect.json").write_text(json.dumps(data))
    for share, count in ((0.29, 29), (0.5, 50), (0.999, 99), (0.001, 1), (1.0, 100)):
        assert inspected_layers("m", tmp_path, "mine", 100, share) == tuple(range(100 - count, 100))
