"""A server of OpenAI's API as a conversation sees it: its model, its signals, its replies as they stream."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from entropick_sampler.signals import HESITATION, HESITATION_SIGNAL

from .escaping import one_line

_CONNECT_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 1.0
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_LOADING: Final = "model_loading"
_FIRST_START: Final = "(The first start compiles native code as well, a minute or two.)"


class ChatError(Exception):
    """An error in plain words for the person at the terminal."""


class StillLoadingError(ChatError):
    """The server reads its model."""


class RefusedError(ChatError):
    """A request that the server refuses; the message names the field."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The facts of a server that a conversation needs.

    ``measures``: whether it tells what entropick tells; the other fields are empty where it does not.
    """

    model: str
    measures: bool = False
    signals: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    presets: tuple[str, ...] = ()
    branch: tuple[str, ...] = ()
    consensus: tuple[str, ...] = ()
    extractors: tuple[str, ...] = ()
    quantiles: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """signal -> its quantiles in the model's profile"""
    default: Mapping[str, Any] = field(default_factory=dict)
    """the policy of a request that names none"""
    hesitation_signal: str = HESITATION_SIGNAL
    hesitation: float = HESITATION
    """the model hesitates at a token where the signal is this or more"""


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a reply's stream: some text with its tokens' rows, the end, or news of a vote."""

    text: str = ""
    reasoning: str = ""
    rows: tuple[Mapping[str, Any], ...] = ()
    summary: Mapping[str, Any] | None = None
    finish_reason: str | None = None
    news: str = ""


class RemoteServer:
    """A server at a URL."""

    def __init__(self, url: str, api_key: str | None, transport: httpx.BaseTransport | None = None) -> None:
        """Prepares requests to ``url``; ``transport`` carries them, None: the network."""
        self.url = base_url(url)
        self._has_key = api_key is not None
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        try:
            host = httpx.URL(self.url).host
            self._http = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
                transport=transport,
                # a proxy of the environment does not know this machine's own addresses
                trust_env=host not in _LOOPBACK,
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ChatError(f"{one_line(url)} is no URL of a server: {one_line(str(error))}") from error

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def facts(self, model: str | None, waiting: Callable[[str], None]) -> ServerFacts:
        """Asks the server for its facts, and waits while it loads; ``model``: the model to talk to.

        ``waiting`` is told the server's reason.
        """
        while True:
            try:
                return self._facts(model)
            except StillLoadingError as error:
                waiting(str(error))
                time.sleep(_POLL_SECONDS)

    def _facts(self, model: str | None) -> ServerFacts:
        served = [str(row.get("id")) for row in _rows(self._get("/v1/models")) if row.get("id")]
        if not served and model is None:
            raise ChatError(f"{self.url} names no model: give it with --model")
        if model is not None and served and model not in served:
            raise ChatError(f"There is no model {one_line(model)} at {self.url}; there is {_names(served)}")
        name = model or served[0]
        told = self._get("/v1/policy", missing={})
        if not isinstance(told, dict) or "signals" not in told or "presets" not in told:
            return ServerFacts(name)
        consensus = told.get("consensus", {})
        profile = told.get("profile") or {}
        hesitation = told.get("hesitation", {})
        return ServerFacts(
            model=name,
            measures=True,
            signals=tuple(str(row["name"]) for row in told["signals"]),
            policies=("entropix", "fixed", *told.get("formulas", {})),
            presets=tuple(told["presets"]),
            branch=tuple(told.get("branch", {})),
            consensus=tuple(consensus),
            extractors=tuple(consensus.get("extract", ())),
            quantiles=profile.get("quantiles", {}),
            default=told.get("default", {}),
            hesitation_signal=str(hesitation.get("signal", HESITATION_SIGNAL)),
            hesitation=float(hesitation.get("from", HESITATION)),
        )

    def reply(self, body: Mapping[str, Any]) -> Iterator[Event]:
        """Asks for a reply and yields it as it arrives; leaving early makes the server stop."""
        begun = False
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise self._refusal(answer)
                begun = True
                yield from _events(answer.iter_lines())
        except httpx.TransportError as error:
            if begun:
                raise ChatError(
                    f"The connection to {self.url} broke in mid-reply: the server may have ended."
                ) from error
            raise self._unreachable(error) from error

    def _get(self, path: str, missing: Any = None) -> Any:
        """Returns the JSON at a path; ``missing`` where there is none, if it is given."""
        try:
            answer = self._http.get(path)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if answer.status_code in (404, 405) and missing is not None:
            return missing
        if answer.status_code != 200:
            raise self._refusal(answer)
        try:
            return answer.json()
        except ValueError as error:
            if missing is not None:
                return missing
            raise ChatError(f"{self.url} is no server of OpenAI's API: {path} is no JSON.") from error

    def _unreachable(self, error: httpx.TransportError) -> ChatError:
        if isinstance(error, httpx.UnsupportedProtocol):
            return ChatError(f"{self.url} is no URL of a server: it must begin with http:// or https://")
        return ChatError(
            f"No server answers at {self.url} ({one_line(str(error), 120)}). "
            "Start one with `entropick serve`, or name another with --url."
        )

    def _refusal(self, answer: httpx.Response) -> ChatError:
        """Returns the error of an answer that is none."""
        try:
            error = answer.json()["error"]
            message, code = one_line(str(error["message"])), error.get("code")
        except (ValueError, TypeError, KeyError, AttributeError):
            message, code = f"it answered {answer.status_code} without a reason", None
        if answer.status_code in (401, 403):
            if self._has_key:
                return ChatError(f"{self.url} refuses the API key.")
            return ChatError(f"{self.url} asks for an API key: give it with --api-key or ENTROPICK_API_KEY.")
        if answer.status_code == 404 and code is None:
            return ChatError(f"{self.url} is no server of OpenAI's API: it has no {answer.request.url.path}")
        if answer.status_code == 503:
            return StillLoadingError(f"{message} {_FIRST_START}") if code == _LOADING else ChatError(message)
        if answer.status_code < 500:
            return RefusedError(message)
        return ChatError(f"The server failed: {message}")


def base_url(url: str) -> str:
    """Returns the address of a server without the /v1 of OpenAI's clients; http where it has no scheme."""
    given = url.strip().rstrip("/")
    given = given.removesuffix("/v1").rstrip("/")
    return given if "://" in given else f"http://{given}"


