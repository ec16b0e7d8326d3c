"""Takes the pictures of the documentation: a real model answers in the page and in the terminal.

Run as ``make pictures``. It serves the model, asks it the questions below in headless Chromium and through
``entropick chat`` in a pseudo-terminal, and writes ``docs/pictures/*.png``,
dark and light.
"""

import argparse
import contextlib
import fcntl
import io
import os
import pty
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT: Final = Path(__file__).resolve().parent.parent
ENTROPICK: Final = (sys.executable, "-m", "entropick_server.cli")
QUESTIONS: Final = ("What is the capital of France?", "Which river flows through it?")
OPEN: Final = "Write one sentence about the sea."
"""for the terminal, which has room"""
SEED: Final = 7
LARGEST: Final = 150_000
"""bytes of a picture"""
READY_WITHIN: Final = 1200.0
ANSWER_WITHIN: Final = 120.0
COLUMNS: Final = 108
_GREYS: Final = [(80, 80, 80)] * 8
THEMES: Final = {
    "dark": TerminalTheme((24, 26, 31), (226, 226, 220), _GREYS),
    "light": TerminalTheme((255, 255, 255), (32, 34, 38), _GREYS),
}


_FORMAT: Final = (
    "<html><body style='margin:0'><pre id='shot' style='margin:0; padding:16px 18px; width:max-content; "
    'font:15px/1.45 "DejaVu Sans Mono",monospace; color:{foreground}; background:{background}\'>'
    "<code style='font-family:inherit'>{code}</code></pre></body></html>"
)


class PictureError(Exception):
    """A picture that could not be taken."""


@contextlib.contextmanager
def serving(model: str) -> Iterator[str]:
    """Serves a model on a free port of loopback, and yields its URL when it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [*ENTROPICK, "serve", model, "--port", str(port), "--seed", str(SEED), "--log-level", "warning"]
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + READY_WITHIN
    with subprocess.Popen(command) as process:
        try:
            while time.monotonic() < end and process.poll() is None:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                        yield url
                        return
                time.sleep(0.2)
            raise PictureError("the server did not become ready; its log is above")
        finally:
            process.terminate()


def take_page(browser: Any, url: str, scheme: str, path: Path) -> None:
    """Asks the questions in the page, switches colours on, looks at a token, and takes a picture."""
    context = browser.new_context(
        viewport={"width": 1180, "height": 680}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(url)
    for number, question in enumerate(QUESTIONS, start=1):
        page.fill("#ask", question)
        page.press("#ask", "Enter")
        done = f".reply[aria-busy=false] >> nth={number - 1}"
        page.wait_for_selector(done, timeout=ANSWER_WITHIN * 1000)
    page.click(".switch")
    page.select_option("#signal", "surprisal")
    page.locator(".reply").first.locator(".tokens [role=option]").first.click()
    page.wait_for_selector("#token-card")
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=path)
    context.close()


def typed(url: str, scheme: str) -> str:
    """Returns all that a terminal gets while the questions are typed into ``entropick chat``."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, COLUMNS, 0, 0))
    environment = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")
    }
    environment |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LC_ALL": "C.UTF-8"}
    command = [*ENTROPICK, "chat", "--url", url, "--seed", str(SEED), "--background", scheme]
    lines = [*QUESTIONS, OPEN, "/quit"]
    got, end = "", time.monotonic() + ANSWER_WITHIN
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        try:
            while time.monotonic() < end:
                if select.select([master], [], [], 0.5)[0]:
                    try:
                        got += os.read(master, 65536).decode(errors="replace")
                    except OSError:
                        break
                elif lines and re.search(r"> (\x1b\[[0-9;?]*[a-z])*$", got):
                    os.write(master, lines.pop(0).encode() + b"\r")
        finally:
            process.terminate()
            os.close(master)
    if lines:
        raise PictureError(f"entropick chat did not ask for {lines[0]!r}:\n{got}")
    # of the terminal's modes, and of lines that were erased, nothing is to be seen
    got = re.sub(r"\x1b\[\?\d+[hl]", "", got).replace("\r\n", "\n")
    got = re.sub(r"[^\n]*\r\x1b\[K", "", got).replace("\r", "")
    return got.replace(url, "http://127.0.0.1:8000").removesuffix("\n").rpartition("\n")[0]


def take_terminal(browser: Any, text: str, scheme: str, path: Path) -> None:
    """Draws the output of a terminal and takes a picture of it."""
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Text.from_ansi(text), soft_wrap=True)
    theme = THEMES[scheme]
    html = console.export_html(
        theme=theme,
        inline_styles=True,
        code_format=_FORMAT,
    )
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    page = context.new_page()
    page.set_content(html)
    page.locator("#shot").screenshot(path=path)
    context.close()


def take_all(url: str, folder: Path) -> list[Path]:
    """Takes every picture of the server at a URL and returns their paths."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise PictureError("pictures need Chromium; name it: CHROMIUM=/path")
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    with sync_playwright() as playwright:
        # in a container the user is often root, which Chromium's own sandbox refuses; pages are ours alone
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in THEMES:
            taken += [folder / f"page-{scheme}.png", folder / f"terminal-{scheme}.png"]
            take_page(browser, url, scheme, taken[-2])
            take_terminal(browser, typed(url, scheme), scheme, taken[-1])
        browser.close()
    return taken


def main() -> int:
    """Runs the command and returns the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--model", default="smollm2", help="the model to ask (default: %(default)s)")
    parser.add_argument("--url", help="a server that runs already, to ask instead")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures", help="the folder to write to")
    args = parser.parse_args()
    try:
        if args.url:
            taken = take_all(args.url, args.out)
        else:
            with serving(args.model) as url:
                taken = take_all(url, args.out)
        for path in taken:
            size = path.stat().st_size
            print(f"{path}: {size / 1000:.0f} KB")
            if size > LARGEST:
                raise PictureError(f"{path} has more than {LARGEST / 1000:.0f} KB")
    except PictureError as error:
        print(f"pictures: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
