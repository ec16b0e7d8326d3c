"""The table of bad inputs against a served pico, and the page that shows it; a part of ``make test``."""

from __future__ import annotations

import re

from entropick_server.settings import Settings
from robustness.page import PATH, inputs_of, inputs_of_rows
from robustness.rows import ROOT, ROWS, shown_over_http
from robustness.trials import TRIALS


def test_every_row_is_there_once_and_has_something_that_shows_it() -> None:
    assert [row.number for row in ROWS] == list(range(1, 48))
    assert all(row.cases or row.tests for row in ROWS)
    inputs = inputs_of_rows(ROWS)
    assert len(set(inputs)) == len(inputs)


def test_the_page_was_written_from_these_rows_and_all_of_them_held() -> None:
    text = PATH.read_text()
    assert inputs_of(text) == inputs_of_rows(ROWS), "make robustness writes the page"
    assert "not as expected" not in text
    assert "not held" not in text
    assert "not run yet" not in text


def test_the_page_has_every_trial() -> None:
    text = PATH.read_text()
    assert [one.fault for one in TRIALS if f"| {one.fault} | {one.before} |" not in text] == []
    assert len({one.name for one in TRIALS}) == len(TRIALS)


def test_settings_and_tests_that_are_named_exist() -> None:
    assert {name for row in ROWS for name in row.bounded_by} <= set(Settings.model_fields)
    for test in {test for owner in (*ROWS, *TRIALS) for test in owner.tests}:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text()
        assert not name or re.search(rf"def {name}\(", text), test


async def test_a_served_pico_meets_the_quick_rows() -> None:
    failed = [
        f"{line.row.number} {line.input}: {line.seen}, next request {line.next_served}"
        async for line in shown_over_http(row for row in ROWS if row.quick)
        if not line.held
    ]
    assert failed == []
