"""Several keys: their file, its changes, and the comparison with every key."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from entropick_server.access.key_file import MAX_KEYS, KeyFile, KeyFileError, parse_keys
from entropick_server.access.keys import Keys, keys_of
from entropick_server.access.refresh import refreshed
from entropick_server.cli import main
from entropick_server.settings import Settings, SettingsError

from .conftest import ALICE, BOB, BODY, CHAT, bearer


def test_a_file_of_keys() -> None:
    text = "# comment\n\n  alice :  abcdefgh \nbob: with:colon:s\r\nalice: another-key\n"
    assert parse_keys(text) == [("alice", "abcdefgh"), ("bob", "with:colon:s"), ("alice", "another-key")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no keys"),
        ("# only a comment\n", "holds no keys"),
        ("a: secret-key\nnaked-secret\n", "line 2: must be 'name: key'"),
        ("a b: secret-key\n", "line 1: a name has"),
        (": secret-key\n", "line 1: a name has"),
        ("x" * 65 + ": secret-key\n", "line 1: a name has"),
        ("a: short\n".replace("short", "s3cr3t"), "line 1: a key has 8 to 512"),
        ("a: secret key\n", "line 1: a key has"),
        ("a: sécret-key\n", "line 1: a key has"),
        ("a: secret-key\nb: secret-key\n", r"line 2: the key of another name \(a\)"),
        ("".join(f"a: secret-{i:04}\n" for i in range(MAX_KEYS + 1)), "1001 keys, of at most 1000"),
    ],
)
def test_a_wrong_file_is_refused_without_a_key_in_the_message(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=why) as refused:
        parse_keys(text)
    assert "secret" not in str(refused.value)
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(SettingsError, match="setting api_key_file: ") as at_start:
        keys_of(Settings(api_key_file=path))
    assert "secret" not in str(at_start.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for make in (lambda: None, path.mkdir):
        make()
        with pytest.raises(SettingsError, match="setting api_key_file: cannot be read"):
            keys_of(Settings(api_key_file=path))
    path.rmdir()
    path.write_bytes(b"a: \xff\xff\xff\xff\xff\xff\xff\xff\n")
    with pytest.raises(SettingsError, match="not UTF-8"):
        keys_of(Settings(api_key_file=path))
    path.write_bytes(b"#" * (1 << 20) + b"\na: secret-key\n")
    with pytest.raises(SettingsError, match="larger than 1048576 bytes"):
        keys_of(Settings(api_key_file=path))


@pytest.mark.parametrize("key", ["with space", "ünicode", "new\nline", "x" * 513])
def test_a_key_that_no_header_carries_is_refused_at_the_start(key: str) -> None:
    with pytest.raises(SettingsError, match="setting api_key: must be 1 to 512") as refused:
        keys_of(Settings(api_key=key))  # type: ignore[arg-type]
    assert key not in str(refused.value)


def test_the_variable_and_the_file_are_both_in_force(key_file: Path) -> None:
    keys = keys_of(Settings(api_key="k", api_key_file=key_file))  # type: ignore[arg-type]
    assert keys is not None
    names = [keys.name_of(key.encode()) for key in ("k", ALICE, BOB, "", "nobody")]
    assert names == ["api_key", "alice", "bob", None, None]
    assert keys_of(Settings()) is None


@pytest.mark.parametrize("given", ["key-number-0", "key-number-7", "key-number-19", "none", "", "k" * 5000])
def test_every_key_is_compared_whatever_is_given(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constant time by construction: digests of one length, one comparison a key, no early end."""
    keys = Keys((f"name-{i}", f"key-number-{i}") for i in range(20))
    compared: list[tuple[int, int]] = []

    def counted(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", counted)
    name = keys.name_of(given.encode())
    assert compared == [(32, 32)] * 20
    assert name == (given.replace("key-number", "name") if given.startswith("key-number") else None)


def test_a_file_that_everyone_can_read_is_told(key_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    KeyFile(key_file).read()
    assert caplog.text == ""
    key_file.chmod(0o644)
    KeyFile(key_file).read()
    assert caplog.text.count("can read the file of keys") == 1
    assert ALICE not in caplog.text


def replace(path: Path, text: str) -> None:
    """As editors and Kubernetes do it: a new file under the old name."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.rename(path)


def test_a_change_is_taken_at_the_second_look(key_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    keys = Keys([("api_key", "fixed")], KeyFile(key_file))
    assert not keys.refresh()
    replace(key_file, "alice: alice-new-key\ncarol: carol-0123456789\n")
    assert [keys.refresh() for _ in range(4)] == [False, True, False, False]
    known = ["alice-new-key", "carol-0123456789", "fixed", ALICE, BOB]
    assert [keys.name_of(key.encode()) for key in known] == ["alice", "carol", "api_key", None, None]
    assert caplog.text.count("was read again: 2 keys") == 1
    # written in place, of the same length: its time alone tells
    now = key_file.stat()
    key_file.write_text("alice: alice-two-key\ncarol: carol-0123456789\n")
    os.utime(key_file, ns=(now.st_atime_ns, now.st_mtime_ns + 1))
    assert [keys.refresh() for _ in range(3)] == [False, True, False]
    assert keys.name_of(b"alice-two-key") == "alice"
    assert "alice-" not in caplog.text


def test_a_broken_change_keeps_the_old_keys_and_is_told_once(
    key_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys([], KeyFile(key_file))
    for text in ("alice\n", "", "alice: short\n"):
        caplog.clear()
        replace(key_file, text)
        assert not any(keys.refresh() for _ in range(5))
        assert len(caplog.records) == 1
        assert "old keys stay in force" in caplog.text
        assert keys.name_of(ALICE.encode()) == "alice"
    caplog.clear()
    key_file.unlink()
    assert not any(keys.refresh() for _ in range(5))
    assert len(caplog.records) == 1
    assert keys.name_of(BOB.encode()) == "bob"
    key_file.write_text(f"bob: {BOB}\n")
    assert [keys.refresh() for _ in range(3)] == [False, True, False]
    assert keys.name_of(ALICE.encode()) is None


async def test_the_file_is_watched_beside_the_requests(key_file: Path) -> None:
    keys = Keys([], KeyFile(key_file))
    async with refreshed(keys, seconds=0.01):
        replace(key_file, "alice: alice-new-key\n")
        async with asyncio.timeout(20):
            while keys.name_of(b"alice-new-key") is None:
                await asyncio.sleep(0.01)
    assert keys.name_of(ALICE.encode()) is None
    async with refreshed(None), refreshed(Keys([("a", "b")])):
        pass


async def test_both_callers_are_served_and_named(
    client: httpx.AsyncClient, alice: Any, bob: Any, engine: Any
) -> None:
    app: Any = client.app  # type: ignore[attr-defined]
    for headers, name in ((alice, "alice"), (bob, "bob")):
        assert (await client.post(CHAT, json=BODY, headers=headers)).status_code == 200
        assert app.state.server.recent.newest(name)[0].owner == name
    assert (await client.post(CHAT, json=BODY, headers=bearer("carol-0123456789"))).status_code == 401
    assert len(engine.requests) == 2


@pytest.mark.parametrize(
    ("host", "warned"),
    [
        ("127.0.0.1", False),
        ("127.9.9.9", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("10.0.0.1", True),
        ("a.host", True),
    ],
)
def test_an_open_server_on_a_network_is_told(
    host: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert keys_of(Settings(host=host)) is None
    assert ("no key is set" in caplog.text) == warned
    caplog.clear()
    keys_of(Settings(host=host, api_key="k"))  # type: ignore[arg-type]
    assert caplog.text == ""


def test_help_says_where_a_key_shows(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    described = said.rpartition("--api-key VALUE ")[2].partition("--api-key-file")[0]
    assert "process list" in described
    assert "ENTROPICK_API_KEY" in described
    assert "api_key_file" in described


def test_a_wrong_file_ends_the_start_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys"
    path.write_text("naked-secret-key\n")
    assert main(["serve", "--port", "0", "--api-key-file", str(path)]) == 2
    said = capsys.readouterr().err
    assert said == "entropick: error: setting api_key_file: line 1: must be 'name: key'\n"
