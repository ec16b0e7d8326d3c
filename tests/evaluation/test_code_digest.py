"""The digest of the code that matters."""

from __future__ import annotations

import re

import pytest

from entropick_eval import code_digest

SOURCE = '''
"""A module."""
import math

class A:
    """A class."""
    x: int = 1
    """an attribute"""

def f(a, b=2):
    """A function."""
    return math.exp(a) + b  # a remark
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""Another."""'),
        ("  # a remark", ""),
        ("import math", "\nimport math\n"),
        ("a, b", "a,   b"),
        ('    """A function."""\n', ""),
        ('"""an attribute"""', '"""other words"""'),
    ],
)
def test_words_and_layout_do_not_count(old: str, new: str) -> None:
    changed = SOURCE.replace(old, new)
    assert changed != SOURCE
    assert code_digest.source_digest(changed) == code_digest.source_digest(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"), [("b=2", "b=3"), ("exp", "log"), ("a) + b", "a) - b"), ("= 1", "= '1'"), ("x:", "y:")]
)
def test_everything_else_counts(old: str, new: str) -> None:
    changed = SOURCE.replace(old, new)
    assert changed != SOURCE
    assert code_digest.source_digest(changed) != code_digest.source_digest(SOURCE)


def test_every_pattern_of_the_list_finds_sources() -> None:
    names = {name for name, _ in code_digest._sources()}
    for package, pattern in code_digest.CODE:
        wanted = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        assert any(re.fullmatch(f"{package}/{wanted}", name) for name in names), (package, pattern)
    assert "entropick_sampler/policy.py" in names
    assert "entropick_server/engine/embedded/core.py" in names
    assert not any("vllm" in name or "triton" in name for name in names if "/_triton.py" not in name)
    assert re.fullmatch("[0-9a-f]{16}", code_digest.code_digest())
