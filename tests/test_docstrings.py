"""tools/docstrings.py: first sentences that pass and that fail, and a list that only shrinks."""

import subprocess
import sys
from pathlib import Path

import pytest

import docstrings

TOOL = Path(__file__).parent.parent / "tools" / "docstrings.py"


@pytest.mark.parametrize(
    "text",
    [
        "Returns the blocks that hold the first ``tokens`` tokens.",
        "Counts the blocks that are shared.\n\nWho reads on? What follows is free.",
        "Raises IndexError where a token is out of range.",
        "Re-reads the profile from disk, e.g. after a calibration run.",
        "True if the queue holds max_queue requests beyond the free slots.",
        "Like step(), but the caller stores the policy state.",
        "Returns () during teacher forcing, during rollouts, inside a UTF-8 character.",
        "Implements :meth:`Engine.add`.",
        "Checks that the blocks of those rows are free.",
        "Returns one row for each of the branches, one at a time.",
        "Is true while the engine takes requests.",
        "Passes the request on, whose id is in the scope.",
        'Quotes the word "what" as it is.',
    ],
)
def test_a_function_sentence_that_passes(text: str) -> None:
    assert docstrings.problems("function", text) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Compile every native loop now.", "third person"),
        ("The same values as a numpy array.", "third person"),
        ("Whether the native loops serve these tensors.", "third person"),
        ("None for a replayed sequence, none while a rollout runs.", "third person"),
        ("Statistics of every row of the logits.", "third person"),
        ("Coefficients [1 + signals], low and high for one base value.", "third person"),
        ("Process the newest step of the batch.", "third person"),
        ("See Format.", "third person"),
        ("A 400.", "third person"),
        ("Heads that lie on another worker.", "third person"),
        ("Keys that will be read, all rows together.", "third person"),
        ("Keeps them until the next step.", "named object"),
        ("Takes this, then the next step.", "named object"),
        ("Returns rows.", "three words"),
        ("Returns the rows of the batch", "period"),
        ("Keeps the memory for who keeps the rows.", '"who"'),
        ("Returns what the engine knows.", '"what"'),
        ("Removes the rows of the batch and those that ended.", '"those"'),
        ("Replaces the old profile by the new one.", '"one"'),
        ("Drops the old rows and keeps the new ones.", '"ones"'),
        ("Drops the rows that nobody waits for.", "name the actor"),
        ("Reads the settings as in load(), which see.", "which see"),
        ("Counts the requests and those whose client left.", '"whose"'),
    ],
)
def test_a_function_sentence_that_fails(text: str, says: str) -> None:
    assert any(says in problem for problem in docstrings.problems("function", text))


@pytest.mark.parametrize(
    "text",
    [
        "A request that waits for a slot.",
        "Statistics of a query's attention over its valid keys.",
        "OpenAI's count of the tokens.",
        "One token of a reply.",
        "The blocks of a sequence.",
    ],
)
def test_a_class_sentence_that_passes(text: str) -> None:
    assert docstrings.problems("class", text) == []


@pytest.mark.parametrize(
    "text",
    [
        "Queue a request.",
        "Runs steps of a model.",
        "What the routes share about an engine.",
        "Strict: 1 is no boolean and true is no number.",
        "Feed it from one thread, the event loop's.",
        "Mixed into the worker class of vLLM.",
        "As the engine sees it, which see.",
    ],
)
def test_a_class_sentence_that_fails(text: str) -> None:
    assert any("noun phrase" in problem for problem in docstrings.problems("class", text))


def test_a_module_needs_no_verb_but_its_words_are_checked() -> None:
    assert docstrings.problems("module", "The six signals of a layer, in float64.") == []
    assert docstrings.problems("module", "What goes into a step of a decoder.") != []


MODULE = '''"""A module with a good and a bad docstring."""

class Shape:
    """The sizes of a decoder."""

    @property
    def width(self):
        """Width."""
        def inner():
            """Inner."""

    def _hidden(self):
        """Hidden."""

if True:
    def late():
        """Late."""
'''


def test_public_members_are_found_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(MODULE)
    found = {(finding.line, finding.name) for finding in docstrings.check_file(path)}
    assert found == {(7, "Shape.width"), (16, "late")}
    assert {finding.name for finding in docstrings.check_file(path, private=True)} >= {"Shape._hidden"}


def test_the_list_of_exceptions_only_shrinks(tmp_path: Path) -> None:
    for name, sentence in {"good": "Returns the width.", "bad": "Width."}.items():
        (tmp_path / "src" / name / "below").mkdir(parents=True)
        (tmp_path / "src" / name / "m.py").write_text(f'def f():\n    """{sentence}"""\n')

    def check(*exclude: str) -> tuple[int, list[str]]:
        findings, stale = docstrings.check_tree(tmp_path, ["src"], list(exclude))
        return len({finding.path for finding in findings}), stale

    assert check() == (1, [])
    assert check("src/bad") == (0, [])
    assert check("src/bad/m.py") == (0, [])
    assert check("src/bad", "src/good") == (0, ["src/good: is clean: remove it from exclude"])
    assert check("src/bad", "src/gone") == (0, ["src/gone: is gone: remove it from exclude"])
    (tmp_path / "src" / "bad" / "below" / "m.py").write_text('def f():\n    """Width."""\n')
    assert check("src/bad") == (1, [])  # a package of the list does not cover the packages below it


def test_the_command_says_where_and_fails(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(MODULE)
    run = subprocess.run([sys.executable, TOOL, path], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert f"{path}:7: Shape.width: " in run.stdout


def test_this_repository_passes() -> None:
    run = subprocess.run([sys.executable, TOOL], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
