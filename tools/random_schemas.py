"""Random JSON schemas to try structured output: nested, enums, arrays, numbers, patterns, unicode, $ref."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

Schema = dict[str, Any]

WORDS: Final = (
    "name", "size", "Größe", "日本", "naïve", "π", "emoji 🙂", "a b", 'quo"te', "back\\slash", "tab\t", "x",
    "line\nend", "", "\u00a0", "ℝ", "Ω-3", "0", "$ref", "null",
)  # fmt: skip
PATTERNS: Final = (
    "^[a-z]{2,6}$", "^[A-Z][a-z]+$", "[0-9]{3}", r"^\d{1,3}-\w{1,4}$", "^(yes|no|maybe)$",
    "^[^\\n\\r]{1,29}$", "^.{0,12}$", "^[äöü]{1,4}$", r"^a\.b/c$",
)  # fmt: skip
FORMATS: Final = ("date", "time", "date-time", "uuid", "ipv4", "email")


class SchemaMaker:
    """A maker of random schemas that llguidance supports and replies of some hundred tokens can fulfil."""

    def __init__(self, seed: int) -> None:
        """Begins a sequence of schemas that the seed decides."""
        self._rng = random.Random(seed)
        self._names: list[str] = []

    def schema(self) -> Schema:
        """Makes the next schema, its references resolved by ``$defs`` of its own."""
        rng = self._rng
        self._names = [f"d{n}" for n in range(rng.randint(0, 3))]
        # a definition may refer to later ones, and to itself where it need not
        names, definitions = self._names, {}
        for number, name in enumerate(names):
            self._names = names[number + 1 :]
            definitions[name] = self._any(2)
            if rng.random() < 0.3:
                definitions[name] = _maybe_again(name, definitions[name])
        self._names = names
        made = self._object(3) if rng.random() < 0.7 else self._any(3)
        return {**made, "$defs": definitions} if definitions else made

    def _any(self, depth: int) -> Schema:
        kinds: list[Callable[[int], Schema]] = [
            self._string, self._string, self._integer, self._number, self._enum, self._plain,
        ]  # fmt: skip
        if depth:
            kinds += [self._object, self._object, self._array, self._array, self._any_of]
        if self._names:
            kinds.append(self._reference)
        return self._rng.choice(kinds)(depth - 1)

    def _plain(self, _: int) -> Schema:
        value: Any = self._rng.choice([None, True, 7, -2.5, "fix", "ünïcödé \u2028", [1, "b"], {"k": None}])
        return self._rng.choice([{"type": "boolean"}, {"type": "null"}, {"const": value}])

    def _string(self, _: int) -> Schema:
        rng, low = self._rng, self._rng.randint(0, 6)
        kind = rng.random()
        if kind < 0.4:
            return {"type": "string", "minLength": low, "maxLength": low + rng.randint(0, 12)}
        if kind < 0.8:
            return {"type": "string", "pattern": rng.choice(PATTERNS)}
        return {"type": "string", "format": rng.choice(FORMATS)}

    def _integer(self, _: int) -> Schema:
        rng, low = self._rng, self._rng.randint(-1000, 1000)
        made: Schema = {"type": "integer", "minimum": low, "maximum": low + rng.randint(1, 10**6)}
        if rng.random() < 0.3:
            return {"type": "integer", "multipleOf": rng.randint(2, 12), "minimum": 0, "maximum": 10**4}
        if rng.random() < 0.3:
            made["exclusiveMaximum"] = made.pop("maximum") + 1
        return made

    def _number(self, _: int) -> Schema:
        rng, low = self._rng, round(self._rng.uniform(-50, 50), 2)
        made: Schema = {"type": "number", "minimum": low, "maximum": round(low + rng.uniform(1, 100), 2)}
        if rng.random() < 0.3:
            made["exclusiveMinimum"] = made.pop("minimum")
        return made

    def _enum(self, _: int) -> Schema:
        rng = self._rng
        values: list[Any] = rng.sample(WORDS, rng.randint(1, 8))
        if rng.random() < 0.3:
            values += [rng.randint(-99, 99), None, True, 0.5]
        return {"enum": values}

    def _object(self, depth: int) -> Schema:
        rng = self._rng
        names = rng.sample(WORDS, rng.randint(0, 5))
        made: Schema = {"type": "object", "properties": {name: self._any(max(0, depth)) for name in names}}
        made["required"] = [name for name in names if rng.random() < 0.7]
        made["additionalProperties"] = False
        if rng.random() < 0.2:
            made["additionalProperties"] = self._string(0)
        return made

    def _array(self, depth: int) -> Schema:
        rng, low = self._rng, self._rng.randint(0, 2)
        made: Schema = {"type": "array", "minItems": low, "maxItems": low + rng.randint(0, 3)}
        if rng.random() < 0.3:
            made["prefixItems"] = [self._any(max(0, depth)) for _ in range(rng.randint(1, 2))]
        made["items"] = self._any(max(0, depth))
        return made

    def _any_of(self, depth: int) -> Schema:
        return {"anyOf": [self._any(max(0, depth)) for _ in range(self._rng.randint(2, 3))]}

    def _reference(self, _: int) -> Schema:
        return {"$ref": f"#/$defs/{self._rng.choice(self._names)}"}


def _maybe_again(name: str, inner: Schema) -> Schema:
    """Returns an object that may hold itself, as a list that ends somewhere."""
    again = {"anyOf": [{"type": "null"}, {"$ref": f"#/$defs/{name}"}]}
    properties = {"value": inner, "next": again}
    return {
        "type": "object",
        "properties": properties,
        "required": ["value"],
        "additionalProperties": False,
    }
