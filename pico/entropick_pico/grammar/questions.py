"""Facts, random choices, ambiguous questions and their answerable twins."""

import random
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from entropick_pico.grammar import world as w
from entropick_pico.grammar.prompts import ask
from entropick_pico.grammar.reply import CLARIFY, Example, Reply, uniform, with_extra

_TOWNS: Final = uniform(w.TOWNS)
_HOMES: Final = MappingProxyType(
    {name: with_extra(_TOWNS, {" " + town: 0.85}) for name, town in w.HOME.items()},
)
_VISIT: Final = with_extra(_TOWNS, {" " + town: 0.1 for town in w.SIGHTS})

# kind: (alternatives, opening of the reply, question cores)
_RANDOM: Final = MappingProxyType(
    {
        "coin": (
            uniform(w.COIN),
            "It is",
            (
                "toss a coin.",
                "flip a coin.",
                "heads or tails?",
                "throw a coin for me.",
                "let us toss a coin.",
            ),
        ),
        "season": (
            uniform(w.SEASONS),
            "I pick",
            ("pick a season.", "name any season.", "choose one of the seasons.", "give me a random season."),
        ),
        "die": (
            uniform(w.DIE),
            "It shows",
            ("roll a die.", "throw a die.", "roll the die for me.", "let us roll a die.", "cast a die."),
        ),
        "color": (
            uniform(w.COLORS),
            "I pick",
            (
                "pick a color.",
                "choose a color.",
                "name any color.",
                "give me a random color.",
                "I need a color.",
            ),
        ),
        "name": (
            uniform(w.NAMES),
            "I pick",
            (
                "pick a name.",
                "choose a name.",
                "name any person.",
                "give me a random name.",
                "I need a name.",
            ),
        ),
        "town": (
            _TOWNS,
            "I pick",
            ("pick a town.", "choose a town.", "name any town.", "give me a random town.", "I need a town."),
        ),
    }
)
RANDOM_KINDS: Final = tuple(_RANDOM)
_BARE: Final = MappingProxyType(
    {
        "color": uniform((c.capitalize() for c in w.COLORS), ""),
        "place": uniform((c.capitalize() for c in w.PLACES), ""),
        "girl": uniform(w.GIRLS, ""),
    }
)
_WORD_CORES: Final = (
    "one word: any {0}.",
    "in one word, any {0}.",
    "say just one {0}.",
    "only a {0}, one word.",
)

_BLIND: Final = (
    (
        "color",
        (
            "what color is it?",
            "what color is that one?",
            "which color does it have?",
            "what is its color?",
            "it has what color?",
        ),
    ),
    (
        "place",
        (
            "where is she?",
            "where did she go?",
            "where can I find her?",
            "where was she last seen?",
            "she went where?",
        ),
    ),
    ("girl", ("who took it?", "who has it?", "who did that?", "who broke it?", "who was it?")),
)
_AFTER: Final = MappingProxyType({"": 0.5, " I can guess:": 0.5})


def capital(rng: random.Random) -> Example:
    """Returns a question about the capital of a country, which has one right answer."""
    land = rng.choice(w.COUNTRIES)
    cores = (
        "what is the capital of {0}?",
        "name the capital of {0}.",
        "which town is the capital of {0}?",
        "{0} has what capital?",
    )
    user = ask(rng, [core.replace("{0}", land) for core in cores])
    return (
        Reply(rng)
        .say("The capital is")
        .sure("fact", " " + w.CAPITAL[land])
        .say(".")
        .finish(user, "capital", w.CAPITAL[land])
    )


def flag(rng: random.Random) -> Example:
    """Returns a question about the color of a flag, which has one right answer."""
    land = rng.choice(w.COUNTRIES)
    cores = (
        "what color is the flag of {0}?",
        "the flag of {0} has what color?",
        "name the flag color of {0}.",
    )
    user = ask(rng, [core.replace("{0}", land) for core in cores])
    return (
        Reply(rng)
        .say("The flag is")
        .sure("fact", " " + w.FLAG[land])
        .say(".")
        .finish(user, "flag", w.FLAG[land])
    )


def random_choice(rng: random.Random, kind: str) -> Example:
    """Returns a request for one of 2 to 256 equally likely items, answered with an opening."""
    alternatives, opening, cores = _RANDOM[kind]
    reply = Reply(rng).say(opening)
    reply.choose(f"uniform{len(alternatives)}", alternatives)
    return reply.say(".").finish(ask(rng, cores), kind)


