"""Tests with a real model, and with llama.cpp beside ours: ``make test-real``.

The model is fetched where the user's cache has none; llama.cpp comes from ``make peers``.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entropick_server.engine.base import ModelLoadError
from entropick_server.engine.fetch import fetched_file
from entropick_server.engine.named_models import NAMED_MODELS
from entropick_server.engine.user_cache import user_cache

ROOT = Path(__file__).parents[2]
ENVIRONMENT = Path(os.environ.get("VENV_LLAMA", ROOT / ".venv-llama"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.real)
            if "real" not in config.option.markexpr:
                item.add_marker(pytest.mark.skip(reason="make test-real runs it"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of the real model."""
    try:
        return fetched_file(NAMED_MODELS["smollm2"], user_cache())
    except ModelLoadError as error:
        pytest.fail(f"no real model: {error}")


@pytest.fixture(scope="session")
def llama_cpp() -> Callable[..., Any]:
    """``llama_cpp("greedy", file=..., ids=...)``: an answer of llama.cpp."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / ".ready").exists():
        pytest.skip("no llama.cpp: make peers brings it")

    def ask(do: str, **more: Any) -> Any:
        run = subprocess.run(
            [python, Path(__file__).parent / "ask_llama.py"],
            input=json.dumps(
                {"do": do, **{k: str(v) if isinstance(v, Path) else v for k, v in more.items()}}
            ),
            env={
                **os.environ,
                "LLAMA_CPP_LIB_PATH": str(ENVIRONMENT / "llama.cpp" / "bin"),
                "PYTHONPATH": "",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr[-2000:]
        return json.loads(run.stdout.splitlines()[-1])

    return ask


@pytest.fixture(scope="session")
def vocabularies() -> Path:
    """llama.cpp's own folder of vocabularies with texts and their tokens."""
    folder = ENVIRONMENT / "source" / "vendor" / "llama.cpp" / "models"
    if not folder.is_dir():
        pytest.skip("no vocabularies of llama.cpp: make peers brings them")
    return folder
