"""Checks the first sentence of every public docstring.

A first sentence is read in an editor, in the API pages and in a search, without the code around it, so it
must be understood alone:

- Of a function, method or property it begins with a verb in the third person and names its object: "Counts
  the blocks that ...", "Returns the ...". "True if ..." and "Like step(), but ..." are allowed as well.
- Of a class it is a noun phrase: "A request that waits for ...", "The blocks of ...".
- It has no "what", "who", "those" or "one" in the place of a noun, it has at least three words, and it ends
  with a period. This holds for modules, too.

``python tools/docstrings.py`` checks the source roots that pyproject.toml names under
``[tool.entropick.docstrings]``, without the paths in ``exclude``: packages (each without the packages below
it) and files that do not follow the rules yet. A path of that list that has become clean, or that is gone, is
an error as well, so the list can only shrink.

``python tools/docstrings.py PATH ...`` checks files and folders whatever the list says; ``--private`` adds
the docstrings of names with a leading underscore.
"""

import argparse
import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# words that end in s and are no verbs; with "of", "that" or "which" behind it, any word is taken for a noun
NO_VERBS = _words(
    """
    across always as axis bias its less perhaps plus this thus towards unless various whereas bits bytes
    characters choices coefficients cosines ids items keys layers logits messages nats pages positions
    probabilities profiles prompts queries rows seconds sequences series settings signals sines statistics
    strategies tensors tokens units values weights words
    """
)
BEHIND_A_NOUN = _words("of that which whose")
VERBS_WITH_THAT = _words(
    "asserts checks ensures guarantees notes promises proves records says shows tells verifies"
)

DETERMINERS = _words(
    """
    a an the one two three four five six each every all both several some any no another its their our
    most
    """
)
# what may follow the first noun of a class docstring that has no article: "Statistics of ...", "Base of ..."
BEHIND_A_CLASS = BEHIND_A_NOUN | _words("between with")
# words that begin no noun phrase; imperatives that one meets at the beginning of docstrings
NO_NOUNS = _words(
    """
    as at by for from how if in into like none not of on over see strict to under what when where whether
    while who accept add apply assign attach bind build call cancel capture check choose clear close
    collect compute connect convert copy count create decide define delete describe draw emit encode end
    fail feed fetch fill find forget format generate get give handle hold implement insert iterate join
    keep let listen load look make map measure merge move note open pack parse pass pick prepare print
    process put queue raise read receive record refuse register release remember remove render report
    represent reset resolve return run sample send serve set show split start stop store take tell track
    train use validate wait walk watch wrap write yield
    """
)

CODE = "CODE"
_CODE = re.compile(r"(?::[a-z:]+:)?``?[^`]+``?")
_QUOTED = re.compile(r"\"[^\"]+\"|“[^”]+”")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|cf|vs|resp)\.$")
_VERB = re.compile(r"[A-Z][a-z]*(?:-[a-z]+)*s")
_PREPOSITIONS = (
    "of|that|which|who|whose|with|without|in|at|from|for|to|by|on|and|or|but|as|is|are|was|were|has|have|it|they|not"
    "|beside|behind|before|after|between|until|when|where|while|if|than|alone|too|goes|comes|begins"
)
_NO_NOUN_BEHIND = rf"(?=\s+(?:{_PREPOSITIONS})\b|\s*[.,;:)]|\s*$)"

