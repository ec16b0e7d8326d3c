"""The servers that benchmarks/serving.py compares: how each is started, and what a request to it says."""

from __future__ import annotations

import socket
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from .process import ENTROPICK_ENVIRONMENT, VLLM_ENVIRONMENT, PeerError, Process, environment
from .protocol import Load

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Programs:
    """What the servers of others are started with."""

    vllm: Path
    """the interpreter of vLLM's environment"""
    llama: Path
    """the program llama-server"""


class Server:
    """A server that takes requests; stopped except in its turn. Raises PeerError."""

    def __init__(self, key: str, programs: Programs, asked: Load, build: Path) -> None:
        self.key = key
        self.port = _free_port()
        command, variables = _command(key, programs, asked, self.port)
        if not Path(command[0]).is_file():
            raise PeerError(f"{key}: {command[0]} is missing: make bench-peers sets it up")
        log = build / "logs" / f"{key}-server.log"
        self.process = Process(command, environment(**variables), log, pipes=False)
        try:
            with self.process.turn():
                self._wait(240)
        except BaseException:
            self.process.end()
            raise

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.popen.poll() is None:
            try:
                with urllib.request.urlopen(f"http://{HOST}:{self.port}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise PeerError(f"{self.key}: the server did not start ({self.process.log})")


def _command(key: str, programs: Programs, asked: Load, port: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment. The same slots, threads and context for all, float32, prompts never reused."""
    rows, context = str(asked.rows), str(asked.context)
    where = ["--host", HOST, "--port", str(port)]
    if key == "entropick":
        command = [sys.executable, "-m", "entropick_server.cli", "serve", asked.served, *where]
        command += ["--threads", str(asked.threads), "--max-num-seqs", rows, "--max-model-len", context]
        return [*command, "--device", "cpu", "--log-level", "warning"], ENTROPICK_ENVIRONMENT
    if key == "vllm":
        command = [str(programs.vllm), "-m", "vllm.entrypoints.openai.api_server", "--model", asked.model]
        command += [*where, "--dtype", "float32", "--max-num-seqs", rows, "--max-model-len", context]
        command += ["--no-enable-prefix-caching", "--served-model-name", "model"]
        command += ["--disable-log-stats", "--distributed-executor-backend", "uni"]
        # two processes share the processors: threads that spin in one keep the other from sending
        threads = {"OMP_NUM_THREADS": str(asked.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        return command, {**VLLM_ENVIRONMENT, **threads}
    if key == "llama.cpp":
        each = -(-asked.context // 256) * 256
        command = [str(programs.llama), "-m", asked.gguf, *where, "-t", str(asked.threads)]
        command += ["-np", rows, "-c", str(asked.rows * each), "-ctk", "f32", "-ctv", "f32", "-fa", "off"]
        command += ["--no-cache-prompt", "--cache-ram", "0"]
        return [*command, "--no-webui", "--log-disable"], {}
    raise PeerError(f"{key}: no such server")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def request_body(key: str, prompt: list[int], tokens: int, seed: int, telemetry: str) -> dict[str, object]:
    """A streamed completion of exactly ``tokens`` tokens; greedy, but for entropick, whose policy decides."""
    body: dict[str, object] = {
        "prompt": prompt,
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    if key == "entropick":
        own = {"telemetry": telemetry, "overrides": {"clarify_budget": 0}}
        return {**body, "seed": seed, "entropick": own}
    if key == "vllm":
        body["model"] = "model"
    return {**body, "temperature": 0}
