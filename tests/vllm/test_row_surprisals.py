"""The surprisals of a row: told, drawn, lost; and how the rows of a step lie side by side."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from entropick_kernels.attention_stats.costs import UNKNOWN
from entropick_server.engine.vllm.row_surprisals import RowSurprisals, surprisal_lines


def test_a_prompt_is_told_and_tokens_are_drawn() -> None:
    row = RowSurprisals(4, (0.0,))
    assert row.read().tolist() == [0.0, *[UNKNOWN] * 3]
    row.tell_prompt(torch.tensor([-math.log(2.0), -math.log(8.0), 1e-7]))
    row.set(0, 2.5)
    assert row.read() == pytest.approx([0.0, 1.0, 3.0, 0.0, 2.5])


def test_what_is_not_known_stays_unknown() -> None:
    row = RowSurprisals(3, (0.0, 1.5))
    row.tell_prompt(torch.zeros(5))  # of another prompt
    for drawn, bits in enumerate((None, math.inf, math.nan, 4.0)):
        row.set(drawn, bits)
    assert row.read().tolist() == [0.0, 1.5, *[UNKNOWN] * 4, 4.0]
    # tokens of which vLLM tells the number alone
    row.cover(7)
    assert row.read().tolist()[6:] == [4.0, *[UNKNOWN] * 3]


def test_a_step_that_vllm_threw_away_is_drawn_again() -> None:
    row = RowSurprisals(1, (0.0,))
    row.set(0, 1.0)
    row.cover(0)
    assert row.read().tolist() == [0.0]
    row.set(0, 2.0)
    assert row.read().tolist() == [0.0, 2.0]


def test_a_row_grows_beyond_its_room() -> None:
    row = RowSurprisals(2, (0.0, 1.0))
    for drawn in range(1000):
        row.set(drawn, float(drawn))
    np.testing.assert_array_equal(row.read(), [0.0, 1.0, *range(1000)])
    assert row.size >= 1002


def test_the_rows_of_a_step() -> None:
    assert surprisal_lines([]) is None
    assert surprisal_lines([None, None]) is None
    long, short = RowSurprisals(3, (0.0, 1.0, 2.0)), RowSurprisals(2, (0.0, 5.0))
    lines = surprisal_lines([None, short, long])
    assert lines is not None
    assert lines.tolist() == [[UNKNOWN] * 3, [0.0, 5.0, UNKNOWN], [0.0, 1.0, 2.0]]
    assert lines.dtype == torch.float32
