"""Writes the versions that an environment holds into a constraints file for pip.

``python tools/lock.py --extra dev --extra docs --out constraints.txt`` is run by the environment's Python. It
follows the requirements of pyproject.toml (with the extras) and of requirements files through the metadata of
the installed packages, so a package that is there for another purpose is not pinned. It pins public versions
(``2.13.0``, not ``2.13.0+cpu``), because the same pin has to serve any build of torch.
"""

import argparse
import platform
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
# what `requires-python` admits: a machine may have the first release of that Python
LOWEST_PYTHON = "3.11.0"
# brought along by the CUDA build of torch, each build with versions of its own
BUILD_OF_TORCH = re.compile(r"triton|nvidia-.*|cuda-.*")


def needed(requirements: Iterable[Requirement], absent: set[str]) -> dict[str, str]:
    """Returns the installed version of every distribution that the requirements lead to, by its normal name.

    ``absent`` names distributions that may be missing. Raises PackageNotFoundError for others.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in absent:
            continue
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                found[name] = distribution(name).version
                waiting.extend(_requirements_of(name, extra))
    return found


def _requirements_of(name: str, extra: str) -> Iterator[Requirement]:
    for text in distribution(name).requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def read_project(path: Path, extras: Iterable[str]) -> list[Requirement]:
    """Returns the requirements of a pyproject.toml with some extras; raises KeyError for an unknown extra."""
    with path.open("rb") as file:
        project = tomllib.load(file)["project"]
    texts = list(project["dependencies"])
    for extra in extras:
        texts.extend(project["optional-dependencies"][extra])
    found = [Requirement(text) for text in texts]
    return [
        requirement for requirement in found if requirement.marker is None or requirement.marker.evaluate()
    ]


def read_requirements(path: Path) -> list[Requirement]:
    """Returns the requirements of a file that holds one a line, and comments."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def pins(versions: dict[str, str]) -> list[str]:
    """Returns the lines of a constraints file, by name, without the parts of a CUDA build of torch."""
    return [
        f"{name}=={Version(version).public}"
        for name, version in sorted(versions.items())
        if not BUILD_OF_TORCH.fullmatch(name)
    ]


def too_new(versions: dict[str, str], python: str) -> list[str]:
    """Returns the distributions that do not admit a version of Python, with the versions that they admit."""
    found = []
    for name in sorted(versions):
        admitted = ",".join(distribution(name).metadata.get_all("Requires-Python") or [])
        if not SpecifierSet(admitted).contains(python):
            found.append(f"{name} {versions[name]} (Python {admitted})")
    return found


def header() -> str:
    """Returns the comment at the head of a constraints file."""
    python = ".".join(platform.python_version_tuple()[:2])
    return (
        f"# Written by `make lock`: the tested versions ({platform.system()}, Python {python}).\n"
        "# Which build of torch is meant is pip's choice (README.md). A CUDA build brings its own triton\n"
        "# and nvidia packages, so they are not pinned.\n"
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(description="Writes the versions of this environment as constraints.")
    parser.add_argument("--extra", action="append", default=[], help="an extra of this distribution")
    parser.add_argument(
        "--requirements", action="append", default=[], type=Path, help="a file of requirements"
    )
    parser.add_argument("--absent", action="append", default=[], help="a distribution that may be missing")
    parser.add_argument("--out", type=Path, required=True, help="the constraints file")
    options = parser.parse_args(arguments)
    roots = read_project(ROOT / "pyproject.toml", options.extra)
    for path in options.requirements:
        roots.extend(read_requirements(path))
    try:
        versions = needed(roots, set(options.absent))
    except PackageNotFoundError as error:
        print(f"lock: {error.name} is not installed: set the environment up first", file=sys.stderr)
        return 1
    refused = too_new(versions, LOWEST_PYTHON)
    if refused:
        print(f"lock: not for Python {LOWEST_PYTHON}: {', '.join(refused)}", file=sys.stderr)
        return 1
    lines = pins(versions)
    options.out.write_text(header() + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"lock: {len(lines)} versions in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
