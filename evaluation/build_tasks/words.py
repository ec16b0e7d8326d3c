"""Questions about words, from WordNet: opposites, kinds of things, meanings and irregular forms."""

from .items import CONTAINS, Extract, Item, first_named, pick, shuffled
from .wordnet import Synset, WordNet

OPPOSITE_FORMS = (
    'What is the opposite of "{word}"?',
    "What's the antonym of {word}?",
    'Give me a word that means the opposite of "{word}".',
    "Which word is the opposite of {word}?",
)
ANSWER_WORD: Extract = {
    "regex": r"(?s)^(?:[^.\n]*?(?:\b(?:is|are|be|becomes|means)|:)\s+(?:to |the |a |an |word |simply )*)?"
    r"\W{0,3}([A-Za-z][a-z-]+)"
}


def common(wordnet: WordNet, part: str, least: int) -> list[str]:
    """Returns the words of a part of speech that WordNet's texts use at least so often, without names."""
    return sorted(
        word
        for (of, word), count in wordnet.frequency.items()
        if of == part and count >= least and word.isalpha() and len(word) > 2 and (of, word) in wordnet.senses
    )


def _text(lemma: str) -> str:
    return lemma.lower().replace("_", " ").removeprefix("a ")


def _opposites(wordnet: WordNet, part: str, word: str) -> tuple[set[str], set[str]]:
    """Returns the direct antonyms of a word in all its senses, and with them the words close to those."""
    direct: set[str] = set()
    near: set[str] = set()
    for synset in wordnet.senses[part, word]:
        for symbol, to, offset, here, there in synset.pointers:
            if symbol == "!" and synset.words[here - 1].lower() == word:
                other = wordnet.synsets[to, offset]
                direct.add(_text(other.words[there - 1]))
                for close in [other, *wordnet.related(other, "&")]:
                    near.update(_text(one) for one in close.words)
    return direct, near | direct


def opposites(wordnet: WordNet, n: int) -> list[Item]:
    """Returns questions for the opposite of a common adjective, noun or verb.

    All words that antonymy joins have one key, so that "hot" and "cold" are in the same half.
    """
    pairs: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    for part, least in (("a", 6), ("n", 12), ("v", 12), ("r", 20)):
        for word in common(wordnet, part, least):
            direct, near = _opposites(wordnet, part, word)
            known = {other for other in direct if wordnet.frequency.get((part, other), 0) > 2}
            if known and not any(word == other[:-2] for other in known):
                pairs[word, part] = known, near
    key_of: dict[str, str] = {}
    for (word, _), (known, _) in sorted(pairs.items()):
        group = {key_of[other] for other in [word, *known] if other in key_of}
        key = min([*group, word])
        for other in [word, *known, *(other for other, joined in key_of.items() if joined in group)]:
            key_of[other] = key
    items: dict[str, Item] = {}
    for (word, _), (known, near) in sorted(
        pairs.items(), key=lambda pair: (-wordnet.frequency[pair[0][1], pair[0][0]], pair[0])
    ):
        accepted = sorted(known) + sorted(near - known - {word})
        prompt = pick(f"opposite {word}", OPPOSITE_FORMS).format(word=word)
        # of a word with several parts of speech the first is asked for
        items.setdefault(
            word, Item("opposites", key_of[word], word, prompt, accepted, CONTAINS, ANSWER_WORD, 48)
        )
    return list(items.values())[:n]


# what a question calls a category: the offset of its synset
KINDS = {
    "a bird": 1503061, "a fish": 2512053, "an insect": 2159955, "a mammal": 1861778, "a reptile": 1661091,
    "a tree": 13104059, "a flower": 11669921, "a fruit": 13134947, "a vegetable": 7707451, "a drink": 7881800,
    "a tool": 4451818, "a vehicle": 4524313, "a musical instrument": 3800933, "a piece of furniture": 3405725,
    "a piece of clothing": 3051540, "a building": 2913152, "a weapon": 4565375, "a disease": 14070360,
    "a color": 4956594, "a sport": 523513, "a metal": 14625458, "a part of the body": 5220461,
    "an emotion": 7480068, "a job": 9632518,
}  # fmt: skip
KIND_FORMS = (
    "Is {word} {a}, {b} or {c}?",
    "What kind of thing is {word}: {a}, {b} or {c}?",
    "Which of these is {word}? {a}, {b}, {c}",
    "Would you say {word} is {a}, {b} or {c}?",
)
UNCOUNTED = frozenset({"a disease", "a color", "a sport", "a metal", "an emotion", "a drink"})
NO_THINGS = frozenset({"architecture", "trouser", "ancients", "clothing", "pant", "jean", "underpant"})


