"""The page in headless Chromium, against a served pico: ``make test-page``.

Every page that a test opens is watched: a request to another host, a breach of the Content-Security-Policy,
an error on the console or an exception fails the test.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

READY_WITHIN = 1200.0
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SHOTS = os.environ.get("PAGE_SHOTS")
"""a folder for pictures of each view; none are taken without it"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.page)
            if "page" not in config.option.markexpr:
                item.add_marker(pytest.mark.skip(reason="make test-page runs it"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.fail("these tests need Chromium, which `make system` brings (or name it: CHROMIUM=/path)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # in a container the user is often root, which Chromium's own sandbox refuses; pages are ours alone
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@dataclass
class Server:
    """A served pico."""

    url: str
    process: subprocess.Popen[bytes] | None
    key: str | None = None

    def get(self, path: str) -> Any:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.get(self.url + path, headers=headers, timeout=30).raise_for_status().json()

    def record(self, page: Any) -> dict[str, Any]:
        """What the server remembers of the newest reply on a page: its only choice, with the series."""
        answer_id = page.locator(".reply").last.get_attribute("data-id")
        for _ in range(100):
            answer = httpx.get(f"{self.url}/v1/requests/{answer_id}", timeout=30)
            # it is written down behind the last event of the stream
            if answer.status_code != 404:
                break
            time.sleep(0.05)
        return answer.raise_for_status().json()["choices"][0]

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_server(log: Path, *args: str, key: str | None = None) -> Server:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(s.getsockname()[1])
    command = [sys.executable, "-m", "entropick_server.cli", "serve", "--port", str(port), *args]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ENTROPICK_")}
    if key:
        environment["ENTROPICK_API_KEY"] = key
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**environment, "OMP_WAIT_POLICY": "PASSIVE"}
        )
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + READY_WITHIN
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return Server(url, process, key)
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"the server did not become ready:\n{log.read_text(errors='replace')[-4000:]}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if url := os.environ.get("PAGE_SERVER"):
        yield Server(url, None)
        return
    started = start_server(tmp_path_factory.mktemp("served") / "log", "--log-level", "warning")
    yield started
    started.stop()


@dataclass
class Watched:
    """A page of the browser with what went wrong in it."""

    page: Any
    faults: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    """parts of faults that the test brings about itself"""

    def unexpected(self) -> list[str]:
        return [f for f in self.faults if not any(part in f for part in self.expected)]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Watched]]:
    opened: list[Watched] = []
    contexts: list[Any] = []

    def open_page(url: str, **options: Any) -> Watched:
        options = {"viewport": {"width": 1320, "height": 860}, **options}
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        watched = Watched(page)
        opened.append(watched)
        page.on("pageerror", lambda error: watched.faults.append(f"exception: {error}"))
        page.on(
            "console",
            lambda message: (
                watched.faults.append(f"console: {message.text}") if message.type == "error" else None
            ),
        )

        def requested(request: Any) -> None:
            if not request.url.startswith((url, "data:", "blob:")):
                watched.faults.append(f"asked for {request.url}")

        page.on("request", requested)
        page.goto(f"{url}/")
        return watched

    yield open_page
    for context in contexts:
        context.close()
    for watched in opened:
        assert watched.unexpected() == []


@pytest.fixture
def chat(open_page: Callable[..., Watched], server: Server) -> Any:
    """A page that is ready for a message."""
    page = open_page(server.url).page
    page.wait_for_selector("#ask")
    return page


def ask(page: Any, text: str) -> None:
    """Sends a message and waits for the end of the reply."""
    replies = page.locator(".reply").count()
    page.fill("#ask", text)
    page.press("#ask", "Enter")
    page.wait_for_function(
        """n => { const all = document.querySelectorAll('.reply');
        return all.length > n && all[all.length - 1].getAttribute('aria-busy') === 'false'
          && document.querySelector('.composer button[type=submit]') }""",
        arg=replies,
        timeout=120_000,
    )


def begin_anew(page: Any) -> None:
    """Begins another conversation and waits until the replies of the last are gone, a frame later.

    ``ask`` counts the replies that are there: counted too early, the next would never be one more.
    """
    page.click("button:has-text('New')")
    page.wait_for_selector(".reply", state="detached")


def open_tab(page: Any, name: str) -> None:
    """Opens a tab of the panel and waits until it is drawn, which the page does with the next frame."""
    page.click(f"#tab-{name}")
    page.wait_for_selector(f"#panel-body[aria-labelledby='tab-{name}']")


def settle(page: Any) -> None:
    """Waits until two frames were drawn."""
    page.evaluate("() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")


def set_range(page: Any, name: str, value: float) -> None:
    """Moves a slider, as a hand does: the page hears an input event."""
    page.wait_for_selector(f"input[type=range][name={name}]")
    page.evaluate(
        """([name, value]) => { const slider = document.querySelector(`input[type=range][name=${name}]`);
        slider.value = value; slider.dispatchEvent(new Event('input', {bubbles: true})); }""",
        [name, value],
    )
    settle(page)


def shot(page: Any, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{SHOTS}/{name}.png")


def stream_of(chunks: list[dict[str, Any]], done: bool = True) -> str:
    """A stream of chat chunks as the server would write it."""
    data = [json.dumps({"id": "chatcmpl-made", "model": "pico", **chunk}) for chunk in chunks]
    return "".join(f"data: {one}\n\n" for one in [*data, *(["[DONE]"] if done else [])])


def made_row(index: int, token: str, entropy: float, **more: Any) -> dict[str, Any]:
    """A telemetry row as the server would send it."""
    signals = {"logits_entropy": entropy, "logits_varentropy": entropy / 2, "surprisal": entropy / 3}
    parameters = {"temperature": 0.7, "top_p": 0.95, "top_k": 50, "min_p": 0.02, "n_candidates": 1}
    return {
        "index": index,
        "token": token,
        "token_id": index,
        "strategy": "adaptive",
        "forced": False,
        "parameters": parameters,
        "signals": signals,
        **more,
    }