WORDS = (
    (
        re.compile(r"\b(?:who|whom|whoever)\b", re.I),
        '"who" stands for a noun: name the caller or the row',
    ),
    (
        re.compile(r"(?:^|\b(?:those|these|one|ones|and|or|of|by|from|for))\s*\bwhose\b", re.I),
        '"whose" needs a noun before it',
    ),
    (re.compile(r"\b(?:what|whatever)\b", re.I), '"what" stands for a noun: name the thing'),
    (re.compile(rf"\b(?:those|these)\b{_NO_NOUN_BEHIND}", re.I), '"those" without a noun: name the things'),
    (re.compile(r"\bones\b", re.I), '"ones" stands for a noun: name the things'),
    (
        re.compile(
            rf"\bone\b(?!\s+(?:of|at a time|by one|to one)\b)(?<!one by one)(?<!one to one){_NO_NOUN_BEHIND}",
            re.I,
        ),
        '"one" without a noun: name the thing',
    ),
    (
        re.compile(r"\b(?:nobody|somebody|anybody|everybody|no one|someone|anyone|everyone)\b", re.I),
        "name the actor",
    ),
    (re.compile(r"\bwhich see\b", re.I), '"which see": name the function or the document'),
)
_PRONOUN_OBJECT = re.compile(
    r"^(?!Does nothing\b)\S+\s+(?:(?:it|them|itself|themselves|everything|something|nothing|anything)\b"
    r"|(?:this|that|these|those|all|both|others)(?:\s*[.,;:]|\s+(?:of|which|when|where|while|until|as|if)\b|\s*$))"
)
_CONDITION = re.compile(
    r"(?:True|False) (?:if|unless|while|when|where|once|until|between|from|after) \S+ \S+"
)
_LIKE = re.compile(r"Like \S+, but \S+ \S+")


@dataclass(frozen=True, slots=True)
class Finding:
    """A docstring whose first sentence breaks a rule, with its place and the rule."""

    path: Path
    line: int
    name: str
    message: str

    def __str__(self) -> str:
        """Returns the finding as one line that editors can follow."""
        return f"{self.path}:{self.line}: {self.name}: {self.message}"


def first_sentence(docstring: str) -> str:
    """Returns the first sentence of a docstring as one line; without a period, its whole first paragraph."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    for end in re.finditer(r"(?<!\.)\.(?=\s|$)", paragraph):
        sentence = paragraph[: end.end()]
        if not _ABBREVIATION.search(sentence) and sentence.count("``") % 2 == 0:
            return sentence
    return paragraph


def problems(kind: str, docstring: str) -> list[str]:
    """Returns the rules that a docstring's first sentence breaks.

    ``kind`` is "module", "class" or "function" (methods and properties are functions).
    """
    sentence = first_sentence(docstring)
    found = []
    if not sentence.endswith("."):
        found.append("the first sentence must end with a period")
    plain = _QUOTED.sub(CODE, _CODE.sub(CODE, sentence))
    words = plain.rstrip(".").split()
    if len(words) < 3 and not (len(words) == 2 and words[1].startswith(CODE)):
        found.append("the first sentence must have at least three words: say of which thing")
    if words and kind == "function":
        found.extend(_function_problems(plain, words))
    if words and kind == "class":
        found.extend(_class_problems(words))
    found.extend(message for pattern, message in WORDS if pattern.search(plain))
    return found


def _function_problems(sentence: str, words: list[str]) -> Iterator[str]:
    if _CONDITION.match(sentence) or _LIKE.match(sentence):
        return
    if not _third_person(words):
        yield f'begin with a verb in the third person ("Returns", "Counts"), not "{words[0]}"'
    elif _PRONOUN_OBJECT.match(sentence):
        yield f'"{words[0]}" needs a named object, not "{words[1]}"'


def _third_person(words: list[str]) -> bool:
    first, follows = words[0].rstrip(",:;"), words[1] if len(words) > 1 else ""
    if first in {"Is", "Has", "Does", "Returns", "Yields"}:
        return True
    if not _VERB.fullmatch(first) or first.endswith(("ss", "us", "is", "ias")) or first.lower() in NO_VERBS:
        return False
    if follows == "that":
        return first.lower() in VERBS_WITH_THAT
    return follows not in BEHIND_A_NOUN and not follows.startswith("[")


def _class_problems(words: list[str]) -> Iterator[str]:
    first = words[0].rstrip(",:;")
    if first.lower() in DETERMINERS or first.endswith(("'s", "s'")) or first[:1].isdigit():
        return
    follows = words[1] if len(words) > 1 else ""
    if first.lower() in NO_NOUNS or follows not in BEHIND_A_CLASS:
        yield f'begin with a noun phrase ("A request that ...", "The blocks of ..."), not "{first} {follows}"'


def documented(tree: ast.Module, private: bool = False) -> Iterator[tuple[str, int, str, str]]:
    """Yields the kind, the line, the name and the docstring of every documented public object of a module.

    Names with a leading underscore, and everything inside them, count with ``private`` only. Functions inside
    functions never count.
    """
    text = ast.get_docstring(tree)
    if text:
        yield "module", 1, "module", text
    yield from _members(tree.body, "", private)


def _members(body: list[ast.stmt], prefix: str, private: bool) -> Iterator[tuple[str, int, str, str]]:
    for node in body:
        if isinstance(node, ast.If):
            yield from _members([*node.body, *node.orelse], prefix, private)
        elif isinstance(node, ast.Try):
            handlers = [child for handler in node.handlers for child in handler.body]
            yield from _members([*node.body, *handlers, *node.orelse], prefix, private)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            hidden = node.name.startswith("_") and not node.name.endswith("__")
            if hidden and not private:
                continue
            name = prefix + node.name
            text = ast.get_docstring(node)
            is_class = isinstance(node, ast.ClassDef)
            if text:
                yield "class" if is_class else "function", node.lineno, name, text
            if is_class:
                yield from _members(node.body, name + ".", private)


def check_file(path: Path, private: bool = False) -> list[Finding]:
    """Returns the findings of a Python file."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return [
        Finding(path, line, name, message)
        for kind, line, name, text in documented(tree, private)
        for message in problems(kind, text)
    ]


