"""Every trial of a fault: what was seen once must not come back."""

from __future__ import annotations

import pytest

from robustness.trial import Trial
from robustness.trials import TRIALS


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
async def test_the_server_holds(trial: Trial) -> None:
    result = await trial.run()
    print(f"{trial.fault}: {result.figures} (before: {trial.before})")
    if result.held is None:
        pytest.skip(result.figures)
    assert result.held, result.figures
