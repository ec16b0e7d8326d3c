"""The file ``entropick_inspect.json``: results by section, each with a digest of its inputs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from entropick_server.engine.inspected import INSPECTION_FILE

from .section import InspectError, Model, Options, Section

FILE: Final = INSPECTION_FILE
FORMAT: Final = 1
"""the version of the file's layout"""
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """A result as it was read, with the digest of its inputs."""

    digest: str
    result: Any


def digest_of(section: Section, model: Model, options: Options, needed: Mapping[str, str]) -> str:
    """Returns the digest of a section's inputs.

    That is the model, the section's version, the options that it uses (of a file its bytes), and the digests
    of the sections that it needs.
    """
    used = {name: _option(getattr(options, name)) for name in section.uses}
    parts = {
        "format": FORMAT,
        "model": model.identity,
        "section": section.name,
        "version": section.version,
        "options": used,
        "needs": dict(needed),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _option(value: Any) -> Any:
    if not isinstance(value, Path):
        return value
    total = hashlib.sha256()
    try:
        with value.open("rb") as file:
            while piece := file.read(_CHUNK):
                total.update(piece)
    except OSError as error:
        raise InspectError(f"{value} cannot be read: {error}") from error
    return total.hexdigest()


def read_results(path: Path, sections: tuple[Section, ...]) -> dict[str, Stored]:
    """Returns the results of some sections that a file holds; none where it is absent or of another layout.

    A section whose stored result does not have the form of its dataclass is left out: it is computed again.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or cut off
        return {}
    stored = document.get("sections") if isinstance(document, dict) else None
    if not isinstance(stored, dict) or document.get("format") != FORMAT:
        return {}
    found: dict[str, Stored] = {}
    for section in sections:
        entry = stored.get(section.name)
        if not isinstance(entry, dict) or not isinstance(entry.get("digest"), str):
            continue
        shape = TypeAdapter(section.result)
        node = shape.json_schema()
        try:
            result = shape.validate_python(_with_none(entry.get("result"), node, node.get("$defs", {})))
        except ValidationError:
            continue
        found[section.name] = Stored(entry["digest"], result)
    return found


def write_results(
    path: Path, model: Model, sections: tuple[Section, ...], found: Mapping[str, Stored]
) -> None:
    """Writes the results of some sections, whole or not at all."""
    document = {
        "format": FORMAT,
        "model": {"name": model.name, "identity": model.identity},
        "sections": {
            section.name: {
                "digest": found[section.name].digest,
                "title": section.title,
                "sentences": section.sentences(found[section.name].result),
                "result": to_json(section, found[section.name].result),
            }
            for section in sections
            if section.name in found
        },
    }
    write_text(path, json.dumps(document, allow_nan=False) + "\n")


def to_json(section: Section, result: Any) -> Any:
    """Returns a result as JSON's values; a field that is None is left out."""
    return TypeAdapter(section.result).dump_python(result, mode="json", exclude_none=True)


def _admits_none(node: Mapping[str, Any]) -> bool:
    return any(choice.get("type") == "null" for choice in node.get("anyOf", ()))


def _without_absent(node: Any) -> Any:
    """Takes the fields that may be None off the required ones, because they are left out of the file then."""
    if isinstance(node, list):
        return [_without_absent(one) for one in node]
    if not isinstance(node, dict):
        return node
    found = {name: _without_absent(one) for name, one in node.items()}
    if isinstance(node.get("required"), list) and isinstance(node.get("properties"), dict):
        found["required"] = [name for name in node["required"] if not _admits_none(node["properties"][name])]
    return found


def _with_none(data: Any, node: Mapping[str, Any], kinds: Mapping[str, Any]) -> Any:
    """Puts None where a field that may be None was left out of the file; ``node`` is the schema of data."""
    if "$ref" in node:
        node = kinds[node["$ref"].rpartition("/")[2]]
    for choice in node.get("anyOf", ()):
        if choice.get("type") != "null":
            data = _with_none(data, choice, kinds)
    if isinstance(data, dict) and "properties" in node:
        known = {
            name: _with_none(data[name], of, kinds) for name, of in node["properties"].items() if name in data
        }
        absent = {name: None for name, of in node["properties"].items() if _admits_none(of)}
        return {**data, **absent, **known}
    if isinstance(data, list):
        first = node.get("prefixItems", [])
        rest = node.get("items")
        return [
            _with_none(one, first[i], kinds)
            if i < len(first)
            else _with_none(one, rest, kinds)
            if isinstance(rest, dict)
            else one
            for i, one in enumerate(data)
        ]
    return data


def schema(sections: tuple[Section, ...]) -> dict[str, Any]:
    """Returns the JSON schema of the file."""
    parts = {}
    for section in sections:
        entry = TypeAdapter(section.result).json_schema(
            ref_template=f"#/$defs/{section.name}/$defs/{{model}}"
        )
        parts[section.name] = _without_absent(entry)
    text = {"type": "string"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What entropick inspect found",
        "type": "object",
        "required": ["format", "model", "sections"],
        "properties": {
            "format": {"const": FORMAT},
            "model": {"type": "object", "properties": {"name": text, "identity": text}},
            "sections": {
                "type": "object",
                "properties": {
                    name: {
                        "type": "object",
                        "required": ["digest", "result"],
                        "properties": {
                            "digest": text,
                            "title": text,
                            "sentences": {"type": "array", "items": text},
                            "result": {"$ref": f"#/$defs/{name}"},
                        },
                    }
                    for name in parts
                },
            },
        },
        "$defs": parts,
    }


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all. Raises InspectError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InspectError(f"{path} cannot be written: {error}") from error
