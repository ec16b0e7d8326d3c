import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """The known answers of the terrain."""
    cases: dict[str, Any] = json.loads((Path(__file__).parents[2] / "golden" / "cases.json").read_text())
    return cases["12_terrain"]
