"""The model is tiny: more threads cost more than they give. An older checkpoint skips some tests."""

import json
from collections.abc import Iterator
from dataclasses import asdict

import pytest
import torch

from entropick_pico import model_path
from entropick_pico.recipe import Recipe


@pytest.fixture(scope="session")
def current_recipe() -> None:
    """Skips where the shipped checkpoint is not of the recipe in the code: it has to be trained again."""
    log = json.loads((model_path() / "train_log.json").read_text())
    if [entry["recipe"] for entry in log if "recipe" in entry][-1] != asdict(Recipe()):
        pytest.skip("the shipped checkpoint is of an earlier recipe (make model)")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
