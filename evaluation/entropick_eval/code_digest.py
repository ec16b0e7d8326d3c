"""Digests the code that decides a reply, so that stored results of other code are known as such."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

CODE: Final = (
    ("entropick_kernels", "**/*.py"),
    ("entropick_sampler", "**/*.py"),
    ("entropick_server", "engine/**/*.py"),
    ("entropick_server", "answers.py"),
    ("entropick_server", "consensus/**/*.py"),
    ("entropick_server", "detokenizer.py"),
    ("entropick_server", "json_path.py"),
    ("entropick_server", "prompts.py"),
    ("entropick_server", "streaming/*.py"),
)
"""The sources that matter, as package and pattern: kernels, policy, engines, and the way from text to tokens
and back."""
WITHOUT: Final = ("engine/vllm/", "triton_impl.py", "triton_kernels.py")
"""parts of paths that have no part in a reply of the embedded engine on a CPU"""


def code_digest() -> str:
    """Returns 16 hexadecimal digits that stay the same while only comments, docstrings and layout change."""
    total = hashlib.sha256()
    for name, path in sorted(set(_sources())):
        total.update(f"{name}\0{source_digest(path.read_text(encoding='utf-8'))}\n".encode())
    return total.hexdigest()[:16]


def _sources() -> Iterator[tuple[str, Path]]:
    for package, pattern in CODE:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"the package {package} has no sources")
        root = Path(spec.origin).parent
        for path in root.glob(pattern):
            name = f"{package}/{path.relative_to(root).as_posix()}"
            if not any(part in name for part in WITHOUT):
                yield name, path


def source_digest(text: str) -> str:
    """Returns the SHA-256 digest of a module's syntax tree without its strings that document."""
    total = hashlib.sha256()
    for part in _walk(ast.parse(text)):
        total.update(part.encode())
    return total.hexdigest()


def _walk(node: object) -> Iterator[str]:
    """Yields the parts of a syntax tree, the same on every Python: fields that are empty are left out."""
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for field, value in sorted(ast.iter_fields(node)):
            if value is not None and value != []:
                yield f" {field}="
                yield from _walk(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for one in node:
            if not _is_text(one):
                yield from _walk(one)
        yield "]"
    else:
        yield repr(node)


def _is_text(node: object) -> bool:
    """Tells whether a statement is nothing but a string: a docstring, or the text behind an attribute."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
