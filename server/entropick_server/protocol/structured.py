"""The fields that ask for structured output: OpenAI's, vLLM's, and vLLM's older fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from ..engine.grammar.bounds import MAX_BYTES, MAX_ENUM
from ..engine.grammar.spec import Grammar, GrammarKind
from .errors import bad_request, shown
from .lists import AtMost
from .parsing import WireModel

_KNOWN: Final = ("json", "regex", "choice", "json_object")
"""fields of vLLM's structured_outputs that are served; those that are not stand in ``fields``"""


def _schema(value: Any) -> Any:
    if value is None or isinstance(value, dict | bool | str):
        return value
    raise ValueError("must be a JSON schema: an object, or the JSON text of one")


def _schema_object(value: Any) -> Any:
    if value is None or isinstance(value, dict | bool):
        return value
    raise ValueError("must be a JSON schema: an object")


Schema = Annotated[dict[str, Any] | bool | str | None, BeforeValidator(_schema)]
SchemaObject = Annotated[dict[str, Any] | bool | None, BeforeValidator(_schema_object)]
Choices = Annotated[list[str], Field(min_length=1), AtMost(MAX_ENUM)] | None


class Structure(NamedTuple):
    """The grammar that a request's reply must follow, and the field that asks for it."""

    grammar: Grammar
    field: str


class JsonSchema(WireModel):
    """OpenAI's ``response_format.json_schema``. A reply always follows the schema, ``strict`` or not."""

    name: str | None = None
    description: str | None = None
    schema_: SchemaObject = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(WireModel):
    """OpenAI's ``response_format``; ``schema`` beside ``json_object`` as other servers know it."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: SchemaObject = Field(None, alias="schema")

    @model_validator(mode="after")
    def _has_a_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and (self.json_schema is None or self.json_schema.schema_ is None):
            name = "response_format.json_schema" + (".schema" if self.json_schema else "")
            raise bad_request(f"{name}: is required.", name)
        return self


class StructuredOutputs(WireModel):
    """vLLM's ``structured_outputs``, of which one field gives the reply its form."""

    json_: Schema = Field(None, alias="json")
    regex: str | None = None
    choice: Choices = None
    json_object: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("must be an object")
        for key, value in data.items():
            if key not in _KNOWN and value not in (None, False):
                path = f"structured_outputs.{shown(key)}"
                raise bad_request(f"{path}: no such field; known: {', '.join(_KNOWN)}.", path)
        return data


class StructuredRequest(WireModel):
    """The fields of a request that give its reply a form."""

    response_format: ResponseFormat | None = Field(
        None, description="text, json_object, or json_schema with a schema that the reply follows"
    )
    structured_outputs: StructuredOutputs | None = Field(
        None, description="vLLM's: one of json (a schema), regex, choice, json_object"
    )
    guided_json: Schema = Field(None, description="vLLM's older structured_outputs.json")
    guided_regex: str | None = Field(None, description="vLLM's older structured_outputs.regex")
    guided_choice: Choices = Field(None, description="vLLM's older structured_outputs.choice")

    @model_validator(mode="after")
    def _one_structure(self) -> StructuredRequest:
        found = list(self._structures())
        for structure in found:
            # before anything else copies it: the compiler would refuse it too
            if len(structure.grammar.text) > MAX_BYTES:
                message = (
                    f"has {len(structure.grammar.text)} characters; at most {MAX_BYTES} bytes are served"
                )
                raise bad_request(f"{structure.field}: {message}.", structure.field)
        if len(found) > 1:
            field, other = found[1].field, found[0].field
            raise bad_request(f"{field}: not together with {other}; a reply has one form.", field)
        return self

    @property
    def structure(self) -> Structure | None:
        """Returns the form that the reply must have; None: any text."""
        return next(self._structures(), None)

    def _structures(self) -> Iterator[Structure]:
        """Goes through all forms that the request asks for."""
        if (asked := self.response_format) is not None:
            name = "response_format"
            if asked.type == "json_schema" and asked.json_schema is not None:
                yield _of("json_schema", asked.json_schema.schema_, f"{name}.json_schema.schema")
            elif asked.type == "json_object" and asked.schema_ is not None:
                yield _of("json_schema", asked.schema_, f"{name}.schema")
            elif asked.type == "json_object":
                yield Structure(Grammar("json_object"), name)
        if (outputs := self.structured_outputs) is not None:
            name = "structured_outputs"
            if outputs.json_object:
                yield Structure(Grammar("json_object"), f"{name}.json_object")
            yield from _all(outputs.json_, outputs.regex, outputs.choice, f"{name}.")
        yield from _all(self.guided_json, self.guided_regex, self.guided_choice, "guided_")


def _all(schema: Any, regex: str | None, choice: list[str] | None, prefix: str) -> Iterator[Structure]:
    if schema is not None:
        yield _of("json_schema", schema, f"{prefix}json")
    if regex is not None:
        yield _of("regex", regex, f"{prefix}regex")
    if choice is not None:
        yield Structure(Grammar("choice", _text(choice)), f"{prefix}choice")


def _of(kind: GrammarKind, value: Any, field: str) -> Structure:
    return Structure(Grammar(kind, value if isinstance(value, str) else _text(value)), field)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
