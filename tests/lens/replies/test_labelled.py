"""Labelled replies: their lines, their features against float64, the section on a small model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from entropick_kernels.logits_stats import reference
from entropick_lens import document
from entropick_lens.layers.entropy import spread_positions
from entropick_lens.replies import features, section
from entropick_lens.replies.labelled import read_labelled
from entropick_lens.replies.last_layer import LastLayer
from entropick_lens.report import draw_svg
from entropick_lens.section import InspectError, Model, Options

from ..support import make, opened

SECTIONS = (section.SECTION,)
OPTIONS = Options(quiet=True, permutations=100, tokens=100_000, length=64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return opened(make(tmp_path_factory.mktemp("model")))


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_lines_with_labels_and_groups(tmp_path: Path, model: Model) -> None:
    rows = [
        {"prompt": "Sum 1 2.", "completion": " 3", "labels": {"task": "sums", "correct": True}, "group": "g"},
        {"prompt": "No labels", "completion": " here"},
        {
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}],
            "labels": {"task": "greeting", "level": 3},
        },
        {"prompt": "Long " * 200, "completion": " x", "labels": {"task": "sums"}},
    ]
    texts, lost = read_labelled(write(tmp_path / "t.jsonl", rows), model, OPTIONS)
    assert lost == 1
    by_task = {one.labels["task"]: one for one in texts}
    assert by_task["sums"].labels == {"task": "sums", "correct": "yes"}
    assert by_task["sums"].group == "g"
    assert by_task["greeting"].labels == {"task": "greeting", "level": "3"}
    assert by_task["greeting"].group == "line 3"
    text = by_task["sums"].text
    assert model.tokenizer.decode(list(text.ids[text.start :]), skip_special_tokens=True).strip() == "3"
    # no room for a text is a text left out
    room = replace(OPTIONS, tokens=len(by_task["greeting"].text.ids))
    fewer, lost = read_labelled(tmp_path / "t.jsonl", model, room)
    assert (len(fewer), lost) == (1, 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completion": "b", "labels": {"task": 1.5}}, "labels.task must be a string"),
        ({"prompt": "a", "completion": "b", "labels": {}}, "labels must be an object"),
        ({"prompt": "a", "labels": {"task": "x"}}, "completion"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, model: Model, row: dict[str, object], message: str) -> None:
    path = write(tmp_path / "t.jsonl", [{"text": "fine"}, row])
    with pytest.raises(InspectError, match=rf"t\.jsonl, line 2: .*{message}"):
        read_labelled(path, model, OPTIONS)


def test_last_layer_in_pieces_is_the_reference() -> None:
    logits = torch.randn(6, 500, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    logits[0] = 0.0
    logits[1, 499] = 60.0
    following = torch.tensor([0, 499, 17, 130, 255, 400])
    found = LastLayer(following)
    for lo in range(0, 500, 128):
        found.add(lo, logits[:, lo : lo + 128])
    figures = found.figures().numpy()
    for row, token, (entropy, varentropy, surprisal) in zip(logits.numpy(), following, figures, strict=True):
        assert entropy == pytest.approx(reference.logits_entropy(row), abs=1e-9)
        assert varentropy == pytest.approx(reference.logits_varentropy(row), abs=1e-8)
        assert surprisal == pytest.approx(reference.surprisal(row, int(token)), abs=1e-9)


def _texts(tmp_path: Path, model: Model, count: int = 24) -> list[section.Labelled]:
    rows = [
        {
            "prompt": f"Sum {i} 2 modulo 100." if i % 2 else "Say hello.",
            "completion": f" The answer is {i} and that is all of it."
            if i % 2
            else " Hello to you, my friend.",
            "labels": {"task": "sums" if i % 2 else "greeting", "correct": i % 3 == 0},
        }
        for i in range(count)
    ]
    return read_labelled(write(tmp_path / "t.jsonl", rows), model, OPTIONS)[0]


def test_features_are_the_models_own(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against transformers' hidden states in one forward a text, with the batches cut small."""
    from transformers import AutoModelForCausalLM

    texts = [one.text for one in _texts(tmp_path, model)][:6]
    monkeypatch.setattr(features, "_BATCH", 80)
    monkeypatch.setattr(features, "_ROWS", 20)
    found, positions = features.measure_features(model, texts, OPTIONS)
    assert positions == sum(len(spread_positions(text, 8)) for text in texts)
    plain = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float64)
    for i, text in enumerate(texts):
        own = spread_positions(text, 8)
        seen: list[torch.Tensor] = []
        hooks = [
            layer.register_forward_hook(
                lambda *a, seen=seen: seen.append(a[2][0] if isinstance(a[2], tuple) else a[2])
            )
            for layer in plain.model.layers
        ]
        with torch.inference_mode():
            out = plain(torch.tensor([text.ids])).logits[0].double()
            by_layer = [
                plain.lm_head(plain.model.norm(x.reshape(1, len(text.ids), -1)))[0][own] for x in seen
            ]
        for hook in hooks:
            hook.remove()
        p = torch.stack(by_layer).softmax(-1)
        shannon = torch.special.entr(p).sum(-1).mean(1).numpy()
        assert found.layers[i] == pytest.approx(shannon, abs=1e-4)
        half = (2.0 * p.sqrt().sum(-1).log()).mean(1).numpy()
        fifth = (p.pow(5).sum(-1).log() / -4.0).mean(1).numpy()
        assert found.orders[i] == pytest.approx(np.concatenate([half, shannon, fifth]), abs=1e-4)
        wanted = [
            np.mean([reference.logits_entropy(out[q].numpy()) for q in own]),
            np.mean([reference.logits_varentropy(out[q].numpy()) for q in own]),
            np.mean([reference.surprisal(out[q].numpy(), text.ids[q + 1]) for q in own]),
        ]
        assert found.signals[i, :3] == pytest.approx(wanted, rel=1e-4, abs=1e-4)
        assert found.signals.shape[1] == 10
        assert found.lengths[i].tolist() == [text.start, len(text.ids) - text.start]