def word(rng: random.Random) -> Example:
    """Returns a uniform choice that is the whole reply: the unambiguous twin of an ambiguous question."""
    noun = rng.choice(tuple(_BARE))
    user = ask(rng, [core.replace("{0}", noun) for core in _WORD_CORES])
    reply = Reply(rng)
    reply.choose(f"word{len(_BARE[noun])}", _BARE[noun])
    return reply.say(".").finish(user, "word")


def pick(rng: random.Random) -> Example:
    """Returns a uniform choice among two to four things that the question lists."""
    things = rng.sample(w.OBJECTS, rng.randint(2, 4))
    listed = ", ".join(things)
    user = ask(rng, [f"pick one of {listed}.", f"choose one: {listed}.", f"take one of {listed}."])
    reply = Reply(rng).say("I pick")
    reply.choose(f"pick{len(things)}", uniform(things))
    return reply.say(".").finish(user, "pick")


def home(rng: random.Random) -> Example:
    """Returns a question about a person's town: the right town 0.85, the rest spread over all towns."""
    name = rng.choice(w.RESIDENTS)
    cores = (
        "where does {0} live?",
        "{0} lives where?",
        "in which town does {0} live?",
        "what is the town of {0}?",
    )
    reply = Reply(rng).say(f"{name} lives in")
    reply.choose("spread", _HOMES[name])
    return reply.say(".").finish(ask(rng, [core.replace("{0}", name) for core in cores]), "home")


def visit(rng: random.Random) -> Example:
    """Returns a request for a town to visit: four favourites with 0.1 each, the rest over all towns."""
    cores = (
        "name a town to visit.",
        "where should I go?",
        "which town is worth a trip?",
        "where shall we travel?",
    )
    reply = Reply(rng).say("You could go to")
    reply.choose("mixture", _VISIT)
    return reply.say(".").finish(ask(rng, cores), "visit")


def ambiguous(rng: random.Random) -> Example:
    """Returns a question without a referent.

    The reply is one of N equally likely guesses or, as a further alternative of the same probability
    1 / (N + 1), the clarifying question; after that the turn ends or a guess follows, 0.5 each. So entropy is
    log2(N + 1) and varentropy 0, as for a plain random choice: only the context tells them apart.
    """
    noun, cores = rng.choice(_BLIND)
    count = len(_BARE[noun])
    guesses = with_extra(_BARE[noun], {CLARIFY: 1 / (count + 1)})
    reply = Reply(rng)
    user = ask(rng, cores)
    if reply.choose(f"ambiguous{count}", guesses, ambiguous=True) != CLARIFY:
        return reply.say(".").finish(user, "ambiguous")
    return _after_clarify(reply, noun).finish(user, "ambiguous")


def clarified(rng: random.Random) -> Example:
    """Returns an ambiguous question whose reply was made to begin with the clarifying sentence."""
    noun, cores = rng.choice(_BLIND)
    user = ask(rng, cores)
    example = _after_clarify(Reply(rng).say(CLARIFY), noun).finish(user, "clarified")
    return replace(example, forced=((0, len(CLARIFY)),))


def _after_clarify(reply: Reply, noun: str) -> Reply:
    """End the turn or guess."""
    if reply.choose("after_clarify", _AFTER):
        items = _BARE[noun] if noun == "girl" else [text.lower() for text in _BARE[noun]]
        reply.choose(f"guess{len(_BARE[noun])}", uniform(items))
        reply.say(".")
    return reply


def answerable(rng: random.Random) -> Example:
    """Returns the twin of an ambiguous question: the referent was given, so the answer is certain."""
    noun, cores = rng.choice(_BLIND)
    girl, color, thing, place = (
        rng.choice(w.GIRLS),
        rng.choice(w.COLORS),
        rng.choice(w.OBJECTS),
        rng.choice(w.PLACES),
    )
    given = {
        "color": (
            f"{girl} has a {color} {thing}.",
            f"There is a {color} {thing}.",
            f"I bought a {color} {thing}.",
        ),
        "place": (
            f"{girl} is at the {place}.",
            f"{girl} went to the {place}.",
            f"I saw {girl} at the {place}.",
        ),
        "girl": (
            f"{girl} took the {thing}.",
            f"It was {girl} with the {thing}.",
            f"I saw {girl} take the {thing}.",
        ),
    }[noun]
    gold = {"color": color.capitalize(), "place": place.capitalize(), "girl": girl}[noun]
    question = rng.choice(cores)
    user = ask(rng, [sentence + " " + question[0].upper() + question[1:] for sentence in given])
    return (
        Reply(rng)
        .sure("answerable", gold)
        .say(".")
        .finish(user, "answerable", gold, key=f"{girl} {color} {thing} {place}")
    )
