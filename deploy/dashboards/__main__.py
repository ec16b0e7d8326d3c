"""Writes the dashboards into deploy/grafana/dashboards, and their panels into docs/dashboards.md.

With ``--check`` nothing is written: stale files are named, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from .genuineness import genuineness
from .page import as_json
from .requests import requests
from .serving import serving
from .uncertainty import uncertainty

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "deploy" / "grafana" / "dashboards"
GUIDE: Final = ROOT / "docs" / "dashboards.md"
BEGIN: Final = "<!-- panels: written by make dashboards -->"
END: Final = "<!-- end of panels -->"


def main(arguments: list[str] | None = None) -> int:
    """Writes the files, or checks them. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Writes the Grafana dashboards.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a file is stale")
    check = parser.parse_args(arguments).check
    stale = [path for path, text in files().items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        if check:
            print(f"{path.relative_to(ROOT)} is stale: make dashboards", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files()[path], "utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if check and stale else 0


def files() -> dict[Path, str]:
    """Returns the text of every file that is generated."""
    built = serving(), uncertainty(), requests(), genuineness()
    pages = {each.build().uid or "": as_json(each) for each in built}
    guide = GUIDE.read_text("utf-8")
    before, _, rest = guide.partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = [line for text in pages.values() for line in described(json.loads(text))]
    written = f"{before}{BEGIN}\n{''.join(line + chr(10) for line in lines)}\n{END}{after}"
    return {**{FOLDER / f"{uid}.json": text for uid, text in pages.items()}, GUIDE: written}


def described(page: dict[str, Any]) -> list[str]:
    """Returns a dashboard's title and its panels, a line each, as Markdown."""
    lines = ["", f"### {page['title']}", "", page["description"], "", "| panel | shows |", "|---|---|"]
    return [*lines, *(f"| {panel['title']} | {panel['description']} |" for panel in all_panels(page))]


def all_panels(page: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the panels of a dashboard, in collapsed rows too, without the rows themselves."""
    flat = [inner for panel in page["panels"] for inner in (panel, *panel.get("panels", []))]
    return [panel for panel in flat if panel["type"] != "row"]


if __name__ == "__main__":
    raise SystemExit(main())
