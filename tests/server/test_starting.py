"""Faults of the start: streams closed or full, a user without a home, broken files, unknown variables."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entropick_pico import model_path
from entropick_server.engine.base import ModelLoadError
from entropick_server.engine.model_files import read_generation
from entropick_server.engine.source import read_source
from entropick_server.engine.types import EngineOptions
from entropick_server.engine.user_cache import user_cache
from entropick_server.environment import OTHERS, check_known
from entropick_server.settings import Settings, SettingsError, load_settings

FAKE = Path(__file__).parent / "connections" / "serve_fake.py"
CLI = "exec {python} -m entropick_server.cli"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command.replace("{python}", sys.executable)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Waits until a server is ready; false where it ended before."""
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    return False


@pytest.mark.parametrize("streams", ["> /dev/full", "> /dev/full 2>&1", "<&- >&- 2>&-", "<&- 2>&-"])
def test_a_server_needs_no_standard_streams(streams: str) -> None:
    port = free_port()
    command = f"exec {sys.executable} {FAKE} --port {port} {streams}"
    process = subprocess.Popen(
        ["bash", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert answers(port, process)
        body = json.dumps({"messages": [{"role": "user", "content": "x"}]}).encode()
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, headers)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert json.load(answer)["choices"]
        # no file or socket of the server got the number of a standard stream
        for number in range(3):
            target = os.readlink(f"/proc/{process.pid}/fd/{number}")
            assert target in ("/dev/null", "/dev/full"), target
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_the_output_of_a_command_that_cannot_be_written() -> None:
    done = shell(f"{CLI} version > /dev/full")
    assert (done.returncode, done.stderr) == (1, "entropick: error: the output cannot be written\n")
    done = shell(f"{CLI} version >&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_that_cannot_be_written() -> None:
    done = shell(f"{CLI} serve --max-n 0 2> /dev/full")
    assert (done.returncode, done.stdout) == (2, "")


NO_HOME = """
import os, pwd, sys
os.environ.pop("HOME", None)
def unknown(_):
    raise KeyError("getpwuid(): uid not found")
pwd.getpwuid = unknown
from entropick_server.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("arguments", [["serve", "/nowhere"], ["version"]])
def test_a_user_without_home_and_entry(tmp_path: Path, arguments: list[str]) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "XDG_CACHE_HOME"} | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", NO_HOME, *arguments]
    if arguments[0] == "serve":
        command += ["--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert "Traceback" not in done.stderr
    if arguments[0] == "serve":
        assert done.returncode == 1
        assert "/nowhere: no such folder or file" in done.stderr.splitlines()[-1]


def test_a_cache_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = tmp_path / f"entropick-{os.getuid()}"
    assert user_cache() == own == user_cache()
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o777)
    with pytest.raises(ModelLoadError, match="open to others"):
        user_cache()
    own.rmdir()
    own.symlink_to(tmp_path)
    with pytest.raises(ModelLoadError, match=r"XDG_CACHE_HOME names another"):
        user_cache()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--port", "{taken}"], 2, "cannot listen on"),
        (["/nowhere/model", "--port", "0"], 1, "no such folder or file"),
        (["--no-such-option"], 2, "unrecognized arguments"),
    ],
)
def test_what_is_told_before_a_model_is_loaded(arguments: list[str], code: int, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = [a.replace("{taken}", str(taken.getsockname()[1])) for a in arguments]
        done = shell(f"{CLI} serve {' '.join(given)}")
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert words in done.stderr.splitlines()[-1]
    assert "Loading weights" not in done.stderr


def edited(name: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        known = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(known | changes))

    return edit


def without(name: str, key: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        known = json.loads((folder / name).read_text())
        del known[key]
        (folder / name).write_text(json.dumps(known))

    return edit


def written(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("config.json", written("config.json", b"{"), "config.json is no JSON: "),
        ("config.json", written("config.json", b"null"), "config.json is no JSON object"),
        ("config.json", written("config.json", b"\xff\xfe"), "config.json is no JSON: "),
        ("config.json", written("config.json", b'{"a":' * 9999), "config.json is no JSON: maximum recursion"),
        ("config.json", edited("config.json", hidden_size="x"), "config.json: .*'hidden_size' expected int"),
        ("config.json", edited("config.json", num_attention_heads=0), "config.json: ZeroDivisionError"),
        ("config.json", edited("config.json", model_type=5), "config.json: .* model type `5`"),
        ("tokenizer.json", written("tokenizer.json", b"[]"), "tokenizer.json is no JSON object"),
        (
            "tokenizer.json",
            written("tokenizer.json", b"{}"),
            "tokenizer.json is no tokenizer: .*; get that file again from where the model came from$",
        ),
        ("tokenizer.json", without("tokenizer.json", "added_tokens"), "is no tokenizer: .*added_tokens"),
        ("tokenizer.json", without("tokenizer.json", "model"), "is no tokenizer: .*model"),
        ("tokenizer.json", edited("tokenizer.json", model={}), "is no tokenizer: data did not match"),
        ("tokenizer.json", written("tokenizer.json", b"{"), "is no JSON: .*; get that file again"),
        ("tokenizer_config.json", written("tokenizer_config.json", b"5"), "tokenizer_config.json is no JSON"),
        (
            "generation_config.json",
            written("generation_config.json", b"{"),
            "generation_config.json is no JSON",
        ),
        ("generation_config.json", written("generation_config.json", b"[]"), "is no JSON object"),
        (
            "",
            edited("generation_config.json", temperature="hot"),
            "temperature must be a number of at least 0",
        ),
        ("", edited("generation_config.json", top_p=7), "top_p must be a number from 0 to 1; it is '7'"),
        ("", edited("generation_config.json", top_k=1.5), "top_k must be a whole number of at least -1"),
        ("", edited("generation_config.json", eos_token_id="x"), "eos_token_id: 'x' is no token id"),
        ("", written("chat_template.jinja", b"{% for %}"), r"line 1: .* \(--chat-template names another\)"),
        ("", written("chat_template.jinja", b"\xff"), "chat_template.jinja is no UTF-8 text: 'utf-8' codec"),
    ],
)
def test_a_broken_file_is_a_sentence(
    tmp_path: Path, name: str, change: Callable[[Path], None], words: str
) -> None:
    folder = shutil.copytree(model_path(), tmp_path / "model")
    change(folder)
    with pytest.raises(ModelLoadError, match=words) as raised:
        read_source(EngineOptions(str(folder)))
    message = str(raised.value)
    assert message.startswith(f"{folder} cannot be loaded: ")
    assert name in message
    assert "\n" not in message
    assert len(message) < 500 + len(str(folder))


def test_a_broken_template_does_no_harm_beside_the_operators(tmp_path: Path) -> None:
    folder = shutil.copytree(model_path(), tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{% for %}")
    (tmp_path / "own.jinja").write_text("{{ messages[0].content }}!")
    options = EngineOptions(str(folder), chat_template=str(tmp_path / "own.jinja"))
    tokenizer = read_source(options).tokenizer
    assert tokenizer.render_chat([{"role": "user", "content": "x"}], add_generation_prompt=True) == "x!"
    tokenizer.close()


def test_a_model_without_generation_config(tmp_path: Path) -> None:
    assert read_generation("m", tmp_path) is None


def test_a_broken_model_ends_the_server_with_a_sentence(tmp_path: Path) -> None:
    folder = shutil.copytree(model_path(), tmp_path / "model")
    (folder / "config.json").write_text("{")
    done = shell(f"{CLI} serve {folder} --port 0")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert f"{folder} cannot be loaded: config.json is no JSON" in done.stderr.splitlines()[-1]


def test_code_of_a_models_repository_is_never_run(tmp_path: Path) -> None:
    folder = shutil.copytree(model_path(), tmp_path / "model")
    names = ("AutoConfig", "AutoModelForCausalLM")
    edited("config.json", auto_map=dict.fromkeys(names, "evil.Evil"))(folder)
    edited("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})(folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Evil: pass\n")
    read_source(EngineOptions(str(folder))).tokenizer.close()
    edited("config.json", model_type="evil")(folder)
    with pytest.raises(ModelLoadError):
        read_source(EngineOptions(str(folder)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("ENTROPICK_MAX_QUEU", "; the nearest is ENTROPICK_MAX_QUEUE"),
        ("entropick_kv_cache_byte", "; the nearest is ENTROPICK_KV_CACHE_BYTES"),
        ("ENTROPICK_XYZZY", ""),
    ],
)
def test_an_unknown_variable(monkeypatch: pytest.MonkeyPatch, variable: str, hint: str) -> None:
    monkeypatch.setenv(variable, "3")
    with pytest.raises(SettingsError, match=f"the variable {variable} names no setting{hint}$"):
        load_settings()


def test_known_variables() -> None:
    names = [*Settings.model_fields, *OTHERS]
    assert {"API_KEY", "CONFIG", "LAYERS", "PROFILE", "URL"} <= {name.upper() for name in names}
    check_known({f"ENTROPICK_{name.upper()}": "1" for name in names} | {"PATH": "x"}, Settings.model_fields)
    check_known({f"entropick_{name.lower()}": "1" for name in names}, Settings.model_fields)


def test_the_help_says_that_a_key_shows() -> None:
    done = shell(f"{CLI} serve --help")
    text = " ".join(done.stdout.split())
    assert "process list" in text[text.index("--api-key VALUE key") :][:400]