def test_attention_signals_are_those_of_the_server(tmp_path: Path, model: Model) -> None:
    """Against the section that has them by layer: the mean over layers at the same positions."""
    from entropick_lens.forward import run_texts
    from entropick_lens.heads.attention import AttentionVisitor

    text = _texts(tmp_path, model)[0].text
    found, _ = features.measure_features(model, [text], OPTIONS)
    visitor = AttentionVisitor()
    run_texts(model, [text], visitor)
    # its rows begin with the second token, the first query that sees two keys
    rows = [p - 1 for p in spread_positions(text, 8)]
    wanted = torch.stack(visitor.signals)[:, rows].mean((0, 1)).numpy()
    assert found.signals[0, 3:] == pytest.approx(wanted, abs=1e-6)


def test_the_section_judges_labels_and_says_what_it_cannot(tmp_path: Path, model: Model) -> None:
    path = tmp_path / "t.jsonl"
    _texts(tmp_path, model, 48)
    result = section.measure(model, replace(OPTIONS, text=path), {})
    assert [one.label for one in result.judged] == ["task", "correct"]
    task, correct = result.judged
    assert task.counts == (24, 24)
    assert all(one.within is None for one in task.readings)
    # prompts and replies of the two tasks differ throughout
    assert all(one.area.value > 0.9 for one in task.readings if one.features in ("layers", "lengths"))
    assert correct.tasks_within == 2
    said = section.sentences(result)
    assert any(s.startswith("task, of 48 texts of 48 groups (greeting 24, sums 24)") for s in said)
    assert len(section.plots(result)) == 2
    assert all(draw_svg(plot).startswith("<svg") for plot in section.plots(result))
    document.write_results(
        tmp_path / "data.json", model, SECTIONS, {"reply_labels": document.Stored("d", result)}
    )
    jsonschema.validate(json.loads((tmp_path / "data.json").read_text()), document.schema(SECTIONS))
    assert document.read_results(tmp_path / "data.json", SECTIONS)["reply_labels"].result == result
    few = section.measure(model, replace(OPTIONS, text=path, tokens=200), {})
    assert few.left_out > 0
    assert few.judged == ()
    assert few.not_judged == (
        "task: fewer than two values with 10 texts each",
        "correct: fewer than two values with 10 texts each",
    )


def test_texts_without_labels_are_not_judged(tmp_path: Path, model: Model) -> None:
    path = write(tmp_path / "t.jsonl", [{"prompt": "a", "completion": " b"}])
    for text in (None, path):
        result = section.measure(model, replace(OPTIONS, text=text), {})
        assert (result.texts, result.judged) == (0, ())
        assert "No text has labels" in section.sentences(result)[0]
        assert section.plots(result) == ()
