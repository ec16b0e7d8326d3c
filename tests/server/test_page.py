"""The page's routes: what they serve, with which headers, to whom."""

import re
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from hatchling.builders.wheel import WheelBuilder

from entropick_server.routes.page import page_files

ROOT = Path(__file__).parents[2]
PAGE = Path(str(files("entropick_server"))) / "page"


async def test_the_page_and_its_files_come_with_their_types_and_without_inline_code(
    client: httpx.AsyncClient,
) -> None:
    index = await client.get("/")
    assert index.status_code == 200
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    linked = re.findall(r'(?:src|href)="(page/[^"]+)"', index.text)
    assert len(linked) >= 5
    for path in linked:
        answer = await client.get(f"/{path}")
        assert answer.status_code == 200, path
        kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}[path.rpartition(".")[2]]
        assert answer.headers["content-type"].startswith(kind)
    assert "<style" not in index.text
    assert not re.search(r"<script(?![^>]*\bsrc=)", index.text)
    assert not re.search(r'\s(?:on\w+|style)="', index.text)


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/base.css"])
async def test_nothing_but_the_pages_own_files_may_run_or_be_asked_for(
    client: httpx.AsyncClient, path: str
) -> None:
    headers = (await client.get(path)).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert {policy[name] for name in ("frame-ancestors", "base-uri", "form-action")} == {"'none'"}
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


async def test_the_files_need_no_key_and_every_route_that_they_call_does(serve: Any, engine: Any) -> None:
    async with serve(engine, api_key="secret") as client:
        assert (await client.get("/")).status_code == 200
        for name in page_files():
            assert (await client.get(f"/page/{name}")).status_code == 200, name
        called = set()
        for name, file in page_files().items():
            if name.endswith(".js") and not name.startswith("vendor/"):
                called |= set(re.findall(r"""['`"](v1/[a-z/]+)""", file.body.decode()))
        assert {"v1/policy", "v1/models", "v1/requests", "v1/chat/completions"} <= called
        for path in called:
            method = "POST" if path == "v1/chat/completions" else "GET"
            assert (await client.request(method, f"/{path.rstrip('/')}")).status_code == 401, path
        for path in ("/page", "/pages/main.js", "/v1/policy", "/metrics", "/page%2Fmain.js/../../v1/policy"):
            assert (await client.get(path)).status_code in (401, 404), path


@pytest.mark.parametrize(
    "path",
    [
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page/..%2fapp.py",
        "/page//etc/passwd",
        "/page/views/../../app.py",
        "/page/",
        "/page/views",
        "/page/nothing.js",
        "/page/__init__.py",
    ],
)
async def test_nothing_outside_the_folder_is_served(client: httpx.AsyncClient, path: str) -> None:
    # httpx would resolve the dots: the path goes out as it is written
    url = httpx.URL("http://test", raw_path=path.encode())
    answer = await client.get(url)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "route_not_found"


async def test_a_file_that_the_browser_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/page/main.js")
    again = await client.get("/page/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == "no-cache"


def test_every_module_is_served_and_imports_only_files_that_are(tmp_path: Path) -> None:
    held = page_files()
    on_disk = {str(path.relative_to(PAGE)) for path in PAGE.rglob("*") if path.is_file()}
    assert on_disk == set(held)
    for name, file in held.items():
        if not name.endswith(".js") or name.startswith("vendor/"):
            continue
        text = file.body.decode()
        assert text.count("\n") < 300, name
        for imported in re.findall(r"from '([^']+)'", text):
            assert imported.startswith("."), f"{name}: {imported}"
            assert (PAGE / name).parent.joinpath(imported).resolve().relative_to(PAGE).as_posix() in held
        for foreign in re.findall(r"https?://[^\s'\"`)]+", text):
            assert foreign.startswith("http://www.w3.org/"), f"{name}: {foreign}"


def test_the_files_are_in_the_wheel(tmp_path: Path) -> None:
    [wheel] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"entropick_server/page/{name}" for name in page_files()} <= names


async def test_the_servers_policy_says_what_the_page_reads_from_it(client: httpx.AsyncClient) -> None:
    policy = (await client.get("/v1/policy")).json()
    assert policy["hesitation"] == {"signal": "surprisal", "from": 1.0, "unit": "bits"}
    assert policy["hesitation"]["signal"] in {signal["name"] for signal in policy["signals"]}
    assert policy["answer"] == ["last_number", "first_sentence", "text"]
    assert policy["quantile_levels"] == sorted(policy["quantile_levels"])


@pytest.mark.parametrize("name", ["htm-preact.js", "uplot.js", "uplot.css"])
def test_vendored_files_are_what_their_list_says(name: str) -> None:
    from hashlib import sha256

    listed = next(
        line
        for line in (PAGE / "vendor/README.md").read_text().splitlines()
        if line.startswith(f"| `{name}`")
    )
    assert sha256((PAGE / "vendor" / name).read_bytes()).hexdigest() in listed
    assert re.search(r"Apache-2\.0|MIT", listed)
