"""The limits of each key: requests a minute, and tokens in flight."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from ..protocol.errors import ApiError, bad_request

_MAX_BUCKETS: Final = 2000
"""buckets that are kept; beyond, the full buckets go, which tell nothing"""
_CODE: Final = "rate_limit_exceeded"


class RequestRates:
    """A token bucket for each key: it holds the requests of a minute, and fills up evenly.

    A key that was silent may send ``per_minute`` requests at once, and from then on as many in a minute.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        """name of a key -> what its bucket held, and when"""

    def take(self, name: str) -> dict[str, str]:
        """Takes a request of a key. Returns the headers that tell what is left. Raises the 429."""
        now = self._clock()
        held, since = self._buckets.get(name, (float(self._per_minute), now))
        held = min(self._per_minute, held + (now - since) * self._per_minute / 60)
        # a rounding in the sum of many small gains must not cost a request
        taken = held >= 1 - 1e-9
        held = max(held - 1, 0.0) if taken else held
        self._buckets[name] = (held, now)
        if len(self._buckets) > _MAX_BUCKETS:
            self._forget_full(now)
        told = {
            "x-ratelimit-limit-requests": str(self._per_minute),
            "x-ratelimit-remaining-requests": str(math.floor(held + 1e-9)),
            "x-ratelimit-reset-requests": f"{(self._per_minute - held) * 60 / self._per_minute:.3f}s",
        }
        if taken:
            return told
        wait = math.ceil((1 - held) * 60 / self._per_minute)
        raise ApiError(
            429,
            f"This key may send {self._per_minute} requests a minute (key_requests_per_minute); the next one "
            f"is taken in {wait} s.",
            code=_CODE,
            type="requests",
            headers={**told, "Retry-After": str(wait)},
        )

    def _forget_full(self, now: float) -> None:
        full = [name for name, (_, since) in self._buckets.items() if now - since >= 60]
        for name in full:
            del self._buckets[name]


class TokensInFlight:
    """The tokens of each key's requests that wait or run, in their prompts and at most in their replies."""

    def __init__(self, limit: int | None) -> None:
        """Takes the limit of a key; None: there is none."""
        self._limit = limit
        self._taken: dict[str, int] = {}

    def of(self, name: str) -> int:
        """Returns the tokens of a key in flight."""
        return self._taken.get(name, 0)

    def take(self, name: str | None, tokens: int, field: str) -> Callable[[], None]:
        """Takes the tokens of a request. Returns the function that gives them back, once.

        ``name``: of the key, None without keys, where nothing is limited; ``field``: of the request, that
        makes the tokens fewer. Raises the 429 where others of the key's requests must end first, and the 400
        where no wait would help.
        """
        limit = self._limit
        if name is None or limit is None:
            return lambda: None
        if tokens > limit:
            message = f"{field}: this request asks for {tokens} tokens (prompt and {field} of every choice)"
            raise bad_request(
                f"{message}, and this key may have {limit} in flight (key_max_tokens_in_flight).", field
            )
        held = self.of(name)
        if held + tokens > limit:
            raise ApiError(
                429,
                f"This key may have {limit} tokens in flight (key_max_tokens_in_flight): its requests have "
                f"{held}, and this one asks for {tokens} (prompt and {field} of every choice).",
                code=_CODE,
                type="tokens",
                headers={"Retry-After": "1"},
            )
        self._taken[name] = held + tokens
        left = [tokens]

        def give_back() -> None:
            remaining = self.of(name) - (left.pop() if left else 0)
            if remaining:
                self._taken[name] = remaining
            else:
                self._taken.pop(name, None)

        return give_back
