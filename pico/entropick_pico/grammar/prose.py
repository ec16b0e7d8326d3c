"""Short stories and greetings."""

import random
from typing import Final

from entropick_pico.grammar import world as w
from entropick_pico.grammar.prompts import OPENERS
from entropick_pico.grammar.reply import Example, Reply, uniform

_MOODS: Final = uniform(w.MOODS)
_ANIMALS: Final = uniform(w.ANIMALS)
_PLACES: Final = uniform(w.PLACES)
_COLORS: Final = uniform(w.COLORS)
_CHILD: Final = uniform(("girl", "boy"))
_GIRLS: Final = uniform(w.GIRLS)
_BOYS: Final = uniform(w.BOYS)
_TELL: Final = (
    "Tell me a story",
    "Please tell a story",
    "Write a short story",
    "I want a story",
    "Make up a story",
)
_ENDS: Final = (".", "!", ", please.", " for my child.", " now.", " before I sleep.")


def story(rng: random.Random) -> Example:
    """Returns a story of several sentences, whose hero, places and encounters are labelled choices."""
    topic = rng.choice(("", "animal", "name"))
    named = rng.choice(w.NAMES)
    beast = rng.choice(w.ANIMALS)
    about = {"": "", "animal": f" about a {beast}", "name": f" about {named}"}[topic]
    opener = rng.choice(OPENERS) if rng.random() < 0.2 else ""
    tell = rng.choice(_TELL)
    if opener.endswith(", ") and not tell.startswith("I "):
        tell = tell[0].lower() + tell[1:]
    user = opener + tell + about + rng.choice(_ENDS)
    return _TEMPLATES[rng.randrange(len(_TEMPLATES))](
        rng, Reply(rng), named if topic == "name" else None, beast if topic == "animal" else None
    ).finish(user, "story")


def _hero(reply: Reply, named: str | None) -> tuple[str, str, str]:
    """Introduce the hero; return name, subject pronoun, possessive."""
    if named is None:
        girl = reply.choose("story2", _CHILD) == " girl"
        reply.say(" named")
        name = reply.choose("story32", _GIRLS if girl else _BOYS).strip()
    else:
        girl = named in w.GIRLS
        reply.sure("story1", " girl" if girl else " boy").say(" named").sure("story1", " " + named)
        name = named
    return name, "she" if girl else "he", "her" if girl else "his"


def _beast(reply: Reply, beast: str | None) -> str:
    """Name the animal: the one asked for, or any."""
    if beast is not None:
        reply.sure("story1", " " + beast)
        return beast
    return reply.choose("story16", _ANIMALS).strip()


def _friends(rng: random.Random, reply: Reply, named: str | None, beast: str | None) -> Reply:
    reply.say("Once upon a time there was a")
    reply.choose("story8", _MOODS)
    name, she, her = _hero(reply, named)
    reply.say(f". One day {name} went to the")
    reply.choose("story8", _PLACES)
    reply.say(" and met a")
    animal = _beast(reply, beast)
    thing, color = rng.choice(w.OBJECTS), rng.choice(w.COLORS)
    middle = (
        f"The {animal} was cold and {she} gave it {her} coat.",
        f"{she.capitalize()} had a {color} {thing} and they played with it.",
        f"It began to rain and {name} hid with the {animal}.",
        "They played until the sun went down.",
    )
    ends = (
        f"In the end {name} went home and slept well.",
        f"{name} and the {animal} were friends from that day on.",
        f"{she.capitalize()} told {her} mother all about it.",
    )
    return reply.say(". " + " ".join(rng.sample(middle, 2)) + " " + rng.choice(ends))


def _lost(rng: random.Random, reply: Reply, named: str | None, beast: str | None) -> Reply:
    reply.say("Long ago there lived a")
    reply.choose("story8", _MOODS)
    name, she, her = _hero(reply, named)
    reply.say(f". One morning {name} lost {her}")
    reply.choose("story16", _COLORS)
    thing = rng.choice(w.OBJECTS)
    reply.say(f" {thing} near the")
    place = reply.choose("story8", _PLACES).strip()
    reply.say(f". {she.capitalize()} looked all day. Then came a")
    animal = _beast(reply, beast)
    ends = (
        f"{name} thanked the {animal} and ran home.",
        f"{she.capitalize()} never went to the {place} alone again.",
        f"That night {she} slept with the {thing} in {her} arms.",
    )
    return reply.say(f" with the {thing}. " + rng.choice(ends))


_TEMPLATES: Final = (_friends, _lost)

_GREETINGS: Final = (
    (("Hello", "Hi", "Hi there", "Hey", "Hello there"), "Hello! How can I help you?"),
    (("Good morning",), "Good morning! How can I help you?"),
    (("Good evening",), "Good evening! How can I help you?"),
    (("Thank you", "Thanks", "Thanks a lot", "Many thanks"), "You are welcome!"),
    (("Goodbye", "Bye", "See you later"), "Goodbye!"),
    (("Who are you", "What are you", "What is your name"), "I am a tiny model trained on a toy grammar."),
    (
        ("What can you do", "How can you help me"),
        "I can answer facts, pick things at random, sort, add and tell stories.",
    ),
)


def greeting(rng: random.Random) -> Example:
    """Returns small talk with a fixed answer to each phrase."""
    phrases, answer = rng.choice(_GREETINGS)
    phrase = rng.choice(phrases)
    if phrase.startswith(("Wh", "How")):
        end = rng.choice(("?", "? Tell me.", "? I am curious."))
    else:
        end = rng.choice(("!", ".", ", model!", ", friend.", " to you!"))
    name = rng.choice(("", "", " I am " + rng.choice(w.NAMES) + "."))
    return (
        Reply(rng)
        .sure("greeting", answer.split()[0].rstrip("!"))
        .say(answer[len(answer.split()[0].rstrip("!")) :])
        .finish(phrase + end + name, "greeting")
    )
