"""The section ``states`` against transformers' own forward, and with planted faults."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from entropick_lens.command import open_model
from entropick_lens.section import Options
from entropick_lens.terrain import states_section
from entropick_lens.terrain.states import layer_states
from entropick_lens.texts import read_texts
from entropick_pico import calibration_path, model_path

OPTIONS = Options(quiet=True, tokens=200, length=100, text=calibration_path())


def test_states_are_those_of_transformers(tmp_path: Path) -> None:
    model = open_model(str(model_path()))
    found = states_section.measure(model, OPTIONS, {})
    texts = read_texts(model, OPTIONS)
    whole = AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
    layers: list[list[torch.Tensor]] = []
    peaks = torch.zeros(512)
    hooks = [
        layer.register_forward_hook(lambda _, __, out: layers[-1].append(out[0] if out.dim() == 3 else out))
        for layer in whole.model.layers
    ]

    def fire(_, given) -> None:
        peaks.copy_(torch.maximum(peaks, given[0].abs().flatten(0, -2).amax(0)))

    hooks.append(whole.model.layers[2].mlp.down_proj.register_forward_pre_hook(fire))
    with torch.inference_mode():
        for text in texts:
            layers.append([whole.model.embed_tokens(torch.tensor(text.ids))])
            whole(torch.tensor([text.ids]))
    assert found.texts == len(texts)
    assert len(found.layers) == 5
    for layer, measured in enumerate(found.layers):
        known = layer_states([text[layer] for text in layers])
        assert measured.mean_norm == pytest.approx(known.mean_norm, rel=1e-4)
        assert measured.pair_cosine_without_first == pytest.approx(known.pair_cosine_without_first, abs=1e-4)
    down = whole.model.layers[2].mlp.down_proj.weight.norm(dim=0)
    part = peaks * down / (peaks * down).mean()
    assert found.silent[2].silent == int((part <= 0.01).sum())
    assert all(0.0 <= head.first_share <= 1.0 for head in found.reach)
    assert len(found.reach) == 4 * 6
    assert "silent" not in "".join(states_section.SECTION.sentences(found))[:20]
    assert len(states_section.SECTION.plots(found)) == 4


def test_a_neuron_that_cannot_fire_is_silent(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_path(), folder)
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    before = states_section.measure(open_model(str(model_path())), OPTIONS, {})
    loud = next(n for n in range(512) if n not in before.silent[1].silent_ids)
    tensors["model.layers.1.mlp.gate_proj.weight"][loud] = 0.0
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    after = states_section.measure(open_model(str(folder)), OPTIONS, {})
    assert loud in after.silent[1].silent_ids or after.silent[1].silent > 32
    assert after.silent[1].silent == before.silent[1].silent + 1
    assert after.silent[1].dead_too == before.silent[1].dead_too + 1
