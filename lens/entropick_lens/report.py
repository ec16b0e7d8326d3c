"""The file ``entropick_inspect.html``: sentences first, then plots, of one model or of several side by side.

The file stands alone: style and pictures are in it, nothing is fetched. The plots are drawn by matplotlib,
which the extra ``lens`` brings; without it the report has the text and says how to get them.
"""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from .section import Plot, Section

FILE: Final = "entropick_inspect.html"
NO_PLOTS: Final = "There are no plots: matplotlib is not installed. pip install 'entropick[lens]' brings it."
_STYLE: Final = """
:root { color-scheme: light dark; --ink: light-dark(#1d1f24, #e9e7e1); --soft: light-dark(#585c65, #a9adb6);
  --line: light-dark(#dedad0, #343944); --paper: light-dark(#fcfbf8, #14161b); }
body { margin: 0 auto; padding: 1.5rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid var(--line);
  padding-top: 1rem; }
h3 { font-size: 1rem; }
.models { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 1.5rem; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figcaption, .note { color: var(--soft); font-size: .9rem; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True, slots=True)
class Inspected:
    """A model's results, by section."""

    name: str
    identity: str
    results: Mapping[str, Any]


def have_plots() -> bool:
    """Tells whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def page(models: Sequence[Inspected], sections: Sequence[Section]) -> str:
    """Returns the report as one HTML document; several models stand side by side in each section."""
    names = " and ".join(model.name for model in models)
    plots = have_plots()
    body = [f"<h1>Inside {html.escape(names)}</h1>"]
    body += [
        f'<p class="note">{html.escape(model.name)}: identity <code>{html.escape(model.identity)}</code></p>'
        for model in models
    ]
    if not plots:
        body.append(f'<p class="note">{html.escape(NO_PLOTS)}</p>')
    body.append(
        "<nav>" + " · ".join(f'<a href="#{s.name}">{html.escape(s.title)}</a>' for s in sections) + "</nav>"
    )
    for section in sections:
        body.append(f'<section id="{section.name}"><h2>{html.escape(section.title)}</h2><div class="models">')
        for model in models:
            if section.name in model.results:
                body.append(_part(model, section, plots, len(models) > 1))
        body.append("</div></section>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Inside {html.escape(names)}</title><style>{_STYLE}</style></head>\n<body>"
        + "\n".join(body)
        + "</body></html>\n"
    )


def _part(model: Inspected, section: Section, plots: bool, titled: bool) -> str:
    result = model.results[section.name]
    said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in section.sentences(result))
    drawn = (
        "".join(_figure(plot, f"{model.name}-{section.name}") for plot in section.plots(result))
        if plots
        else ""
    )
    title = f"<h3>{html.escape(model.name)}</h3>" if titled else ""
    return f"<div>{title}<ul>{said}</ul>{drawn}</div>"


def _figure(plot: Plot, place: str) -> str:
    caption = html.escape(plot.caption)
    return f"<figure>{draw_svg(plot, place)}<figcaption>{caption}</figcaption></figure>"


def draw_svg(plot: Plot, place: str = "") -> str:
    """Draws a plot as an ``svg`` element, the same bytes for the same plot; ``place`` makes ids unique."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": f"{place}-{plot.name}", "svg.fonttype": "none"}):
        figure = _drawn(plot)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def draw_png(plot: Plot) -> bytes:
    """Draws a plot as a PNG file."""
    data = io.BytesIO()
    _drawn(plot).savefig(data, format="png", dpi=110)
    return data.getvalue()


def _drawn(plot: Plot) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=plot.size, layout="constrained")
    plot.draw(figure)
    return figure
