"""The bound of a list in a body: its length is checked before its items, and the first wrong item ends it."""

from __future__ import annotations

from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import PydanticKnownError
from pydantic_core.core_schema import CoreSchema, no_info_before_validator_function


class AtMost:
    """The most items of a list, or entries of an object: ``Annotated[list[int], AtMost(64)]``.

    pydantic's own ``max_length`` counts the items that pass: a list of two million wrong items gets two
    million errors before the only error that is told.
    """

    def __init__(self, most: int) -> None:
        self._most = most

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler(source)
        return no_info_before_validator_function(
            self._check, {**schema, "max_length": self._most, "fail_fast": True}
        )

    def _check(self, value: Any) -> Any:
        """Returns the value. Raises the error of a list that is too long."""
        if isinstance(value, list | dict) and len(value) > self._most:
            kind = "List" if isinstance(value, list) else "Dictionary"
            found = {"field_type": kind, "max_length": self._most, "actual_length": len(value)}
            raise PydanticKnownError("too_long", found)
        return value
