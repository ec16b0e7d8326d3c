"""The entry point: a plain vLLM finds it by itself, and measures the layers that ENTROPICK_LAYERS names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

from entropick_pico import model_path
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.profile import PROFILE_FILE
from entropick_sampler.signals import STEP_SIGNALS
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.types import EngineOptions, Request, Token

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
POINTS: dict[str, str] = PROJECT["entry-points"]["vllm.general_plugins"]
LAYERS = (0, 3)
REQUESTS = [
    {"prompt": [1, *range(start, start + 20)], "seed": seed, "tokens": 24}
    for start, seed in ((20, 3), (20, 4), (300, 5))
]
Say = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model without its profile, which belongs to all layers."""
    made = tmp_path_factory.mktemp("bare") / "model"
    shutil.copytree(model_path(), made)
    (made / PROFILE_FILE).unlink()
    return made


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Where importlib.metadata finds the distribution: where it is installed, else in a folder made from
    pyproject.toml as an installer would."""
    try:
        distribution(PROJECT["name"])
    except PackageNotFoundError:
        made = tmp_path_factory.mktemp("distribution")
        info = made / f"{PROJECT['name']}-{PROJECT['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {PROJECT['name']}\nVersion: {PROJECT['version']}\n"
        )
        (info / "entry_points.txt").write_text(
            "".join(
                f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
                for group, points in PROJECT["entry-points"].items()
            )
        )
        return [str(made)]
    return []


@pytest.fixture(scope="module")
def say(folder: Path, installed: list[str], tmp_path_factory: pytest.TempPathFactory) -> Say:
    """``say(layers, processes)``: what a plain vLLM says; ``processes`` 1: its engine has one of its own."""

    def run(layers: str | None, processes: int) -> dict[str, Any]:
        out = tmp_path_factory.mktemp("plain") / "out.json"
        path = [*installed, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        here = {name: value for name, value in os.environ.items() if not name.startswith("ENTROPICK_")}
        here["PYTHONPATH"] = os.pathsep.join(part for part in path if part)
        here["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(processes)
        if layers is not None:
            here["ENTROPICK_LAYERS"] = layers
        command = [sys.executable, str(Path(__file__).with_name("plain_llm.py")), str(folder), str(out)]
        done = subprocess.run(
            command, input=json.dumps(REQUESTS), capture_output=True, text=True, env=here, timeout=300
        )
        assert done.returncode == 0, done.stderr[-6000:]
        told: dict[str, Any] = json.loads(out.read_text())
        # vLLM has others of its own
        assert {name: told["found"].get(name) for name in POINTS} == POINTS
        return told

    return run


@pytest.fixture
async def wanted(folder: Path) -> list[list[Token]]:
    """What the embedded engine says with the same layers."""
    engine = EmbeddedEngine(EngineOptions(model=str(folder), monitored_layers=LAYERS, calibrate=False))
    await engine.start()
    try:
        said = []
        for number, asked in enumerate(REQUESTS):
            request = Request(
                f"request-{number}",
                tuple(asked["prompt"]),  # type: ignore[arg-type]
                SamplingParams(seed=asked["seed"], max_tokens=asked["tokens"], ignore_eos=True),  # type: ignore[arg-type]
                PolicyConfig(preset="seed"),
                time.monotonic(),
            )
            said.append([token async for output in engine.generate(request) for token in output.tokens])
        return said
    finally:
        await engine.close()


async def test_the_layers_of_the_environment_are_measured(say: Say, wanted: list[list[Token]]) -> None:
    """Tokens and every figure of attention are those of the embedded engine on the same layers."""
    told = say("0,3", 0)
    assert told["measured"]
    assert told["registered"].startswith("entropick_server.engine.vllm.attention.")
    for mine, its in zip(wanted, told["said"], strict=True):
        assert its["tokens"] == [token.token_id for token in mine]
        steps = its["steps"][: len(mine)]
        assert [token for token, _ in steps] == its["tokens"]
        for token, (_, signals) in zip(mine, steps, strict=True):
            figures = token.signals[: len(STEP_SIGNALS)]
            assert signals == pytest.approx(figures, rel=1e-3, abs=1e-3)


async def test_an_engine_in_a_process_of_its_own_finds_it_too(say: Say, wanted: list[list[Token]]) -> None:
    """Under preset ``seed`` attention moves the draw's parameters: other figures would give other texts."""
    told = say("0,3", 1)
    assert [its["tokens"] for its in told["said"]] == [[t.token_id for t in mine] for mine in wanted]


async def test_without_layers_nothing_is_registered(say: Say, wanted: list[list[Token]]) -> None:
    told = say(None, 0)
    assert not told["measured"]
    assert told["registered"].startswith("vllm.")
    for its in told["said"]:
        for _, signals in its["steps"]:
            for signal, value in zip(STEP_SIGNALS, signals, strict=True):
                assert (value is None) == (signal.group == "attention")
    # what the tests above call equal is not equal whatever is measured
    assert [its["tokens"] for its in told["said"]] != [[t.token_id for t in mine] for mine in wanted]
