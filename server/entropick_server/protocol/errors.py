"""Refusals in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..engine.base import EngineDeadError, EngineError, ModelLoadError, QueueFullError, RequestTimeoutError
from ..redaction import redacted

_MESSAGE_LIMIT: Final = 600
_PARAM_LIMIT: Final = 160
_SHOWN_LIMIT: Final = 40
INVALID_REQUEST: Final = "invalid_request_error"
SERVER_ERROR: Final = "server_error"


def _one_line(text: str) -> str:
    """Escapes every character that does not print: control characters, line ends, direction marks."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(value: str) -> str:
    """Returns a client's text cut short and escaped, so that a message can name it."""
    text = _one_line(value[: _SHOWN_LIMIT + 1])
    return text if len(text) <= _SHOWN_LIMIT else text[:_SHOWN_LIMIT] + "..."


class ApiError(Exception):
    """A refusal with its HTTP status. The message is fit for a client: no paths, no echo of large input."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = _one_line(message[:_MESSAGE_LIMIT])
        self.param = None if param is None else _one_line(param[:_PARAM_LIMIT])
        self.code = code
        self.type = type or (SERVER_ERROR if status >= 500 else INVALID_REQUEST)
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Returns the JSON body of the refusal."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Returns a 400 that names a field."""
    return ApiError(400, message, param=param, code=code)


def unavailable(message: str, code: str, retry_after: int = 1) -> ApiError:
    """Returns a 503 that says when to try again."""
    return ApiError(503, message, code=code, headers={"Retry-After": str(retry_after)})


def from_engine(error: EngineError) -> ApiError:
    """Returns the answer to an error that an engine raised on purpose, perhaps around another library's."""
    if isinstance(error, QueueFullError):
        message = str(error) or "The waiting queue is full; try again later."
        return unavailable(message, "queue_full")
    if isinstance(error, ModelLoadError):
        # its message is the operator's: it names files
        return unavailable("The model could not be loaded.", "engine_stopped", retry_after=10)
    if isinstance(error, RequestTimeoutError):
        # again would take as long again; OpenAI's clients read the header
        return ApiError(504, str(error), code="request_timeout", headers={"x-should-retry": "false"})
    message = redacted(str(error))
    if isinstance(error, EngineDeadError):
        return unavailable(message or "The engine has stopped.", "engine_stopped", retry_after=10)
    return ApiError(500, message or "The model failed on this request.", code="generation_failed")