def _rows(told: Any) -> list[dict[str, Any]]:
    data = told.get("data") if isinstance(told, dict) else None
    return [row for row in data if isinstance(row, dict)] if isinstance(data, list) else []


def _names(served: Sequence[str]) -> str:
    return ", ".join(one_line(name, 64) for name in served[:8])


def _events(lines: Iterator[str]) -> Iterator[Event]:
    """Yields the events of a stream. Raises ChatError for an error in it, and where it breaks off."""
    ended = False
    for line in lines:
        if line.startswith(":"):
            yield Event(news=line[1:].strip())
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise ChatError("The server sent what is no JSON in the middle of the reply.") from error
        if "error" in chunk:
            message = (
                chunk["error"].get("message", "") if isinstance(chunk["error"], dict) else chunk["error"]
            )
            raise ChatError(f"The server gave this reply up: {one_line(str(message))}")
        for choice in chunk.get("choices") or ():
            event = _event(choice)
            ended = ended or event.finish_reason is not None
            yield event
    if not ended:
        raise ChatError("The server ended the reply in the middle.")


def _event(choice: Mapping[str, Any]) -> Event:
    told, delta = choice.get("entropick") or {}, choice.get("delta") or {}
    return Event(
        text=delta.get("content") or "",
        reasoning=delta.get("reasoning_content") or "",
        rows=tuple(told.get("tokens") or ()),
        summary=told.get("summary"),
        finish_reason=choice.get("finish_reason"),
    )
