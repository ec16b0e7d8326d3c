"""The bad inputs that need deadlines of seconds, many clients, or the end of their server."""

from __future__ import annotations

import pytest

from robustness.cases import Row
from robustness.rows import ROWS, shown_over_http


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.cases and not row.quick], ids=lambda row: str(row.number)
)
async def test_the_row_gets_what_it_must(row: Row) -> None:
    lines = [line async for line in shown_over_http([row])]
    assert len(lines) == len(row.cases)
    assert [(line.input, line.seen, line.next_served) for line in lines if not line.held] == []
