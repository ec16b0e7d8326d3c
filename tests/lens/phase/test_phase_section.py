"""The section over small decoders, one of whose heads are even, and over pico."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from entropick_lens import document
from entropick_lens.command import open_model
from entropick_lens.phase.collect import INDUCTION_CHANCE
from entropick_lens.phase.figures import PhaseSpace
from entropick_lens.phase.section import SECTION, flat
from entropick_lens.report import draw_svg
from entropick_lens.section import InspectError, Model
from entropick_pico import model_path

from ..support import QUIET, make, opened


def assert_read_back(folder: Path, model: Model, found: PhaseSpace) -> None:
    path = folder / document.FILE
    document.write_results(path, model, (SECTION,), {SECTION.name: document.Stored("d", found)})
    read = document.read_results(path, (SECTION,))[SECTION.name].result
    assert document.to_json(SECTION, read) == document.to_json(SECTION, found)
    assert SECTION.sentences(read) == SECTION.sentences(found)


def test_the_section(tmp_path: Path) -> None:
    model = opened(make(tmp_path))
    found = SECTION.measure(model, QUIET, {})
    assert found.tokens == 300 - found.texts or found.tokens < 300
    assert [plane.form for plane in found.planes] == ["normalised", "seed"]
    for grid in (found.cost, found.sink, found.induction, found.planes[1].genuineness):
        assert np.array(grid).shape == (4, 6)
    for plane in found.planes:
        g, parts = flat(plane.genuineness), flat(plane.variance) + flat(plane.collapse_rate)
        np.testing.assert_allclose(g, parts, rtol=1e-9)
        assert plane.mean_by_layer == pytest.approx(g.reshape(4, 6).mean(1))
        assert plane.highest_by_layer == pytest.approx(g.reshape(4, 6).max(1))
        assert plane.layer_pull is None  # four layers have no five scores
    assert len(found.separations) == 16
    assert len(found.label_separations) == 4
    assert_read_back(tmp_path, model, found)
    said = " ".join(SECTION.sentences(found))
    for part in (
        "published form",
        "Normalised by the visible keys",
        "no better than chance",
        "Circuit rates",
    ):
        assert part in said
    assert all(draw_svg(plot).startswith("<svg") for plot in SECTION.plots(found))


def test_heads_that_look_evenly_have_no_quadrants_and_the_published_label(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if name.endswith("q_proj.weight"):
                tensor.zero_()

    found = SECTION.measure(opened(make(tmp_path, change)), QUIET, {})
    normalised, seed = found.planes
    assert flat(normalised.genuineness) == pytest.approx(np.zeros(24), abs=1e-9)
    assert normalised.labels == normalised.shares == ()
    assert flat(seed.genuineness) == pytest.approx(np.full(24, seed.even), rel=1e-4)
    assert flat(found.cost_relative) == pytest.approx(np.ones(24), rel=1e-4)
    assert flat(found.broadcast) == pytest.approx(np.ones(24), rel=1e-5)
    # whatever the text: the label is one of position
    assert {label for row in seed.labels for label in row} == {"genuine_committed"}
    said = " ".join(SECTION.sentences(found))
    assert "the published labels do not separate this model's heads, 100% are genuine_committed" in said
    assert "there are no quadrants" in said
    assert all(draw_svg(plot).startswith("<svg") for plot in SECTION.plots(found))


def test_quick_repeats_less(tmp_path: Path) -> None:
    model = opened(make(tmp_path))
    assert SECTION.measure(model, replace(QUIET, quick=True), {}).repeated == 1
    assert "quick" in SECTION.uses


def test_short_texts_are_an_error_and_counted(tmp_path: Path) -> None:
    model = opened(make(tmp_path))
    lines = tmp_path / "short.jsonl"
    lines.write_text('{"prompt": "a b", "completion": " c"}\n')
    with pytest.raises(InspectError, match="no text has 9 tokens"):
        SECTION.measure(model, replace(QUIET, text=lines), {})
    lines.write_text(lines.read_text() + '{"prompt": "a b c d e f g", "completion": " h i j k l m n"}\n')
    found = SECTION.measure(model, replace(QUIET, text=lines), {})
    assert (found.texts, found.short_texts) == (2, 1)
    assert "1 of 2 texts are too short" in SECTION.sentences(found)[-1]


def test_pico_s_heads() -> None:
    found = SECTION.measure(open_model(str(model_path())), QUIET, {})
    # attention is a mean over positions: costs lie within the surprisals' range and sinks within 0..1
    assert 0 < min(flat(found.cost)) < max(flat(found.cost)) < 30
    assert 0 <= min(flat(found.sink)) <= max(flat(found.sink)) <= 1
    # what pico copies it finds by other means than what followed the same token
    assert max(flat(found.induction)) < 3 * INDUCTION_CHANCE
    assert "this model has no induction heads" in " ".join(SECTION.sentences(found))
