"""A cache that cannot be written or read: the start goes on without it, with one line of warning."""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from entropick_sampler.profile import THRESHOLDS
from entropick_server.engine.identity import file_digest
from entropick_server.engine.profiles import cached_profile_path, find_profile, keep_profile

from ..conftest import make_profile


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("fault", ["a full disk", "no folder"])
def test_a_profile_that_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    place = cached_profile_path(tmp_path / "cache", "m", (0, 1))
    if fault == "a full disk":
        monkeypatch.setattr(os, "fsync", full)
    else:
        (tmp_path / "cache").write_text("a file, so that not even root can make the folder")
    profile = replace(make_profile(), thresholds=dict.fromkeys(THRESHOLDS, 1.0))
    keep_profile(profile, place)
    (said,) = warnings(caplog)
    assert "cannot be kept" in said
    assert "the next start calibrates again" in said
    assert not place.exists()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == (
        [] if fault == "a full disk" else ["cache"]
    )


def test_a_cache_that_may_not_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As of another user: it counts as a cache without the profile."""

    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "exists", refuse)
    assert find_profile(None, tmp_path, tmp_path / "cache", "m", (0, 1), shipped=tmp_path) is None
    (said,) = warnings(caplog)
    assert "is passed over" in said


def test_a_digest_that_cannot_be_kept_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    monkeypatch.setattr(os, "replace", full)
    wanted = file_digest(weights, tmp_path / "digests", remember_from=100)
    assert file_digest(weights, tmp_path / "digests", remember_from=1) == wanted
    (said,) = warnings(caplog)
    assert "cannot be kept, the next start reads it again" in said
