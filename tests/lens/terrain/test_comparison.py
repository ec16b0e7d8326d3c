"""Two models side by side: pico, and copies of it that are turned, shuffled or without common tokens."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from entropick_lens import command, report
from entropick_lens.command import COMPARISON_FILE, open_model
from entropick_lens.section import InspectError, Options
from entropick_lens.terrain import comparison
from entropick_lens.terrain.simplices import draw_simplices, paired_volumes
from entropick_pico import model_path

QUIET = Options(quiet=True)
EMBEDDING = "model.embed_tokens.weight"


def copy(folder: Path, turn: torch.Tensor | None = None, order: torch.Tensor | None = None) -> Path:
    shutil.copytree(model_path(), folder)
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    rows = tensors[EMBEDDING].float()
    if turn is not None:
        rows = 2.0 * rows @ turn
    tensors[EMBEDDING] = (rows if order is None else rows[order]).contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_turned_model_aligns_and_a_shuffled_one_does_not(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(192, 192, generator=generator)).Q
    whole = open_model(str(model_path()), "whole")
    turned = open_model(str(copy(tmp_path / "turned", turn)), "turned")
    order = torch.randperm(1984, generator=generator)
    shuffled = open_model(str(copy(tmp_path / "shuffled", None, order)), "shuffled")
    found = comparison.compare(whole, turned, QUIET)
    assert found.alignment.cosine_held_out == pytest.approx(1.0, abs=1e-4)
    assert found.alignment.scale == pytest.approx(2.0, abs=1e-3)
    assert found.volume_r == pytest.approx(1.0, abs=1e-4)
    assert found.common == found.alignment.anchors + found.alignment.held_out
    lost = comparison.compare(whole, shuffled, QUIET)
    assert lost.alignment.cosine_held_out < 0.5
    assert lost.alignment.cosine_held_out == pytest.approx(lost.alignment.cosine_shuffled, abs=0.1)
    assert abs(lost.volume_r) < 0.2
    assert "mean cosine of 1.000" in comparison.sentences(found)[0]


def test_the_command_writes_the_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = copy(tmp_path / "other")
    args = [
        str(model_path()),
        str(other),
        "--out",
        str(tmp_path / "out"),
        "--sections",
        "overview",
        "--quiet",
    ]
    assert command.run(args, lambda: ("", "", Path())) == 0
    data = json.loads((tmp_path / "out" / COMPARISON_FILE).read_text())
    assert [model["name"] for model in data["models"]] == ["model", "other"]
    assert data["result"]["alignment"]["cosine_held_out"] == pytest.approx(1.0, abs=1e-5)
    assert 'id="alignment"' in (tmp_path / "out" / report.FILE).read_text()
    assert data["sentences"][0] in capsys.readouterr().out


def test_a_simplex_without_volume_is_dropped_in_both() -> None:
    a = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    b = a.clone()
    b[:20] = 0.0
    sets = draw_simplices(50, 100, torch.Generator().manual_seed(0))
    flat = int(((sets < 20).sum(1) >= 2).sum())
    _, pairs, dropped = paired_volumes(a, b, 100)
    assert (pairs, dropped) == (100 - flat, flat)
    assert 0 < flat < 100
    assert paired_volumes(a, 3.0 * a, 100) == (pytest.approx(1.0), 100, 0)


def test_vocabularies_without_common_tokens_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = open_model(str(model_path()))
    monkeypatch.setattr(comparison, "FEWEST_TOKENS", 5000)
    with pytest.raises(InspectError, match="tokens in common; an alignment needs 5000"):
        comparison.compare(whole, whole, QUIET)