def python_files(path: Path) -> list[Path]:
    """Returns the Python files of a folder in order, or the file itself."""
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def check_tree(root: Path, roots: list[str], exclude: list[str]) -> tuple[list[Finding], list[str]]:
    """Checks the source roots of a repository except for the excluded paths.

    An excluded path is a file, or a folder with the files that lie in it directly: a package without the
    packages below it. Returns the findings, and the complaints about excluded paths that are clean or gone.
    """
    stale = [f"{entry}: is gone: remove it from exclude" for entry in exclude if not (root / entry).exists()]
    dirty: set[str] = set()
    findings: list[Finding] = []
    for source in roots:
        for path in python_files(root / source):
            covering = {path.relative_to(root).as_posix(), path.parent.relative_to(root).as_posix()} & set(
                exclude
            )
            found = check_file(path)
            if not covering:
                findings.extend(found)
            elif found:
                dirty |= covering
    clean = [entry for entry in exclude if entry not in dirty and (root / entry).exists()]
    stale.extend(f"{entry}: is clean: remove it from exclude" for entry in clean)
    return findings, stale


def main(arguments: list[str] | None = None) -> int:
    """Runs the check from the command line and returns the exit status: 0 clean, 1 with findings."""
    parser = argparse.ArgumentParser(description="Checks the first sentence of every public docstring.")
    parser.add_argument("paths", nargs="*", type=Path, help="files or folders; none: the source roots")
    parser.add_argument("--private", action="store_true", help="names with a leading underscore, too")
    options = parser.parse_args(arguments)
    stale: list[str] = []
    if options.paths:
        missing = [str(path) for path in options.paths if not path.exists()]
        if missing:
            parser.error(f"no such file or folder: {', '.join(missing)}")
        files = [file for path in options.paths for file in python_files(path)]
        findings = [finding for file in files for finding in check_file(file, options.private)]
    else:
        root = Path(__file__).resolve().parent.parent
        with (root / "pyproject.toml").open("rb") as file:
            config = tomllib.load(file)["tool"]["entropick"]["docstrings"]
        findings, stale = check_tree(root, config["roots"], config["exclude"])
    for line in [*map(str, findings), *stale]:
        print(line)
    count = len(findings) + len(stale)
    print(f"docstrings: {count} finding{'' if count == 1 else 's'}" if count else "docstrings: clean")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