def kinds(wordnet: WordNet, most_a_kind: int) -> list[Item]:
    """Returns questions for the kind of a thing, with three kinds to choose from."""
    offsets = {offset: kind for kind, offset in KINDS.items()}
    found: dict[str, list[tuple[int, str, set[str]]]] = {}
    for (part, word), senses in wordnet.senses.items():
        if part != "n" or not word.isalpha() or len(word) < 3 or senses[0].words[0] != word:
            continue
        first = {offsets[o] for o in wordnet.ancestors(senses[0]) if o in offsets and o != senses[0].offset}
        if len(first) != 1:
            continue
        # no sense of the word may belong to a kind that is offered as a wrong answer
        any_sense = {offsets[o] for sense in senses for o in wordnet.ancestors(sense) if o in offsets}
        kind = first.pop()
        if (
            word in NO_THINGS
            or word.endswith("wear")
            or any(word.endswith(name.split()[-1]) for name in KINDS)
        ):
            continue
        found.setdefault(kind, []).append((wordnet.frequency.get(("n", word), 0), word, any_sense))
    items = []
    for kind, words in sorted(found.items()):
        known = [entry for entry in words if entry[0] > 0]
        for _, word, any_sense in sorted(known, key=lambda entry: (-entry[0], entry[1]))[:most_a_kind]:
            others = [name for name in shuffled(KINDS, str, word) if name not in any_sense][:2]
            options = shuffled([kind, *others], str, f"order {word}")
            article = "" if kind in UNCOUNTED else ("an " if word[0] in "aeiou" else "a ")
            prompt = pick(f"kind {word}", KIND_FORMS).format(
                word=article + word, **dict(zip("abc", options, strict=True))
            )
            names = [name.split(" ", 1)[1] for name in options]
            answer = kind.split(" ", 1)[1]
            items.append(first_named("kinds", word, "kind", prompt[0].upper() + prompt[1:], answer, names))
    return items


MEANING_FORMS = (
    'Which word means "{text}": {a}, {b} or {c}?',
    'Which of these words is defined as "{text}"? {a}, {b}, {c}',
    '{a}, {b} or {c}: which one is "{text}"?',
)


def meanings(wordnet: WordNet, n: int) -> list[Item]:
    """Returns questions for the word with a given definition, of three nouns from the same field."""
    by_field: dict[int, list[tuple[str, Synset]]] = {}
    for word in common(wordnet, "n", 4):
        synset = wordnet.senses["n", word][0]
        if 20 < len(synset.definition) < 90 and synset.words[0] == word and word not in synset.definition:
            by_field.setdefault(synset.file, []).append((word, synset))
    items = []
    for words in by_field.values():
        rest = shuffled(words, lambda entry: entry[0], "meaning")
        while len(rest) >= 3:
            chosen, rest = rest[:3], rest[3:]
            names = [word for word, _ in shuffled(chosen, lambda entry: entry[0], "shown")]
            answer, synset = chosen[0]
            if any(name in other for name in names for other in [synset.definition] if name != answer):
                continue
            prompt = pick(f"meaning {answer}", MEANING_FORMS).format(
                text=synset.definition, **dict(zip("abc", names, strict=True))
            )
            key = " ".join(sorted(names))
            items.append(first_named("meanings", key, "word", prompt[0].upper() + prompt[1:], answer, names))
    return shuffled(items, lambda item: item.key, "meanings")[:n]


PLURAL_FORMS = (
    'What is the plural of "{word}"?',
    "What's the plural form of the word {word}?",
    'How do you write "{word}" in the plural?',
)
PAST_FORMS = (
    'What is the past tense of "{word}"?',
    "What's the simple past of the verb {word}?",
    'How do you say "{word}" in the past tense?',
)
COMPARATIVE_FORMS = (
    'What is the comparative form of "{word}"?',
    "What's the comparative of the adjective {word}?",
)
# their forms depend on the person or the meaning, or are no answer to the question
NOT_ASKED = frozenset(
    {"be", "have", "lie", "hang", "shine", "person", "people", "datum", "medium", "cloth", "bit"}
)
# two irregular forms in WordNet's list of which only one is the simple past
PARTICIPLES = frozenset(
    """
    arisen awoken beaten been become begun bitten blown borne born broken chosen come done drawn drunk
    driven eaten fallen flown forbidden forgotten forgiven frozen given gone grown hidden known lain
    mistaken overcome ridden risen rung run seen shaken shown shrunk slain sprung stolen striven sung sunk
    sworn swum taken thrown torn trodden undergone undertaken withdrawn woken worn woven written sewn sown
    swollen mown proven shaven stunk stridden spoken outgrown overthrown foreseen mislaid redone undone
    rewritten partaken forsaken begotten bidden
    """.split()  # noqa: SIM905
)


def _right(part: str, base: str, listed: set[str]) -> set[str]:
    """Returns the forms of the list that answer the question, which names one of several forms."""
    if part == "v":
        past = {form for form in listed if form not in PARTICIPLES and not form.endswith(("ing", "s"))}
        return {form for form in past if not form.endswith("n")} or past
    if part == "a":
        return {form for form in listed if not form.endswith("st")}
    # of a Latin or French plural the English one beside it is right as well
    return listed | {base + "s" for form in listed if form.endswith(("a", "ae", "i", "ices", "x"))}


def forms(wordnet: WordNet, most: dict[str, int]) -> list[Item]:
    """Returns questions for the irregular plural, past tense and comparative of the most common words."""
    items = []
    for part, phrasings, label in (
        ("n", PLURAL_FORMS, "plural"),
        ("v", PAST_FORMS, "past"),
        ("a", COMPARATIVE_FORMS, "comparative"),
    ):
        of_base: dict[str, set[str]] = {}
        for form, base in wordnet.exceptions(part):
            if form.isalpha() and base.isalpha() and wordnet.frequency.get((part, base), 0):
                of_base.setdefault(base, set()).add(form)
        bases = sorted(of_base, key=lambda base: (-wordnet.frequency[part, base], base))
        asked = [(base, _right(part, base, of_base[base])) for base in bases if base not in NOT_ASKED]
        asked = [(base, right) for base, right in asked if right and base not in right]
        for base, right in asked[: most[label]]:
            prompt = pick(f"{label} {base}", phrasings).format(word=base)
            items.append(Item("forms", base, label, prompt, sorted(right), CONTAINS, ANSWER_WORD, 48))
    return items
