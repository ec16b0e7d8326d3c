"""The commands ``entropick explain`` and ``entropick replay``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import httpx

from . import explain, replay
from .client import InspectionError, Server

_DESCRIPTIONS = {
    "explain": "Print a reply that a server remembers token by token: the rule that picked each token and "
    "the numbers in it.",
    "replay": "Run a reply that a server remembers again by its seed, and tell whether text and figures are "
    "equal, or where they differ first. Exits with 1 where they differ.",
}


def run(argv: Sequence[str], transport: httpx.BaseTransport | None = None) -> int:
    """Runs one of the two commands, which ``argv`` begins with, and returns the exit code.

    ``transport``: carries the requests, None: the network.
    """
    args = _parser(argv[0]).parse_args(argv[1:])
    key = args.api_key or os.environ.get("ENTROPICK_API_KEY")
    try:
        with Server(args.url, key, transport) as server:
            ask = server.explanation if argv[0] == "explain" else server.request
            choices = _choices(ask(args.request_id), args.choice)
            if argv[0] == "explain":
                return _explain(choices, as_json=args.json)
            return _replay(server, choices, as_json=args.json)
    except InspectionError as error:
        print(f"entropick: error: {error}", file=sys.stderr)
        return 2


def _choices(told: Mapping[str, Any], wanted: int | None) -> list[Mapping[str, Any]]:
    choices: list[Mapping[str, Any]] = list(told["choices"])
    if wanted is None:
        return choices
    chosen = [choice for choice in choices if choice["choice"] == wanted]
    if not chosen:
        known = ", ".join(str(choice["choice"]) for choice in choices)
        raise InspectionError(f"--choice: {told['id']} has no choice {wanted} (it has {known})")
    return chosen


def _explain(choices: Sequence[Mapping[str, Any]], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"choices": choices}, ensure_ascii=False))
        return 0
    for choice in choices:
        print("\n".join(explain.lines(choice)))
    return 0


def _replay(server: Server, choices: Sequence[Mapping[str, Any]], *, as_json: bool) -> int:
    outcomes = [replay.replay(server, choice) for choice in choices]
    if as_json:
        print(json.dumps([{**asdict(outcome), "equal": outcome.equal} for outcome in outcomes]))
    else:
        for outcome in outcomes:
            print("\n".join(replay.lines(outcome)))
    return 0 if all(outcome.equal for outcome in outcomes) else 1


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"entropick {command}", description=_DESCRIPTIONS[command])
    parser.add_argument("request_id", metavar="REQUEST_ID", help="id of the answer, or its X-Request-Id")
    parser.add_argument("--choice", type=int, metavar="N", help="this choice alone; left out: all of them")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server (default: %(default)s)")
    parser.add_argument("--api-key", metavar="KEY", help="its key; left out: ENTROPICK_API_KEY")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
