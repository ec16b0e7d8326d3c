"""docs/reference.md: its examples run, and it names every reference function."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from entropick_sampler.signals import SIGNALS

TEXT = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda code: code.split()[1])
def test_an_example_runs(example):
    exec(compile(example, "docs/reference.md", "exec"), {})


def test_every_signals_reference_exists_and_is_documented():
    assert len(EXAMPLES) == 4
    for signal in SIGNALS:
        module, name = signal.reference.rsplit(".", 1)
        assert callable(getattr(import_module(module), name))
        assert module in TEXT
        assert f"`{name}" in TEXT
