"""Chemical elements: symbol, name and atomic number."""

import periodictable

from .items import CONTAINS, LAST_NUMBER, Item, pick, shuffled

# up to barium, and the heavier ones that most people have heard of
KNOWN = frozenset({*range(1, 57), 74, 77, 78, 79, 80, 81, 82, 83, 86, 88, 90, 92, 94})
# symbols that are words: a reply has them without meaning the element
WORDS = frozenset(
    {"I", "He", "Be", "As", "In", "At", "No", "Am", "U", "Os", "Pa", "Ho", "Es", "La", "C", "Re"}
)
OTHER_NAMES = {"aluminum": ["aluminium"], "sulfur": ["sulphur"], "cesium": ["caesium"]}

NAME_FORMS = (
    "Which element has the chemical symbol {symbol}?",
    "What element does the symbol {symbol} stand for?",
    "{symbol} is the symbol of which chemical element?",
    "what is the element with the symbol {symbol} called",
)
SYMBOL_FORMS = (
    "What is the chemical symbol for {name}?",
    "Which symbol does {name} have in the periodic table?",
    "what's the symbol of the element {name}",
    "Give me the chemical symbol of {name}.",
)
NUMBER_FORMS = (
    "What is the atomic number of {name}?",
    "How many protons does an atom of {name} have?",
    "which atomic number does {name} have",
)


def elements() -> list[Item]:
    """Returns questions for the name, the symbol and the atomic number of the better known elements."""
    known = [element for element in periodictable.elements if element.number in KNOWN]
    names = {form for element in known for form in [element.name, *OTHER_NAMES.get(element.name, [])]}
    others = sorted(name for name in names if not name.endswith("ium"))
    any_name = {"regex": rf"(?is)^.*?\b([a-z]+ium|{'|'.join(others)})\b"}
    items = []
    for element in known:
        name, symbol = element.name, element.symbol
        accepted = [name, *OTHER_NAMES.get(name, [])]
        for index, phrasing in enumerate(shuffled(NAME_FORMS, str, symbol)[:2], 1):
            prompt = phrasing.format(symbol=symbol)
            items.append(Item("elements", name, f"name-{index}", prompt, accepted, CONTAINS, any_name, 48))
        if symbol not in WORDS:
            check = {"type": "regex", "pattern": rf"\b({symbol})\b"}
            extract = {"regex": r"(?s)^(?:.*?(?:\bis|\bsymbol|:) (?:the |letter )?)?\W{0,3}([A-Z][a-z]?)\b"}
            for index, phrasing in enumerate(shuffled(SYMBOL_FORMS, str, symbol)[:2], 1):
                prompt = phrasing.format(name=name)
                items.append(Item("elements", name, f"symbol-{index}", prompt, symbol, check, extract, 48))
        prompt = pick(f"number {name}", NUMBER_FORMS).format(name=name)
        items.append(
            Item("elements", name, "number", prompt, int(element.number), LAST_NUMBER, "last_number", 48)
        )
    return items
