"""How often one streamed chat request changes module, and what one row costs from its logits to the wire.

Counts calls of our own functions with ``sys.setprofile`` while the README's request is streamed, with
max_tokens 8, by the app over the embedded engine, in this process. A *visit* is a run of consecutive calls in
one module and one thread; resuming a coroutine or a generator is a call, a comprehension is not. Runs on any
tree of ours: PYTHONPATH picks it, so that two trees are compared by one command.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib
import itertools
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import httpx

PACKAGES = ("entropick_kernels", "entropick_sampler", "entropick_server", "entropick_pico")
COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
REQUEST = {
    "model": "pico",
    "messages": [{"role": "user", "content": "What is the capital of Falnia?"}],
    "seed": 7,
    "max_tokens": 8,
    "stream": True,
    "entropick": {"telemetry": "tokens"},
}
ROUNDS = 50
"""turns of the event loop after which it has nothing left to do"""
FORWARD, SCHEDULE, SENT = "forward has returned", "schedule is called", "a piece is sent"


class Event(NamedTuple):
    """A call of a function of ours; a mark has no module."""

    thread: int
    module: str
    function: str


class Recorder:
    """Keeps the calls of our functions, in the order of their begin, while :meth:`recording` is open."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.events: list[Event] = []
        self._loop = loop
        self._roots = {
            str(Path(str(importlib.import_module(name).__file__)).parent): name for name in PACKAGES
        }
        self._modules: dict[str, str] = {}
        self._open = False

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record this thread and all that were started under :meth:`profile`."""
        self._open = True
        sys.setprofile(self.profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            self._open = False

    def mark(self, what: str) -> None:
        """Note that something happened in this thread."""
        if self._open:
            self.events.append(Event(threading.get_ident(), "", what))

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        """The function for ``sys.setprofile`` and ``threading.setprofile``."""
        if not self._open or event not in ("call", "return"):
            return
        code = frame.f_code
        module = self._module(code.co_filename)
        if not module or code.co_name in COMPREHENSIONS:
            return
        runner = module.endswith(".model_runner") and code.co_name == "forward"
        if event == "return":
            if runner:
                self.mark(FORWARD)
            return
        if module.endswith(".scheduler") and code.co_name == "schedule":
            self.mark(SCHEDULE)
            self._settle()
        self.events.append(Event(threading.get_ident(), module, code.co_qualname))

    def _settle(self) -> None:
        """Hold the engine's thread until the loop has dealt with the last step: so every run is alike."""
        for _ in range(ROUNDS):
            turned = threading.Event()
            self._loop.call_soon_threadsafe(turned.set)
            turned.wait()

    def _module(self, filename: str) -> str:
        if filename not in self._modules:
            path = Path(filename)
            found = ""
            for root, package in self._roots.items():
                if path.is_relative_to(root):
                    found = ".".join((package, *path.relative_to(root).with_suffix("").parts))
            self._modules[filename] = found
        return self._modules[filename]


def visits(events: Iterable[Event]) -> list[str]:
    """The modules of a thread's calls, each run of calls in one module once."""
    return [module for module, _ in itertools.groupby(event.module for event in events if event.module)]


def between(events: list[Event], begin: str, end: str) -> list[list[Event]]:
    """The calls between each mark ``begin`` and the next mark ``end``, which may be the same mark."""
    found: list[list[Event]] = []
    current: list[Event] | None = None
    for event in events:
        if event.module:
            if current is not None:
                current.append(event)
            continue
        if event.function == end and current is not None:
            found.append(current)
            current = None
        if event.function == begin:
            current = []
    return found


def middle(parts: list[list[Event]]) -> list[Event]:
    """The part with the median number of calls; the first and the last, which begin and end, do not count."""
    inner = sorted(parts[1:-1], key=len)
    return inner[len(inner) // 2]


async def trace() -> list[Event]:
    """The events of one request; others ran before it, so that nothing happens for the first time."""
    from entropick_pico import model_path
    from entropick_server.app import create_app
    from entropick_server.settings import Settings

    recorder = Recorder(asyncio.get_running_loop())
    settings = Settings(model=str(model_path()), served_model_name="pico")
    app = create_app(make_engine(settings), settings)

    async def marked(scope: Any, receive: Any, send: Any) -> None:
        async def noted(message: Any) -> None:
            if message["type"] == "http.response.body":
                recorder.mark(SENT)
            await send(message)

        await app(scope, receive, noted)

    transport = httpx.ASGITransport(marked)
    threading.setprofile(recorder.profile)
    try:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://trace") as client,
        ):
            while (await client.get("/health")).status_code != 200:
                await asyncio.sleep(0.05)
            for _ in range(3):
                answer = await client.post("/v1/chat/completions", json=REQUEST)
                answer.raise_for_status()
            # a collection may call finalizers, a switch of threads may come between two calls
            gc.collect()
            gc.disable()
            with recorder.recording():
                await client.post("/v1/chat/completions", json=REQUEST)
            gc.enable()
            return list(recorder.events)
    finally:
        threading.setprofile(None)


def make_engine(settings: Any) -> Any:
    """The embedded engine, wherever this tree keeps it."""
    names = ("entropick_server.engine.embedded.engine", "entropick_server.engine.torch_engine")
    for name in names:
        with contextlib.suppress(ModuleNotFoundError):
            module = importlib.import_module(name)
            found = next(
                value for key, value in vars(module).items() if key.endswith("Engine") and key != "Engine"
            )
            return found(settings.engine_options(settings.model))
    raise SystemExit(f"no embedded engine: none of {', '.join(names)} is there")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", action="store_true", help="print the calls of one row")
    parser.add_argument("--changes", action="store_true", help="print the most frequent changes of module")
    parser.add_argument("--side", choices=("all", "http"), default="all", help="http: leave the engine out")
    options = parser.parse_args()
    events = asyncio.run(trace())
    by_thread: dict[int, list[Event]] = {}
    for event in events:
        if options.side == "http" and ".engine." in event.module:
            continue
        by_thread.setdefault(event.thread, []).append(event)
    runs = [visits(of) for of in by_thread.values()]
    modules = {module for run in runs for module in run}
    changes = sum(map(len, runs))
    calls = sum(1 for of in by_thread.values() for event in of if event.module)
    print(
        f"one request: {calls} calls, {len(modules)} modules, {changes} module changes, "
        f"{changes - len(modules)} of them back into one already left"
    )
    if options.changes:
        pairs = Counter(pair for run in runs for pair in itertools.pairwise(run))
        for (left, entered), count in pairs.most_common(60):
            print(f"  {count:4d}  {left} -> {entered}")
    engine = max(by_thread.values(), key=lambda of: sum(e.function == FORWARD for e in of))
    loop = max(by_thread.values(), key=lambda of: sum(e.function == SENT for e in of))
    row = [middle(between(engine, FORWARD, SCHEDULE)), middle(between(loop, SENT, SENT))]
    counts = [len(part) for part in row]
    seen = [len(visits(part)) for part in row]
    print(
        f"one row, from its logits to the wire: {sum(counts)} calls over {sum(seen)} module visits "
        f"(engine {counts[0]} over {seen[0]}, HTTP {counts[1]} over {seen[1]})"
    )
    if options.calls:
        for event in itertools.chain(*row):
            print(f"  {event.module}: {event.function}")


if __name__ == "__main__":
    main()
