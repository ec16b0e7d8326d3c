"""The sections of the report, in their order."""

from __future__ import annotations

from typing import Final

from . import overview
from .heads import attention, geometry, relation
from .layers import entropy
from .phase import section as phase
from .replies import section as reply_labels
from .section import InspectError, Section
from .terrain import embedding_section, states_section, weights_section, words_section

SECTIONS: Final[tuple[Section, ...]] = (
    overview.SECTION,
    geometry.SECTION,
    attention.SECTION,
    relation.SECTION,
    phase.SECTION,
    entropy.SECTION,
    embedding_section.SECTION,
    weights_section.SECTION,
    words_section.SECTION,
    states_section.SECTION,
    reply_labels.SECTION,
)


def chosen(names: tuple[str, ...] | None) -> tuple[Section, ...]:
    """Returns the named sections and the sections that they need, in the report's order; None names all.

    Raises InspectError for a name that there is not.
    """
    known = {section.name: section for section in SECTIONS}
    if names is None:
        return SECTIONS
    wanted: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        if name not in known:
            raise InspectError(
                f"--sections: there is no section {name[:64]!r} (there are: {', '.join(known)})"
            )
        if name not in wanted:
            wanted.add(name)
            queue += known[name].needs
    return tuple(section for section in SECTIONS if section.name in wanted)
