"""The routes GET / and /page/...: the page that shows a model's uncertainty, and the files it is made of.

The files hold no data and need no key; every route that the page calls asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..protocol.errors import ApiError

PAGE: Final = "/"
"""the path of the page"""
PAGE_PREFIX: Final = "/page/"
"""the beginning of the paths of its files"""
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
}
"""the endings of files that are served, and their content types"""
_CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""scripts and styles from these files alone, none inside a document, connections to this server alone"""
_HEADERS: Final = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page with its content type and its entity tag."""

    body: bytes
    content_type: str
    etag: str


def page_files() -> Mapping[str, PageFile]:
    """Reads the page's files from the package: path below the page's folder -> file."""
    return dict(_walk(files("entropick_server") / "page", ""))


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, PageFile]]:
    found: list[tuple[str, PageFile]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _walk(entry, f"{prefix}{entry.name}/")
        elif (kind := _TYPES.get(f".{entry.name.rpartition('.')[2]}")) is not None:
            body = entry.read_bytes()
            found.append((prefix + entry.name, PageFile(body, kind, f'"{sha256(body).hexdigest()[:32]}"')))
    return found


def page_router() -> APIRouter:
    """Returns the routes of the page, which hold its files in memory: no path of a request reaches a disk."""
    router = APIRouter(include_in_schema=False)
    held = page_files()

    @router.get(PAGE)
    async def index(request: Request) -> Response:
        """Returns the page."""
        return _answer(request, held.get("index.html"))

    @router.get(PAGE_PREFIX + "{path:path}")
    async def file(request: Request, path: str) -> Response:
        """Returns a file of the page."""
        return _answer(request, held.get(path))

    return router


def _answer(request: Request, file: PageFile | None) -> Response:
    if file is None:
        raise ApiError(404, "The page has no such file.", code="route_not_found")
    headers = {**_HEADERS, "ETag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.body, headers={**headers, "Content-Type": file.content_type})
