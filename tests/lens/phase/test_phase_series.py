"""The heads' series against eager transformers and the float64 references, and habits that are planted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from entropick_kernels.attention_stats import reference
from entropick_lens.forward import Attended, run_texts
from entropick_lens.phase.collect import INDUCTION_CHANCE, REPEATED, SeriesVisitor, repeated_texts, text_means
from entropick_lens.phase.surprisal import token_surprisals
from entropick_lens.section import InspectError
from entropick_lens.texts import Text

from ..support import QUIET, make, opened

TEXTS = [Text((1, *range(40, 61)), 5), Text((1, 7, 9, 300, 301), 2), Text((1,), 0)]
KINDS = [
    ("llama", {}),
    ("qwen3", {"tie_word_embeddings": True}),
    ("mistral", {"sliding_window": 6}),
    ("gemma2", {"query_pre_attn_scalar": 12, "sliding_window": 6, "final_logit_softcapping": 3.0}),
]


def eager(folder: Path, ids: tuple[int, ...]) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    with torch.inference_mode():
        return model(torch.tensor([ids]), output_attentions=True)


@pytest.mark.parametrize(("kind", "sizes"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_series_against_eager_attention_and_the_references(
    tmp_path: Path, kind: str, sizes: dict[str, Any], dtype: torch.dtype
) -> None:
    model = opened(make(tmp_path, kind=kind, **sizes))
    surprisals = token_surprisals(model, TEXTS, QUIET, dtype)
    repeated = repeated_texts(model, 1, 2, 0)
    visitor = SeriesVisitor(surprisals, len(TEXTS))
    run_texts(model, [*TEXTS, *repeated], visitor, dtype=dtype)
    series = visitor.series()
    assert series.bounds == ((0, 21), (21, 25))
    start = row = 0
    for text in TEXTS:
        theirs = eager(tmp_path, text.ids)
        logs = theirs.logits[0].log_softmax(-1)
        bits = [0.0] + [-float(logs[i, t]) / math.log(2) for i, t in enumerate(text.ids[1:])]
        count = len(text.ids)
        assert surprisals[start : start + count].tolist() == pytest.approx(bits, rel=1e-4, abs=1e-4)
        for at in range(1, count):
            for layer, attention in enumerate(theirs.attentions):
                with np.errstate(divide="ignore"):
                    scores = np.log(attention[0, :, at, : at + 1].numpy())
                valid = np.isfinite(scores[0])
                heads = slice(layer * 6, layer * 6 + 6)
                for found, known in (
                    (series.entropy, reference.head_entropy(scores, valid)),
                    (series.normalised, reference.head_entropy_normalized(scores, valid)),
                    (series.cost, reference.head_token_cost(scores, bits[: at + 1], valid)),
                    (series.relative, reference.head_token_cost_relative(scores, bits[: at + 1], valid)),
                    (series.sink, reference.head_sink_mass(scores, valid)),
                    (series.previous, reference.head_to_previous(scores, valid)),
                ):
                    np.testing.assert_allclose(found[row, heads], known, rtol=2e-4, atol=2e-5)
                assert series.log2_keys[row, layer] == pytest.approx(math.log2(valid.sum()))
            row += 1
        start += count
    induction = np.zeros((4 if kind != "gemma3_text" else 6, 6))
    for text in repeated:
        for layer, attention in enumerate(eager(tmp_path, text.ids).attentions):
            for k in range(REPEATED):
                induction[layer] += attention[0, :, 1 + REPEATED + k, k + 2].numpy() / REPEATED / 2
    np.testing.assert_allclose(series.induction.reshape(4, 6), induction, rtol=1e-3, atol=1e-5)


def test_repeated_texts_stand_twice_and_hold_no_special_token(tmp_path: Path) -> None:
    model = opened(make(tmp_path))
    one, other = repeated_texts(model, 1, 2, 5)
    assert one.ids[0] == 1
    assert one.ids[1 : REPEATED + 1] == one.ids[REPEATED + 1 :]
    assert len(set(one.ids[1:])) == REPEATED
    assert one.ids != other.ids
    assert all(model.tokenizer.token_bytes(i) is not None for i in one.ids[1:])
    assert repeated_texts(model, 1, 2, 5) == [one, other]


def seen_layer(queries: torch.Tensor, keys: torch.Tensor, bounds: tuple[tuple[int, int], ...]) -> Attended:
    return Attended(0, bounds, queries, keys, queries, keys, 1.0, None, None)


def test_a_planted_induction_head_and_a_previous_token_head() -> None:
    """Head 0 looks at what followed the same token; head 1 at the token before; head 2 at everything."""
    length = 1 + 2 * REPEATED
    place = torch.eye(length)
    queries = torch.zeros(length, 3, length)
    keys = torch.zeros(length, 3, length)
    keys[:, 0] = keys[:, 1] = place
    for at in range(length):
        target = at - REPEATED + 1
        if target > 1:
            queries[at, 0, target] = 50.0
        if at:
            queries[at, 1, at - 1] = 50.0
    visitor = SeriesVisitor(torch.full((length,), 8.0).index_fill_(0, torch.tensor([0]), 0.0), 1)
    visitor.attended(
        seen_layer(
            torch.cat([queries, queries]), torch.cat([keys, keys]), ((0, length), (length, 2 * length))
        )
    )
    series = visitor.series()
    assert series.induction.tolist() == pytest.approx([1.0, 0.0, INDUCTION_CHANCE], abs=1e-6)
    assert series.previous[:, 1].tolist() == pytest.approx([1.0] * (length - 1), abs=1e-5)
    means = text_means(series, series.normalised)[0]
    assert means[2] == pytest.approx(1.0, abs=1e-5)
    assert means[1] == pytest.approx(0.0, abs=1e-5)
    # the second position's previous token is the first, whose surprisal is 0
    assert series.cost[0, 1] == pytest.approx(0.0, abs=1e-4)
    assert series.cost[1:, 1].tolist() == pytest.approx([8.0] * (length - 2), rel=1e-4)


def test_texts_of_one_token_are_an_error() -> None:
    q = torch.randn(1, 2, 4)
    with pytest.raises(InspectError, match="no text has two tokens"):
        SeriesVisitor(torch.zeros(1), 1).attended(seen_layer(q, q, ((0, 1),)))
