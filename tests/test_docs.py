"""The documentation as a site: links between files become links between pages, and a broken link fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import griffe
import pytest

import docs_hooks
import docs_roles

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("text", "source", "page", "becomes"),
    [
        ("[a](docs/api.md)", "README.md", "index.md", "[a](api.md)"),
        ("[a](docs/api.md#limits)", "README.md", "index.md", "[a](api.md#limits)"),
        ("[`a.b`](docs/api.md)", "README.md", "index.md", "[`a.b`](api.md)"),
        ("[a](../CHANGELOG.md)", "docs/status.md", "status.md", "[a](changelog.md)"),
        (
            "[a](../../../docs/policy.md)",
            "pico/entropick_pico/model/MODEL_CARD.md",
            "model-card.md",
            "[a](policy.md)",
        ),
        ("[a](gone.md)", "README.md", "index.md", "[a](gone.md)"),
        ("[a](https://example.org/b.md)", "README.md", "index.md", "[a](https://example.org/b.md)"),
        ("![a](docs/pictures/a.png)", "README.md", "index.md", "![a](pictures/a.png)"),
        ("![a](evidence.svg)", "docs/evidence.md", "evidence.md", "![a](evidence.svg)"),
        (
            '<source srcset="docs/pictures/a.png"><img src="docs/pictures/b.png" alt="b">',
            "README.md",
            "index.md",
            '<source srcset="pictures/a.png"><img src="pictures/b.png" alt="b">',
        ),
        ('<img src="pictures/b.png">', "docs/terminal.md", "terminal.md", '<img src="pictures/b.png">'),
        ("`[a](docs/api.md)`", "README.md", "index.md", "`[a](docs/api.md)`"),
        ("```\n[a](docs/api.md)\n```\n", "README.md", "index.md", "```\n[a](docs/api.md)\n```\n"),
        ("fields [layers][heads]", "docs/api.md", "api.md", "fields [layers]\\[heads]"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(
    text: str, source: str, page: str, becomes: str
) -> None:
    assert docs_hooks.site_links(text, source, page) == becomes


def test_every_public_module_has_a_page() -> None:
    names = list(docs_hooks.modules(ROOT / "kernels", "entropick_kernels"))
    assert names[0] == "entropick_kernels"
    assert "entropick_kernels.attention_stats.reference" in names
    assert not [name for name in names if "._" in name]


def docstring(folder: Path, path: str, **files: str) -> str:
    for name, text in files.items():
        (folder / "house" / f"{name}.py").parent.mkdir(exist_ok=True)
        (folder / "house" / f"{name}.py").write_text(text)
    package = griffe.load("house", search_paths=[folder], extensions=griffe.load_extensions(docs_roles.Roles))
    found = package[path].docstring
    assert found is not None
    return str(found.value)


@pytest.mark.parametrize(
    ("role", "becomes"),
    [
        (":func:`wall`", "[`wall`][house.room.wall]"),
        (":func:`house.room.wall`", "[`house.room.wall`][house.room.wall]"),
        (":class:`~.roof.Roof`", "[`Roof`][house.roof.Roof]"),
        (":class:`Roof`", "[`Roof`][house.roof.Roof]"),
        (":meth:`open`", "[`open`][house.room.Door.open]"),
        (":meth:`Roof.lift`", "[`Roof.lift`][house.roof.Roof.lift]"),
        (":func:`wall()`", "[`wall`][house.room.wall]"),
        (":func:`_hidden`", "`_hidden`"),
        ("``x[0][1]`` and :func:`wall`", "``x[0][1]`` and [`wall`][house.room.wall]"),
        (":func:`gone`", "[`gone`][gone]"),
        ("fields [layers][heads]", "fields [layers]\\[heads]"),
    ],
)
def test_references_in_docstrings_become_links(tmp_path: Path, role: str, becomes: str) -> None:
    room = f'''
from .roof import Roof

def wall(): ...
def _hidden(): ...

class Door:
    """Says {role}."""
    def open(self): ...
'''
    roof = "class Roof:\n    def lift(self): ...\n"
    text = docstring(tmp_path, "room.Door", __init__="", room=room, roof=roof)
    assert text == f"Says {becomes}."


def site(folder: Path) -> Path:
    """A checkout with the real pages and settings, and packages of one module each."""
    for name in ("docs", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("mkdocs.yml", *docs_hooks.OUTSIDE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for root, package in docs_hooks.PACKAGES.items():
        (folder / root / package).mkdir(parents=True, exist_ok=True)
        (folder / root / package / "__init__.py").write_text(f'"""The package {package}."""\n')
    return folder


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_the_pages_build_and_the_readme_is_the_first(tmp_path: Path) -> None:
    run = build(site(tmp_path))
    assert run.returncode == 0, run.stderr
    pages = tmp_path / "build" / "docs"
    assert 'href="api.html"' in (pages / "index.html").read_text()
    assert "The package entropick_server." in (pages / "modules" / "entropick_server.html").read_text()


def test_broken_links_and_forgotten_pages_fail_the_build(tmp_path: Path) -> None:
    folder = site(tmp_path)
    append(folder / "README.md", "\n[a page](docs/no-such-page.md)\n")
    append(folder / "docs" / "policy.md", "\n[a heading](api.md#no-such-heading)\n")
    module = folder / "sampler" / "entropick_sampler" / "__init__.py"
    module.write_text('"""The package, see :func:`no_such_name`."""\n')
    (folder / "docs" / "forgotten.md").write_text("# A page outside the navigation\n")
    run = build(tmp_path)
    assert run.returncode != 0
    warnings = [line for line in run.stderr.splitlines() if line.startswith("WARNING")]
    for name in ("'no-such-page.md'", "#no-such-heading", "'no_such_name'"):
        assert [line for line in warnings if name in line], name
    assert "forgotten.md" in run.stderr[run.stderr.index('not included in the "nav"') :]
