"""The sections over pico's files, and over copies of them with planted faults."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from entropick_lens.command import open_model
from entropick_lens.document import to_json
from entropick_lens.section import InspectError, Options
from entropick_lens.terrain import embedding_section, weights_section, words_section
from entropick_lens.terrain.embedding_terrain import EmbeddingTerrain
from entropick_lens.terrain.lexicon import lexicon_of
from entropick_lens.terrain.weight_terrain import WeightTerrain
from entropick_lens.terrain.words_section import Words
from entropick_pico import model_path

QUIET = Options(quiet=True, permutations=200)
LAYER = "model.layers.{}.{}.weight"


@pytest.fixture
def altered(tmp_path: Path) -> Callable[[Callable[[dict[str, torch.Tensor]], None]], Path]:
    """Copies pico with tensors that a function has changed."""

    def make(change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(model_path(), folder)
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder

    return make


def weights(folder: Path, options: Options = QUIET) -> WeightTerrain:
    return weights_section.measure(open_model(str(folder)), options, {})


def embedding(folder: Path) -> EmbeddingTerrain:
    return embedding_section.measure(open_model(str(folder)), QUIET, {})


def words(folder: Path) -> Words:
    return words_section.measure(open_model(str(folder)), QUIET, {})


@pytest.fixture(scope="module")
def plain() -> WeightTerrain:
    return weights(model_path())


def said(section, found) -> str:
    return "\n".join(section.SECTION.sentences(found))


def test_pico_s_weights(plain: WeightTerrain) -> None:
    assert len(plain.matrices) == 4 * 7
    assert len(plain.heads) == 4 * 6
    assert all(one.spectrum is not None and one.not_finite == 0 for one in plain.matrices)
    assert all((head.positive, head.negative) == (32, 32) for head in plain.heads)
    assert [one.part for one in plain.cosines] == ["q", "k", "v", "o", "gate", "up", "down"]
    assert len(plain.norms) == 9
    assert "says nothing" in said(weights_section, plain)


def test_results_are_read_back_as_they_were(plain: WeightTerrain) -> None:
    for section, found in (
        (weights_section.SECTION, plain),
        (embedding_section.SECTION, embedding(model_path())),
        (words_section.SECTION, words(model_path())),
    ):
        written = json.loads(json.dumps(to_json(section, found), allow_nan=False))
        assert TypeAdapter(section.result).validate_python(written) == found


def test_planted_faults_in_the_weights_are_found_and_told(altered, plain: WeightTerrain) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[LAYER.format(0, "mlp.gate_proj")][123] *= 1e-4
        for name in ("self_attn.v_proj", "mlp.gate_proj"):
            tensors[LAYER.format(3, name)] = tensors[LAYER.format(1, name)].clone()
        tensors[LAYER.format(3, "input_layernorm")] = tensors[LAYER.format(1, "input_layernorm")].clone()
        name = "post_attention_layernorm"
        tensors[LAYER.format(3, name)] = tensors[LAYER.format(1, name)].clone()
        order = torch.randperm(512, generator=torch.Generator().manual_seed(0))
        up = "mlp.up_proj"
        tensors[LAYER.format(3, up)] = tensors[LAYER.format(1, up)][order].clone()
        # key head 1 takes the query of head 4: every one of its group asks for its own like, head 4 exactly
        tensors[LAYER.format(2, "self_attn.k_proj")][32:] = tensors[LAYER.format(2, "self_attn.q_proj")][
            128:160
        ]
        tensors[LAYER.format(2, "mlp.down_proj")][:, :] = 0.0
        tensors[LAYER.format(1, "self_attn.o_proj")][5, 6] = float("nan")

    assert 123 not in plain.neurons[0].dead_ids
    found = weights(altered(change))
    assert found.neurons[0].dead == plain.neurons[0].dead + 1
    by_part = {one.part: one.cosines for one in found.cosines}
    for part in ("v", "gate"):
        assert by_part[part].flat[1][3] == pytest.approx(1.0, abs=1e-5)
    assert abs(by_part["up"].flat[1][3]) < 0.1
    assert by_part["up"].gram[1][3] == pytest.approx(1.0, abs=1e-5)
    heads = {(head.layer, head.head): head for head in found.heads}
    assert heads[2, 4].balance == pytest.approx(1.0)
    assert heads[2, 4].deviation == pytest.approx(0.0, abs=1e-6)
    assert abs(heads[2, 0].balance) < 0.5
    figures = {(one.layer, one.part): one for one in found.matrices}
    assert figures[2, "down"].spectrum is None
    assert figures[1, "o"].not_finite == 1
    assert found.neurons[2] is None
    text = said(weights_section, found)
    for sentence in (
        "v of layer 3 copies layer 1's (cosine 1.0000)",
        "up of layer 3 is layer 1's in another order or rotation",
        "Layer 1, o: 1 numbers are not finite",
        "Layer 2, down: every entry is zero.",
        "2.4 +1.00",
    ):
        assert sentence in text
    assert weights_section.SECTION.plots(found)


def test_quick_marks_its_figures_as_estimates(plain: WeightTerrain) -> None:
    found = weights(model_path(), Options(quiet=True, quick=True))
    for exact, quick in zip(plain.matrices, found.matrices, strict=True):
        assert quick.spectrum.estimated
        assert quick.spectrum.stable_rank == pytest.approx(exact.spectrum.stable_rank, rel=1e-3)
        assert quick.spectrum.participation_ratio == pytest.approx(
            exact.spectrum.participation_ratio, rel=0.07
        )
    assert found.cosines[0].cosines.gram == ()
    assert found.cosines[0].cosines.flat == plain.cosines[0].cosines.flat
    assert "(estimates)" in said(weights_section, found)
    assert "condition" not in to_json(weights_section.SECTION, found)["matrices"][0]["spectrum"]


def test_raw_matrices_leave_the_norms_out(plain: WeightTerrain) -> None:
    found = weights(model_path(), Options(quiet=True, raw=True))
    assert not found.folded
    parts = [one.part for one in plain.matrices]
    same = [
        a.spectrum.stable_rank == b.spectrum.stable_rank
        for a, b in zip(plain.matrices, found.matrices, strict=True)
    ]
    assert [part for part, kept in zip(parts, same, strict=True) if kept] == ["o", "down"] * 4
    assert [one.sparsity for one in found.matrices] == [one.sparsity for one in plain.matrices]


def test_a_shuffled_embedding_is_seen_by_words_and_digits_alone(altered) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        order = torch.randperm(1984, generator=torch.Generator().manual_seed(0))
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][order].clone()

    folder = altered(change)
    before, after = embedding(model_path()), embedding(folder)
    assert after.spectrum.participation_ratio == pytest.approx(before.spectrum.participation_ratio, rel=1e-6)
    assert after.mean_cosine.mean == pytest.approx(before.mean_cosine.mean, rel=1e-6)
    assert after.norms.quantiles == pytest.approx(before.norms.quantiles)
    low, high = before.simplices.interval
    assert low * 0.9 < after.simplices.variation < high * 1.1
    assert before.digits.p_value < 0.02
    assert after.digits.correlation > before.digits.correlation + 0.2
    whole, lost = words(model_path()), words(folder)
    assert whole.alignment.pearson > 0.7
    assert abs(lost.alignment.pearson) < 0.1
    assert whole.alignment.mantel_p < 0.01
    assert "follow lexicon.json of the model" in said(words_section, whole)


def test_an_untied_head_and_a_damaged_row(altered) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["model.embed_tokens.weight"][77, 3] = float("inf")
        tensors["model.embed_tokens.weight"][78] = 0.0

    found = embedding(altered(change))
    assert not found.tied
    assert found.head.mean_cosine == pytest.approx(1.0)
    assert found.head.rows == 1984 - 2
    assert (found.norms.not_finite_rows, found.norms.zero_rows) == (1, 1)
    text = said(embedding_section, found)
    assert "1 rows of the embedding hold a number that is not finite: the weights are damaged." in text
    assert embedding(model_path()).head is None


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": "word"}', '{"a": [1]}'])
def test_a_lexicon_of_another_form_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "lexicon.json").write_text(text)
    with pytest.raises(InspectError, match=r"lexicon\.json"):
        lexicon_of(tmp_path)


def test_without_a_lexicon_words_are_plain(tmp_path: Path) -> None:
    found = lexicon_of(tmp_path)
    assert not found.own
    assert "cat" in found.categories["living/animal"]
