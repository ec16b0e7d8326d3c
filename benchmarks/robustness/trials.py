"""The list of all trials, which the page, ``make test-load`` and the command line share."""

from __future__ import annotations

from typing import Final

from .trials_connections import CONNECTIONS
from .trials_ending import ENDING
from .trials_engine import ENGINE
from .trials_load import LOAD
from .trials_starting import STARTING
from .trials_templates import TEMPLATES

TRIALS: Final = (*CONNECTIONS, *LOAD, *TEMPLATES, *ENDING, *STARTING, *ENGINE)
