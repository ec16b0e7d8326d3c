"""Models of the hub: a local hub cache stands in for the network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from transformers import AutoModelForCausalLM

from entropick_server.engine import source as source_module
from entropick_server.engine.base import ModelLoadError
from entropick_server.engine.embedded.loader import load_model
from entropick_server.engine.identity import hash_model
from entropick_server.engine.profiles import cached_profile_path, calibrated_path
from entropick_server.engine.source import monitored_layers, read_source
from entropick_server.engine.types import EngineOptions

from .conftest import byte_tokenizer, tiny_model

Folder = Callable[[str], Path]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], Path]:
    """``hub("org/name", folder)``: a copy of a model in a hub cache that is offline; its snapshot folder."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def stored(name: str, folder: Path) -> Path:
        place = cache / f"models--{name.replace('/', '--')}"
        snapshot = shutil.copytree(folder, place / "snapshots" / COMMIT)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(COMMIT)
        return snapshot

    return stored


def options(model: str, **more: Any) -> EngineOptions:
    return EngineOptions(model=model, device="cpu", **more)


def test_a_hub_id_is_read_from_its_snapshot(
    hub: Callable[[str, Path], Path], model_folder: Folder, tmp_path: Path
) -> None:
    snapshot = hub("someone/tiny", model_folder("llama"))
    source = read_source(options("someone/tiny"))
    assert source.folder == snapshot
    assert source.model_hash == hash_model(model_folder("llama"))
    loaded = load_model(options("someone/tiny"))
    assert (loaded.info.name, loaded.info.source) == ("someone/tiny", "someone/tiny")
    # a calibration of it lies in the user's cache
    kept = calibrated_path("someone/tiny", tmp_path, source.model_hash, (0, 1, 2))
    assert kept == cached_profile_path(tmp_path, source.model_hash, (0, 1, 2))


def test_two_models_of_the_hub_have_two_identities(
    hub: Callable[[str, Path], Path], model_folder: Folder, tmp_path: Path
) -> None:
    """Both were known by the digest of nothing, and the second was served with the profile of the first."""
    other = tmp_path / "other"
    tiny_model("llama", seed=1).save_pretrained(other)
    byte_tokenizer().save_pretrained(other)
    hub("someone/one", model_folder("llama"))
    hub("someone/two", other)
    one, two = (read_source(options(name)).model_hash for name in ("someone/one", "someone/two"))
    assert one != two


def test_a_snapshot_without_weights_is_refused(
    hub: Callable[[str, Path], Path], model_folder: Folder
) -> None:
    (hub("someone/bare", model_folder("llama")) / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"someone/bare cannot be loaded: .* no model\.safetensors"):
        read_source(options("someone/bare"))


def sharded(folder: Path) -> Path:
    tiny_model("llama").save_pretrained(folder, max_shard_size="200KB")
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_weights_in_several_files(hub: Callable[[str, Path], Path], tmp_path: Path) -> None:
    snapshot = hub("someone/sharded", sharded(tmp_path / "sharded"))
    names = sorted(path.name for path in snapshot.glob("*.safetensors"))
    assert len(names) > 1
    before = load_model(options("someone/sharded")).source.model_hash
    whole = AutoModelForCausalLM.from_pretrained(snapshot)
    assert before != hash_model_of(whole, tmp_path / "whole")
    (snapshot / names[-1]).unlink()
    with pytest.raises(ModelLoadError, match=names[-1]):
        read_source(options("someone/sharded"))
    (snapshot / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ModelLoadError, match=r"index\.json cannot be read"):
        read_source(options("someone/sharded"))


def hash_model_of(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return hash_model(folder)


@pytest.mark.parametrize("shards", [False, True])
def test_which_files_are_fetched(
    shards: bool, model_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The description first, then only the weights that it names, of the same commit."""
    folder = tmp_path / COMMIT
    made = sharded(tmp_path / "sharded") if shards else model_folder("llama")
    shutil.copytree(made, folder)
    asked: list[dict[str, Any]] = []

    def fetched(model: str, **given: Any) -> str:
        asked.append({"model": model, **given})
        return str(folder)

    monkeypatch.setattr(source_module, "snapshot_download", fetched)
    read_source(options("someone/tiny"))
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    first, second = asked
    assert first["revision"] is None
    assert "*.json" in first["allow_patterns"]
    assert not any("safetensors" in pattern for pattern in first["allow_patterns"])
    assert (second["revision"], second["allow_patterns"]) == (COMMIT, names)
    assert first["ignore_patterns"] == second["ignore_patterns"] == "*/*"


def test_an_architecture_is_refused_before_its_weights_are_fetched(
    model_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(model_folder("llama"), tmp_path / COMMIT)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mixtral"}))
    asked: list[str] = []
    monkeypatch.setattr(
        source_module, "snapshot_download", lambda model, **_: asked.append(model) or str(folder)
    )
    with pytest.raises(ModelLoadError, match="not validated"):
        read_source(options("someone/tiny"))
    assert len(asked) == 1


def test_a_hub_id_that_is_nowhere(hub: Callable[[str, Path], Path]) -> None:
    with pytest.raises(ModelLoadError, match="download the model and give its folder"):
        read_source(options("someone/missing"))


def test_monitored_layers() -> None:
    assert monitored_layers(None, 3) == (0, 1, 2)
    assert monitored_layers((2, 0), 3) == (0, 2)
    assert monitored_layers((), 3) == ()
    for wrong in ((3,), (-1,), (1, 1)):
        with pytest.raises(ModelLoadError, match="layers 0 to 2; name each once"):
            monitored_layers(wrong, 3)
