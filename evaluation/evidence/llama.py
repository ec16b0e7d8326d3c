"""Asks llama.cpp's server the questions of the plan, with its own samplers: ``python -m evidence.llama``.

The server runs on the same GGUF file as ours, on loopback, for as long as the questions take.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from entropick_eval.targets import TargetError, at_url
from entropick_eval.tasks import short_digest
from entropick_server.engine.fetch import fetched_file
from entropick_server.engine.named_models import NAMED_MODELS
from entropick_server.engine.user_cache import user_cache

from . import peer
from .compute import claim, complete, open_store, request_arms
from .plan import read_plan

NAME: Final = "llama.cpp"
HOST: Final = "127.0.0.1"
_PATIENCE: Final = 240.0
"""seconds until it must be healthy"""


def options() -> argparse.ArgumentParser:
    """Returns the parser of the options."""
    made = peer.parser("python -m evidence.llama", __doc__)
    add = made.add_argument
    add("--server", type=Path, required=True, help="the program llama-server (`make peers` builds it)")
    add("--gguf", type=Path, help="the model's file (default: the one of `entropick serve smollm2`)")
    add("--threads", type=int, default=1, help="of the server (1)")
    add("--slots", type=int, default=4, help="requests at a time (4)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 1 after a failure, 2 for bad input, 130 after Ctrl-C."""
    return peer.run(options(), _run, argv)


async def _run(args: argparse.Namespace) -> int:
    plan = read_plan(args.plan)
    runs = peer.limited_runs(plan, NAME, args.limit)
    if not args.server.is_file():
        raise FileNotFoundError(f"--server: there is no file {args.server}; `make peers` builds it")
    file = args.gguf or await asyncio.to_thread(shipped_file)
    with serving(command(args.server, file, args.threads, args.slots)) as url:
        async with at_url(url, None) as target:
            digest = short_digest(["llama.cpp", file_digest(file)])
            claim(args.results, NAME, digest, f"{file.name}, {version(args.server)}", False)
            store = open_store(args.results, NAME, request_arms(runs))
            asked = replace(plan, server={**plan.server, "max_num_seqs": args.slots})
            for line in await complete(asked, runs, target, store):
                print(f"{NAME}: {line}")
    return 0


def shipped_file() -> Path:
    """Returns the GGUF file that ``entropick serve smollm2`` runs, fetched where it is not there yet."""
    return fetched_file(NAMED_MODELS["smollm2"], user_cache())


def command(server: Path, file: Path, threads: int, slots: int) -> list[str]:
    """Returns the command line of llama-server; the port is put behind it."""
    # a slot holds 1024 tokens: no prompt and reply of the plan is longer
    sizes = ["-t", str(threads), "-np", str(slots), "-c", str(slots * 1024)]
    return [str(server), "-m", str(file), *sizes, "--host", HOST, "--no-webui", "--log-disable", "--port"]


@contextlib.contextmanager
def serving(line: Sequence[str]) -> Iterator[str]:
    """Runs a server that takes its port last, and yields its address. Raises TargetError."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    url = f"http://{HOST}:{port}"
    process = subprocess.Popen([*line, str(port)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_for(url, process)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Returns when the server is healthy. Raises TargetError where it ends or takes too long."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            raise TargetError(f"the server ended with code {process.returncode} before it was healthy")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.2)
    raise TargetError(f"the server was not healthy after {_PATIENCE:.0f} s")


def file_digest(file: Path) -> str:
    """Returns the SHA-256 digest of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def version(server: Path) -> str:
    """Returns the version that llama-server names, in a line."""
    run = subprocess.run([str(server), "--version"], capture_output=True, text=True, check=False)
    lines = (run.stderr + run.stdout).splitlines()
    return next((line for line in lines if line.startswith("version")), "llama.cpp of unknown version")


if __name__ == "__main__":
    raise SystemExit(main())
