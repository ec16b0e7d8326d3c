"""Hooks of mkdocs: the API pages, and the pages of the repository that lie outside docs/.

Links are written as they work in the repository ("docs/api.md" in README.md, "../CHANGELOG.md" in a page of
docs/) and become links of the site here. A link that leads to no page stays as it is: mkdocs then names it.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent

# the path in the repository, and the page of the site
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "pico/entropick_pico/model/MODEL_CARD.md": "model-card.md",
}
PACKAGES = {
    "kernels": "entropick_kernels",
    "sampler": "entropick_sampler",
    "server": "entropick_server",
    "pico": "entropick_pico",
    "evaluation": "entropick_eval",
    "lens": "entropick_lens",
}

_LINK = re.compile(r"(\]\()([^)\s:#]+\.(?:md|png|svg))((?:#[^)\s]*)?\))")
_PICTURE = re.compile(r"(\bsrc(?:set)?=\")([^\":#]+\.(?:png|svg))(\")")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`(?!\]))", re.S | re.M)


def modules(root: Path, package: str) -> Iterator[str]:
    """Yields the dotted names of a package's public modules, in the order of their paths."""
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            yield ".".join(parts)


def api_page(module: str) -> str:
    """Returns the path of a module's API page in the site."""
    return f"modules/{module}.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Appends the API pages to the navigation."""
    section: list[dict[str, list[dict[str, str]]]] = []
    for folder, package in PACKAGES.items():
        names = list(modules(ROOT / folder, package))
        section.append({package: [{_title(name): api_page(name)} for name in names]})
    if config.nav is None:
        raise PluginError("mkdocs.yml has no nav to append the API pages to")
    config.nav.append({"The Python modules": section})
    return config


def _title(module: str) -> str:
    _, _, inside = module.partition(".")
    return inside or module


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not in docs/."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for folder, package in PACKAGES.items():
        for module in modules(ROOT / folder, package):
            files.append(File.generated(config, api_page(module), content=f"# {module}\n\n::: {module}\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns a page with the links between files of the repository turned into links between pages."""
    pages = {page: source for source, page in OUTSIDE.items()}
    source = pages.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return site_links(markdown, source, page.file.src_uri)


def site_links(markdown: str, source: str, page: str) -> str:
    """Returns the text of a repository's file with its links to other files as links of the site.

    ``source`` is the path of the file in the repository, ``page`` that of its page. Code is left alone, and
    so are links to files that have no page. The brackets of a shape like [layers][heads] stay brackets.
    """

    def link(match: re.Match[str]) -> str:
        target = normpath(PurePosixPath(source).parent / match[2])
        uri = OUTSIDE.get(target)
        if uri is None and target.startswith("docs/"):
            uri = target.removeprefix("docs/")
        if uri is None:
            return match[0]
        return f"{match[1]}{relpath(uri, PurePosixPath(page).parent)}{match[3]}"

    parts = _CODE.split(markdown)
    return "".join(
        part if part.startswith("`") else _PICTURE.sub(link, _LINK.sub(link, part)).replace("][", "]\\[")
        for part in parts
    )
