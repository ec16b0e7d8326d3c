"""The identity of a model: every byte counts, and large files are read once."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from entropick_pico import model_path
from entropick_sampler.profile import PROFILE_FILE, Profile
from entropick_server.engine import identity
from entropick_server.engine.base import ModelLoadError
from entropick_server.engine.identity import hash_model
from entropick_server.engine.profiles import restamp

Folder = Callable[[str], Path]
MIB = 1 << 20


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A folder with 7 MiB of weights; the digests of other tests are elsewhere."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * (7 * MIB // 256))
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose bytes are read."""
    seen: list[str] = []
    read = identity._read

    def counted(path: Path) -> str:
        seen.append(path.name)
        return read(path)

    monkeypatch.setattr(identity, "_read", counted)
    return seen


@pytest.mark.parametrize("at", [0, MIB, 3 * MIB + 17, 6 * MIB - 1, 7 * MIB - 1])
def test_every_byte_of_the_weights_counts(at: int, large: Path) -> None:
    before = hash_model(large)
    with (large / "model.safetensors").open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    assert hash_model(large) != before


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("config.json", True),
        ("tokenizer.json", True),
        ("tokenizer_config.json", True),
        ("tokenizer.model", True),
        ("vocab.json", True),
        ("merges.txt", True),
        ("special_tokens_map.json", True),
        ("chat_template.jinja", True),
        ("second.safetensors", True),
        (PROFILE_FILE, False),
        ("generation_config.json", False),
        ("README.md", False),
    ],
)
def test_which_files_count(name: str, counts: bool, large: Path) -> None:
    (large / name).write_text("one")
    before = hash_model(large)
    (large / name).write_text("two")
    assert (hash_model(large) != before) is counts


def test_a_name_counts_and_a_place_does_not(large: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(large, tmp_path / "copy")
    assert hash_model(copy) == hash_model(large)
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    assert hash_model(copy) != hash_model(large)


def test_a_folder_without_weights_has_no_identity(large: Path) -> None:
    (large / "model.safetensors").rename(large / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="no weights in safetensors files"):
        hash_model(large)


def test_a_large_file_is_read_once(large: Path, tmp_path: Path, reads: list[str]) -> None:
    digests = tmp_path / "digests"
    first = hash_model(large, digests, MIB)
    assert sorted(reads) == ["config.json", "model.safetensors"]
    assert hash_model(large, digests, MIB) == first
    assert sorted(reads) == ["config.json", "config.json", "model.safetensors"]
    assert len(list(digests.iterdir())) == 1


def test_a_small_file_is_not_remembered(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "default_digests", lambda: tmp_path / "digests")
    hash_model(large)
    assert not (tmp_path / "digests").exists()


def test_a_file_that_changed_is_read_again(large: Path, tmp_path: Path) -> None:
    """Also where its size and its time of modification are those of the file before, as from an archive."""
    digests = tmp_path / "digests"
    weights = large / "model.safetensors"
    os.utime(weights, (1, 1))
    before = hash_model(large, digests, MIB)
    replaced = tmp_path / "other"
    replaced.write_bytes(bytes(7 * MIB))
    os.utime(replaced, (1, 1))
    os.replace(replaced, weights)
    after = hash_model(large, digests, MIB)
    assert after != before
    assert after == hash_model(large, tmp_path / "none", MIB)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"stamp": 1, "path": 2}'])
def test_a_digest_that_cannot_be_read_is_made_anew(
    content: str, large: Path, tmp_path: Path, reads: list[str]
) -> None:
    digests = tmp_path / "digests"
    first = hash_model(large, digests, MIB)
    (kept,) = digests.iterdir()
    whole = kept.read_text()
    kept.write_text(content)
    reads.clear()
    assert hash_model(large, digests, MIB) == first
    assert "model.safetensors" in reads
    assert json.loads(kept.read_text()) == json.loads(whole)


def test_a_cache_that_cannot_be_written_costs_a_warning(
    large: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        assert hash_model(large, tmp_path / "file" / "digests", MIB) == hash_model(large)
    assert "cannot be kept" in caplog.text


def test_the_shipped_profile_is_of_the_shipped_model() -> None:
    """Where this fails after an edit of the model's files: ``python tools/restamp.py FOLDER``."""
    folder = Path(model_path())
    assert Profile.load(folder / PROFILE_FILE).model_hash == hash_model(folder)


def test_a_new_identity_changes_nothing_else_of_a_profile(tmp_path: Path) -> None:
    shipped = Path(model_path()) / PROFILE_FILE
    copy = Path(shutil.copy(shipped, tmp_path))
    before = copy.read_text().splitlines()
    assert restamp(copy, "new")
    after = copy.read_text().splitlines()
    assert [line for line in after if line not in before] == ['model_hash = "new"']
    assert len(after) == len(before)
    assert not restamp(copy, "new")
    assert Profile.load(copy).model_hash == "new"
    copy.write_text("format = 1\n")
    with pytest.raises(ValueError, match="0 lines"):
        restamp(copy, "new")
