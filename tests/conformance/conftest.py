"""The shipped model behind the console script, once for each engine and runner that this environment has."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from entropick_pico import model_path
from entropick_sampler.error_probability import ErrorModel, Mix, Weight
from entropick_sampler.profile import PROFILE_FILE, Profile

READY_WITHIN = 1200.0
ENGINES = ("torch", "vllm", "vllm-v2") if find_spec("vllm") else ("torch",)
VLLM_HERE = {
    # one process beside the server, one thread: what a test of a small model wants (docs/vllm.md)
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
}
V2_HERE = {
    # its kernels in Triton's interpreter
    "VLLM_USE_V2_MODEL_RUNNER": "1",
    "TRITON_INTERPRET": "1",
    "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "vllm" / "interpreted"),
}
VLLM = ("--engine", "vllm", "--", "--distributed-executor-backend", "uni")
ARGUMENTS = {"torch": ("--engine", "torch"), "vllm": VLLM, "vllm-v2": VLLM}

WIDE = (-1e9, 1e9)
ERRORS = ErrorModel(
    "made up",
    1,
    60,
    reply=Mix(
        -1.0, {name: Weight(0.3, *WIDE) for name in ("mean_logprob", "max_entropy", "log_tokens", "cut")}
    ),
    answer=Mix(-2.0, {name: Weight(0.2, *WIDE) for name in ("mean_logprob", "answer_sum", "no_answer")}),
    vote=Mix(-3.0, {name: Weight(0.1, *WIDE) for name in ("mean_logprob", "agreement", "others")}),
)
"""coefficients that nobody fitted: that they are read, and how, is tested"""


class Server:
    """A running server: ``url``, and what one of its kind can be asked outside HTTP."""

    def __init__(self, engine: str, log: Path) -> None:
        self.engine = engine
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = int(s.getsockname()[1])
        self.url = f"http://127.0.0.1:{port}"
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
        if engine != "torch":
            environment |= VLLM_HERE
        if engine == "vllm-v2":
            paths = (V2_HERE["PYTHONPATH"], environment.get("PYTHONPATH"))
            environment |= {**V2_HERE, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        profile = log.with_suffix(".toml")
        replace(Profile.load(model_path() / PROFILE_FILE), error=ERRORS).save(profile)
        command = [sys.executable, "-m", "entropick_server.cli", "serve", "--port", str(port)]
        command += ["--profile", str(profile)]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, *ARGUMENTS[engine]],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        end = time.monotonic() + READY_WITHIN
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"the server did not become ready:\n{log.read_text(errors='replace')[-6000:]}")

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """``running(engine)``: the session's server of an engine."""
    servers: dict[str, Server] = {}

    def get(engine: str) -> Server:
        if engine not in servers:
            servers[engine] = Server(engine, tmp_path_factory.mktemp(engine) / "log")
        return servers[engine]

    yield get
    for server in servers.values():
        server.stop()


@pytest.fixture(params=ENGINES)
def server(request: pytest.FixtureRequest, running: Callable[[str], Server]) -> str:
    """Base URL of a server, for each engine."""
    return running(request.param).url


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    """``fresh(engine)``: a server of the test's own."""
    servers: list[Server] = []

    def start(engine: str) -> Server:
        servers.append(Server(engine, tmp_path / f"log{len(servers)}"))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop()
