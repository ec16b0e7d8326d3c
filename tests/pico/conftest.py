"""The model is tiny: more threads cost more than they give."""

import json
from collections.abc import Iterator
from dataclasses import asdict

import pytest
import torch

from entropick_pico import model_path
from entropick_pico.recipe import Recipe


@pytest.fixture(scope="session")
def current_recipe() -> None:
    """The shipped checkpoint is of the recipe in the code; else it has to be trained again (`make model`)."""
    log = json.loads((model_path() / "train_log.json").read_text())
    assert [entry["recipe"] for entry in log if "recipe" in entry][-1] == asdict(Recipe())


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
