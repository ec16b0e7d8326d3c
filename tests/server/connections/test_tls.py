"""A server that ends TLS itself."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from entropick_server.connections.table import Phase
from entropick_server.serve import build_server
from entropick_server.settings import Settings, SettingsError

from .support import BIG, BODY, CHAT, Peer, chat, listening, request, stalled, until

Pair = tuple[Path, Path]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A certificate of 127.0.0.1, signed by itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the command openssl, to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    return make(folder / "certificate.pem", folder / "key.pem", "-nodes")


def make(certificate: Path, key: Path, *options: str) -> Pair:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 2 -subj /CN=test"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run([*command.split(), *names, *options], check=True, capture_output=True)
    return certificate, key


def options(pair: Pair) -> dict[str, str]:
    return {"ssl_certfile": str(pair[0]), "ssl_keyfile": str(pair[1])}


async def test_https(engine: Any, pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    context = ssl.create_default_context(cafile=str(pair[0]))
    async with listening(engine, **options(pair)) as (server, port):
        assert f"try: curl https://127.0.0.1:{port}/v1" in capsys.readouterr().out
        async with httpx.AsyncClient(verify=context) as client:
            answer = await client.post(f"https://127.0.0.1:{port}{CHAT}", json=BODY)
            assert answer.json()["choices"][0]["message"]["content"] == engine.text
            assert (await client.get(f"https://127.0.0.1:{port}/big")).content == BIG
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get(f"https://127.0.0.1:{port}/health")
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(f"http://127.0.0.1:{port}/health")
        await until(lambda: len(server.connections) == 0)


async def test_a_handshake_that_stops(engine: Any, pair: Pair) -> None:
    context = ssl.create_default_context(cafile=str(pair[0]))
    async with listening(engine, **options(pair), max_connections=6, header_timeout_seconds=1) as (
        server,
        port,
    ):
        silent = [await Peer.to(port) for _ in range(20)]
        await until(lambda: server.connections.count(Phase.ARRIVING) == 6)
        # they give way to a client that goes on, and end by themselves
        peer = await Peer.to(port, request(), tls=context)
        assert (await peer.answer())[0] == 200
        assert [await one.rest() for one in silent] == [b""] * 20


async def test_a_stalled_reader_over_tls(engine: Any, pair: Pair) -> None:
    """Its bytes go through two buffers."""
    context = ssl.create_default_context(cafile=str(pair[0]))
    async with listening(engine, **options(pair), write_timeout_seconds=0.5) as (server, port):
        peer = await Peer.to(port, request("/big"), tls=context)
        await until(lambda: server.connections.count(Phase.WRITING) == 1)
        await until(lambda: len(server.connections) == 0)
        assert len(await peer.rest()) < len(BIG)
        # bytes that are no TLS
        plain = stalled(port, chat())
        assert plain.recv(1) in (b"", b"\x15")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ssl_keyfile": "key"}, "setting ssl_keyfile: a key needs its certificate"),
        ({"ssl_certfile": "none"}, "setting ssl_certfile: .*none cannot be read: No such file"),
        ({"ssl_certfile": "cert", "ssl_keyfile": "none"}, "setting ssl_keyfile: .*none cannot be read"),
        ({"ssl_certfile": "cert"}, r"ssl_certfile holds no certificate with its key"),
        (
            {"ssl_certfile": "text", "ssl_keyfile": "key"},
            "ssl_certfile, ssl_keyfile: no certificate and its key",
        ),
        ({"ssl_certfile": "cert", "ssl_keyfile": "other"}, r"KEY_VALUES_MISMATCH|key values mismatch"),
        ({"ssl_certfile": "cert", "ssl_keyfile": "locked"}, "the key without a passphrase"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_told_at_once(
    engine: Any, pair: Pair, tmp_path: Path, given: dict[str, str], told: str
) -> None:
    files = {"cert": pair[0], "key": pair[1], "none": tmp_path / "none", "text": tmp_path / "text"}
    files["text"].write_text("no certificate\n")
    files["other"] = make(tmp_path / "c2", tmp_path / "k2", "-nodes")[1]
    files["locked"] = make(tmp_path / "c3", tmp_path / "k3", "-passout", "pass:secret")[1]
    with pytest.raises(SettingsError, match=told) as error:
        build_server(engine, Settings(**{name: str(files[file]) for name, file in given.items()}))
    assert "\n" not in str(error.value)
