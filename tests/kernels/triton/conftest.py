"""The Triton kernels: in the interpreter (a process with TRITON_INTERPRET=1) or on a GPU, nowhere else.

``test_triton.py`` one floor up starts the interpreter's process.
"""

from __future__ import annotations

import os

import pytest
import torch

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"

if not (INTERPRETING or torch.cuda.is_available()):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels run: the CPU under the interpreter, else the GPU."""
    return torch.device("cpu" if INTERPRETING else "cuda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Outside the interpreter these tests are the GPU's."""
    if not INTERPRETING:
        for item in items:
            if "kernels/triton" in item.path.as_posix():
                item.add_marker(pytest.mark.gpu)
