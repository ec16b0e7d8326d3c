"""Small JSON objects: values taken from a sentence by the keys of a schema, or chosen at random."""

import json
import random
from types import MappingProxyType
from typing import Final

from entropick_pico.grammar import world as w
from entropick_pico.grammar.prompts import ask
from entropick_pico.grammar.reply import Example, Reply, uniform

_FORMS: Final = ("as JSON {0}.", "answer as JSON: {0}.", "use this form: {0}.", "fill in {0}.")
# key: (alternatives inside the quotes or after the colon, label, quoted)
_FREE: Final = MappingProxyType(
    {
        "color": (uniform(w.COLORS, ""), "json16", True),
        "name": (uniform(w.NAMES, ""), "json64", True),
        "number": (uniform(w.DIE), "json6", False),
    }
)
_WISHES: Final = ("choose any {0}", "pick a {0}", "name any {0}", "give me a random {0}")


def schema(keys: dict[str, str]) -> str:
    """Returns the form that is asked for, such as ``{"name": string, "count": integer}``."""
    return "{" + ", ".join(f'"{key}": {kind}' for key, kind in keys.items()) + "}"


def json_fields(rng: random.Random) -> Example:
    """Returns a sentence and a form; the reply is the object with the values that the sentence has."""
    name, color, thing = rng.choice(w.NAMES), rng.choice(w.COLORS), rng.choice(w.OBJECTS)
    animal, place, number = rng.choice(w.ANIMALS), rng.choice(w.PLACES), rng.randrange(2, 100)
    said, values = rng.choice(
        (
            (f"{name} has {number} {thing}s.", {"name": name, "count": number, "thing": thing}),
            (f"{name} has a {color} {thing}.", {"name": name, "color": color, "thing": thing}),
            (f"{name} is {number} years old.", {"name": name, "age": number}),
            (f"{name} saw a {animal} at the {place}.", {"name": name, "animal": animal, "place": place}),
            (
                f"There are {number} {animal}s at the {place}.",
                {"count": number, "animal": animal, "place": place},
            ),
        )
    )
    keys = rng.sample(list(values), rng.randint(min(2, len(values)), len(values)))
    kinds = {key: "integer" if isinstance(values[key], int) else "string" for key in keys}
    reply = Reply(rng).say("{")
    for at, key in enumerate(keys):
        reply.say(("" if at == 0 else ", ") + f'"{key}":')
        shown = json.dumps(values[key])
        if shown.startswith('"'):
            reply.say(' "').sure("json_field", shown[1:-1]).say('"')
        else:
            reply.sure("json_field", " " + shown)
    form = rng.choice(_FORMS).format(schema(kinds))
    user = ask(rng, [said + " " + form[0].upper() + form[1:]])
    gold = json.dumps({key: values[key] for key in keys})
    return reply.say("}").finish(user, "json_fields", gold, key="json " + said + " ".join(keys))


def json_free(rng: random.Random) -> Example:
    """Returns a wish for any color, name or number as JSON; the value is a labelled choice."""
    key = rng.choice(list(_FREE))
    alternatives, label, quoted = _FREE[key]
    reply = Reply(rng).say('{"' + key + '":' + (' "' if quoted else ""))
    reply.choose(label, alternatives)
    form = rng.choice(_FORMS).format(schema({key: "string" if quoted else "integer"}))
    user = ask(rng, [rng.choice(_WISHES).format(key) + ", " + form])
    return reply.say('"}' if quoted else "}").finish(user, "json_free")
