from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from entropick_sampler.profile import PROFILE_FILE, QUANTILE_LEVELS, THRESHOLDS, Profile
from entropick_sampler.signals import POLICY_SIGNALS
from entropick_server.engine.base import ModelLoadError
from entropick_server.engine.embedded.core import EngineCore
from entropick_server.engine.embedded.cpu_threads import default_threads
from entropick_server.engine.embedded.loader import load_model
from entropick_server.engine.embedded.startup import build
from entropick_server.engine.profiles import cached_profile_path, find_profile
from entropick_server.engine.source import check_architecture
from entropick_server.engine.types import EngineOptions

from .conftest import END, tiny_config

Folder = Callable[[str], Path]


def edited(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of a model folder with another config."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    config.update(changes)
    (target / "config.json").write_text(json.dumps(config))
    return target


def options(folder: Path | str, **more: Any) -> EngineOptions:
    return EngineOptions(model=str(folder), device="cpu", **more)


def test_what_is_known_of_a_model(model_folder: Folder) -> None:
    loaded = load_model(options(model_folder("llama"), max_model_len=64))
    info = loaded.info
    assert (info.name, info.architecture, info.max_model_len) == ("llama", "llama", 64)
    assert info.eos_token_ids == (END,)
    assert info.monitored_layers == (0, 1, 2)
    assert (info.dtype, info.device) == ("float32", "cpu")
    assert info.parameters == sum(p.numel() for p in loaded.model.parameters())
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert (loaded.layers, loaded.kv_heads, loaded.head_dim) == (3, 2, 16)


def test_a_context_beyond_the_models_own(model_folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    own = load_model(options(model_folder("llama"))).info.max_model_len
    assert "max_model_len" not in caplog.text
    assert load_model(options(model_folder("llama"), max_model_len=own + 1)).info.max_model_len == own
    assert f"max_model_len {own + 1} is more than the model was made for: it is {own}" in caplog.text


def test_names_dtypes_and_defaults(model_folder: Folder, tmp_path: Path) -> None:
    folder = edited(model_folder("llama"), tmp_path / "m")
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [7, 8]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    loaded = load_model(options(folder, served_model_name="mine", dtype="bfloat16", monitored_layers=(2, 0)))
    assert loaded.info.name == "mine"
    assert loaded.info.dtype == "bfloat16"
    assert loaded.info.eos_token_ids == (7, 8, 256)  # the config names another
    assert loaded.info.monitored_layers == (0, 2)
    defaults = loaded.info.defaults
    assert (defaults.temperature, defaults.top_p, defaults.top_k) == (0.6, 0.9, None)


def test_a_chat_template_of_the_operator(model_folder: Folder, tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    loaded = load_model(options(model_folder("llama"), chat_template=str(file)))
    text = loaded.tokenizer.render_chat([{"role": "user", "content": "x"}], add_generation_prompt=True)
    assert text == "<user>x"
    with pytest.raises(ModelLoadError, match="cannot be read"):
        load_model(options(model_folder("llama"), chat_template=str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mixtral"}, "not validated"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantized"),
    ],
)
def test_unvalidated_architectures_are_refused(
    changes: dict[str, Any], message: str, model_folder: Folder, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError, match=message) as error:
        load_model(options(edited(model_folder("llama"), tmp_path / "m", **changes)))
    assert "--allow-unvalidated" in str(error.value)


def test_allow_unvalidated_serves_it_anyway(model_folder: Folder, tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    folder = edited(model_folder("llama"), tmp_path / "m", rope_parameters=rope)
    assert load_model(options(folder, allow_unvalidated=True)).info.architecture == "llama"


def test_bidirectional_attention_is_refused() -> None:
    config = tiny_config("gemma3_text")
    check_architecture(config)
    config.use_bidirectional_attention = True
    with pytest.raises(ModelLoadError, match="bidirectional"):
        check_architecture(config)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"dtype": "int3"}, "int3"),
        ({"device": "nowhere"}, "nowhere"),
        ({"monitored_layers": (0, 3)}, "layers 0 to 2"),
        ({"monitored_layers": ()}, "layers"),
        ({"max_model_len": 1}, "at least 2"),
    ],
)
def test_options_that_cannot_be(more: dict[str, Any], message: str, model_folder: Folder) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load_model(replace(options(model_folder("llama")), **more))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_cuda_without_a_device(model_folder: Folder) -> None:
    with pytest.raises(ModelLoadError, match="no CUDA device"):
        load_model(replace(options(model_folder("llama")), device="cuda"))


def test_folders_that_are_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelLoadError, match=r"no config\.json"):
        load_model(options(tmp_path))
    with pytest.raises(ModelLoadError, match="no such folder"):
        load_model(options(tmp_path / "missing"))


def test_a_hub_model_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise OSError("no connection.")

    monkeypatch.setattr("entropick_server.engine.source.snapshot_download", offline)
    with pytest.raises(ModelLoadError, match="download the model and give its folder"):
        load_model(options("someone/some-model"))


