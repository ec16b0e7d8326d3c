"""vLLM's engine dies under a running server: requests end with an error, the server stays and says so."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM (make test-vllm)")


def engine_core(pid: int) -> int:
    """The child of the server that is no helper of Python's and renders no chat templates."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += (task / "children").read_text().split()
    names = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    (found,) = [
        child for child, name in names.items() if b"resource_tracker" not in name and b"templates" not in name
    ]
    return found


def test_the_server_survives_its_engine(fresh: Callable[[str], Any]) -> None:
    server = fresh("vllm")
    body = {
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "stream": True,
        "ignore_eos": True,
        "max_tokens": 900,
    }
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        for _ in range(6):
            next(lines)
        os.kill(engine_core(server.process.pid), 9)
        rest = [line for line in lines if line]
    assert '"error"' in rest[-1]
    assert "died" in rest[-1]
    end = time.monotonic() + 10
    while httpx.get(f"{server.url}/health").status_code == 200 and time.monotonic() < end:
        time.sleep(0.1)
    assert httpx.get(f"{server.url}/health").status_code == 503
    refused = httpx.post(f"{server.url}/v1/chat/completions", json={**body, "stream": False}, timeout=10)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "engine_stopped"
    assert "entropick_num_requests_running" in httpx.get(f"{server.url}/metrics").text
    assert server.process.poll() is None
    assert server.stop() == 0
