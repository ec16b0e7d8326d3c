"""Reaches a server to evaluate: the model of this process, or any server with OpenAI's API at a URL.

Both are one HTTP client, so every arm is a request's body whatever answers it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from entropick_server.app import create_app
from entropick_server.engine.base import Engine
from entropick_server.settings import Settings

from .code_digest import code_digest
from .replies import AnswerError, Reply, read_reply
from .tasks import short_digest

_TRIES: Final = 5
_LONGEST_WAIT: Final = 30.0
_CHAT: Final = "/v1/chat/completions"


class TargetError(RuntimeError):
    """An error that ends the evaluation: there is no server, or no model."""


class RefusedError(Exception):
    """A refusal of a request's body by the server (a status from 400 to 499); the message is the server's."""

    def __init__(self, status: int, message: str, param: str | None, code: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


class FailedError(Exception):
    """A failure of one request, which may succeed when it is sent again another day."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a server: which model answers, and which code."""

    name: str
    """the model's id"""
    model: str
    """a digest of the model"""
    code: str
    """a digest of the code that answers, as far as it is known"""
    profile: str | None
    """the id of the calibration profile in force"""
    ours: bool
    """whether it is an entropick server"""

    def code_of(self, reads_profile: bool) -> str:
        """Returns the digest of all that decides an arm's replies beside model, body and item."""
        return short_digest([self.code, self.profile if reads_profile else None])


class Target:
    """A server to evaluate."""

    def __init__(self, client: httpx.AsyncClient, identity: Identity) -> None:
        self._client = client
        self.identity = identity

    async def ask(self, body: Mapping[str, Any]) -> Reply:
        """Returns the reply to a request, which is sent again while the server is full or fails.

        Raises RefusedError, and FailedError after the last try.
        """
        reason = ""
        for attempt in range(_TRIES):
            wait = min(_LONGEST_WAIT, 0.5 * 2**attempt)
            try:
                response = await self._client.post(_CHAT, json={"model": self.identity.name, **body})
            except httpx.HTTPError as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                if response.status_code == 200:
                    try:
                        return read_reply(response.json())
                    except (AnswerError, ValueError) as error:
                        raise FailedError(str(error)) from error
                message, param, code = _error(response)
                if response.status_code not in (408, 429) and response.status_code < 500:
                    raise RefusedError(response.status_code, message, param, code)
                reason = f"{response.status_code}: {message}"
                asked = response.headers.get("retry-after", "")
                wait = min(_LONGEST_WAIT, float(asked)) if re.fullmatch(r"\d{1,4}(\.\d+)?", asked) else wait
            if attempt + 1 < _TRIES:
                await asyncio.sleep(wait)
        raise FailedError(reason)


def _error(response: httpx.Response) -> tuple[str, str | None, str | None]:
    """Returns message, field and code of an error in OpenAI's shape, or the text of another one."""
    try:
        error = response.json()["error"]
        if isinstance(error, str):
            return error, None, None
        return str(error["message"]), error.get("param"), error.get("code")
    except (ValueError, KeyError, TypeError):
        return response.text[:300], None, None


@asynccontextmanager
async def in_process(engine: Engine, settings: Settings) -> AsyncIterator[Target]:
    """Yields the server of this process around an engine, with the app that ``entropick serve`` runs.

    Raises TargetError where the model cannot be loaded.
    """
    loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def failed(error: BaseException) -> None:
        if not loaded.done():
            loaded.set_exception(TargetError(f"the model could not be loaded: {error}"))

    def ready() -> None:
        if not loaded.done():
            loaded.set_result(None)

    # nobody else reaches this app: the keys of a server, and their limits, are for strangers
    names = ("api_key", "api_key_file", "key_requests_per_minute", "key_max_tokens_in_flight")
    app = create_app(engine, settings.model_copy(update=dict.fromkeys(names)), failed, ready)
    async with app.router.lifespan_context(app):
        await loaded
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with _client("http://entropick", None, transport) as client:
            info, profile = engine.info, engine.profile
            identity = Identity(
                name=info.name,
                model=short_digest([engine.model_hash, info.dtype]),
                code=code_digest(),
                profile=None if profile is None else profile.id,
                ours=True,
            )
            yield Target(client, identity)


@asynccontextmanager
async def at_url(url: str, key: str | None, model: str | None = None) -> AsyncIterator[Target]:
    """Yields the server at a URL (with or without ``/v1``). ``model`` chooses among its models.

    Raises TargetError where no such server answers.
    """
    base = base_of(url)
    async with _client(base, key) as client:
        yield Target(client, await _identify(client, base, model))


def base_of(url: str) -> str:
    """Returns the address of a server without the ending ``/v1``."""
    return re.sub(r"/v1/?$", "", url.rstrip("/"))


def _client(
    base: str, key: str | None, transport: httpx.AsyncBaseTransport | None = None
) -> httpx.AsyncClient:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    # a long reply of a busy server may take minutes; the number of requests is bounded by the runner
    timeout = httpx.Timeout(None, connect=10.0)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(
        base_url=base, headers=headers, transport=transport, timeout=timeout, limits=limits
    )


async def _identify(client: httpx.AsyncClient, base: str, model: str | None) -> Identity:
    """Asks a server for its models, and whether it is ours."""
    try:
        listed = await client.get("/v1/models", timeout=30.0)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise TargetError(f"no server answers at {base}: {type(error).__name__}: {error}") from error
    if listed.status_code != 200:
        raise TargetError(f"{base}/v1/models answers {listed.status_code}: {_error(listed)[0]}")
    try:
        cards = {str(card["id"]): card for card in listed.json()["data"]}
    except (ValueError, KeyError, TypeError) as error:
        raise TargetError(f"{base}/v1/models is no list of models") from error
    name = model or next(iter(cards), "")
    if name not in cards:
        raise TargetError(f"{base} serves no model {name!r}; it serves: {', '.join(cards) or 'none'}")
    card = {field: value for field, value in cards[name].items() if field not in ("created", "permission")}
    version = await client.get("/version", timeout=30.0)
    shown = version.json() if version.status_code == 200 and _is_json(version) else None
    policy = await client.get("/v1/policy", timeout=30.0)
    described = policy.json() if policy.status_code == 200 and _is_json(policy) else {}
    if isinstance(described, dict) and "signals" in described:
        profile = described.get("profile") or {}
        known = profile.get("model_hash")
        model_key = short_digest([known, card["entropick"]["dtype"]] if known else ["url", base, card])
        return Identity(name, model_key, short_digest(["entropick", shown]), profile.get("id"), True)
    return Identity(name, short_digest(["url", base, card]), short_digest(["other", shown]), None, False)


def _is_json(response: httpx.Response) -> bool:
    return "json" in response.headers.get("content-type", "")