def test_weights_must_be_complete_safetensors(model_folder: Folder, tmp_path: Path) -> None:
    folder = edited(model_folder("llama"), tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lack 1 tensors.*model\.norm\.weight"):
        load_model(options(folder))
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        load_model(options(folder))
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        load_model(options(folder))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"kv_cache_bytes": 100}, "kv_cache_bytes"),
        ({"max_num_seqs": 64, "max_num_batched_tokens": 64}, "must exceed"),
    ],
)
def test_options_that_leave_no_room(more: dict[str, Any], message: str, model_folder: Folder) -> None:
    loaded = load_model(options(model_folder("llama")))
    with pytest.raises(ModelLoadError, match=message):
        EngineCore(loaded, options(model_folder("llama"), **more), None)


def test_a_small_cache_shortens_the_context(model_folder: Folder) -> None:
    loaded = load_model(options(model_folder("llama")))
    block = 2 * 3 * 2 * 16 * 16 * 4
    core = EngineCore(loaded, options(model_folder("llama"), kv_cache_bytes=5 * block), None)
    assert core.info.max_model_len == 4 * 16
    assert core.gauges().blocks_total == 4


def profile(layers: tuple[int, ...], model: str = "hash") -> Profile:
    return Profile(
        model_hash=model,
        data_hash="data",
        layers=layers,
        date="2026-01-01",
        tokens=100,
        quantiles={s.name: QUANTILE_LEVELS for s in POLICY_SIGNALS},
        thresholds=dict.fromkeys(THRESHOLDS, 1.0),
    )


def test_where_a_profile_is_found(tmp_path: Path) -> None:
    folder, cache = tmp_path / "model", tmp_path / "cache"
    folder.mkdir()
    layers = (0, 1)
    assert find_profile(None, folder, cache, "hash", layers) is None
    profile(layers, "hash").save(cached_profile_path(cache, "hash", layers))
    assert find_profile(None, folder, cache, "hash", (0,)) is None
    found = find_profile(None, folder, cache, "hash", layers)
    assert found is not None
    profile(layers, "beside").save(folder / PROFILE_FILE)
    beside = find_profile(None, folder, cache, "hash", layers)
    assert beside is not None
    assert beside.model_hash == "beside"
    profile(layers, "named").save(tmp_path / "named.toml")
    named = find_profile(str(tmp_path / "named.toml"), folder, cache, "hash", layers)
    assert named is not None
    assert named.model_hash == "named"


def test_profiles_that_do_not_fit(tmp_path: Path) -> None:
    profile((0, 2)).save(tmp_path / PROFILE_FILE)
    with pytest.raises(ModelLoadError, match=r"calibrated on layers \[0, 2\].*monitors \[0, 1\]"):
        find_profile(None, tmp_path, tmp_path, "hash", (0, 1))
    with pytest.raises(ModelLoadError, match="cannot be read"):
        find_profile(str(tmp_path / "none.toml"), tmp_path, tmp_path, "hash", (0, 1))


@pytest.mark.parametrize("content", ["", "format = 1\n[provenance]\nmodel_hash = ", "format = 9\n"])
def test_a_cached_profile_that_cannot_be_read_is_passed_over(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a full disk leaves it. Named by the options, or beside the weights, the same file is an error."""
    folder, cache = tmp_path / "model", tmp_path / "cache"
    folder.mkdir()
    cached = cached_profile_path(cache, "hash", (0, 1))
    cached.parent.mkdir()
    cached.write_text(content)
    assert find_profile(None, folder, cache, "hash", (0, 1)) is None
    assert f"the cached profile {cached} cannot be used" in caplog.text
    with pytest.raises(ModelLoadError, match="profile"):
        find_profile(str(cached), folder, cache, "hash", (0, 1))
    (folder / PROFILE_FILE).write_text(content)
    with pytest.raises(ModelLoadError, match="profile"):
        find_profile(None, folder, cache, "hash", (0, 1))


def test_a_cached_profile_of_other_layers_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    profile((0, 2), "hash").save(cached_profile_path(tmp_path, "hash", (0, 1)))
    assert find_profile(None, tmp_path, tmp_path, "hash", (0, 1)) is None
    assert "calibrated on layers [0, 2]" in caplog.text


def test_a_profile_of_another_model_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    profile((0, 1), "other").save(tmp_path / PROFILE_FILE)
    assert find_profile(None, tmp_path, tmp_path, "hash", (0, 1)) is not None
    assert "calibrated on another model (weights, configuration or tokenizer differ)" in caplog.text


def test_threads_are_at_least_one() -> None:
    assert default_threads() >= 1


def test_weights_that_are_not_numbers_are_refused(model_folder: Folder, tmp_path: Path) -> None:
    folder = edited(model_folder("llama"), tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match="not finite"):
        build(load_model(options(folder)), options(folder), None)
