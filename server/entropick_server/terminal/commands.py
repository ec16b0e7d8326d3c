"""The commands of a conversation: lines that begin with a slash."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .arguments import CommandError, choose, fields
from .conversation import Conversation
from .escaping import one_line
from .scale import BY_NAME, NONE, STRATEGY

OFF: Final = frozenset({"off", "none"})
_ALIASES: Final = {"exit": "quit", "q": "quit", "?": "help"}
_SEED_LIMIT: Final = 1 << 63


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a command.

    ``text``: what to say; ``leave``: whether the conversation ends; ``recolour``: whether colours changed.
    """

    text: str = ""
    leave: bool = False
    recolour: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """A command with its help. ``values`` are the words that may follow, for completion."""

    name: str
    usage: str
    help: str
    run: Callable[[Conversation, str], Outcome]
    values: Callable[[Conversation], Sequence[str]] = lambda _: ()
    measured: bool = False
    """whether it needs a server that measures"""


def is_command(line: str) -> bool:
    """Tells whether a line is a command; // begins a message with a slash."""
    return line.startswith("/") and not line.startswith("//")


def run_command(line: str, conversation: Conversation) -> Outcome:
    """Runs a command's line. Raises ChatError with the nearest name where there is no such command."""
    name, _, argument = line[1:].strip().partition(" ")
    command = COMMANDS.get(_ALIASES.get(name, name))
    if command is None:
        near = difflib.get_close_matches(name[:64], COMMANDS, n=1, cutoff=0.5)
        if not near and name:
            near = [known for known in COMMANDS if known.startswith(name)][:1]
        hint = f"did you mean /{near[0]}?" if near else "/help lists all."
        raise CommandError(f"There is no command /{one_line(name, 64)}; {hint}")
    if command.measured and not conversation.facts.measures:
        raise CommandError(f"/{name} needs an entropick server: this one tells nothing of its tokens.")
    return command.run(conversation, argument.strip())


def words(line: str, conversation: Conversation) -> list[str]:
    """Returns the lines that a beginning of a command can become, for completion."""
    name, space, argument = line.partition(" ")
    if not space:
        return [f"/{known} " for known in COMMANDS if f"/{known}".startswith(name)]
    command = COMMANDS.get(name[1:])
    known_words = command.values(conversation) if command is not None else ()
    return [word for word in known_words if word.startswith(argument)]


def signal_names(conversation: Conversation) -> list[str]:
    """Returns the names that can colour tokens: signals that the server has, strategy, none."""
    return [*(name for name in conversation.facts.signals if name in BY_NAME), STRATEGY, NONE]


def _signal(conversation: Conversation, argument: str) -> Outcome:
    if not argument:
        return Outcome(
            f"Colours by {conversation.asked.colour}. Known: {', '.join(signal_names(conversation))}"
        )
    name = NONE if argument in OFF else choose("signal", argument, signal_names(conversation))
    conversation.asked.colour = name
    return Outcome(recolour=True)


def _strategy(conversation: Conversation, argument: str) -> Outcome:
    if argument:
        raise CommandError(
            "/strategy takes nothing: it colours tokens by strategy. A policy is set with /policy."
        )
    return _signal(conversation, STRATEGY)


def _named(
    what: str, known: Callable[[Conversation], Sequence[str]]
) -> Callable[[Conversation, str], Outcome]:
    """Makes the command that sets ``policy`` or ``preset`` to one of the known names."""

    def run(conversation: Conversation, argument: str) -> Outcome:
        names = known(conversation)
        if not argument:
            default = conversation.facts.default.get(what, "?")
            now = getattr(conversation.asked, what) or f"{default}, the server's"
            return Outcome(f"{what}: {now}. Known: {', '.join(names)}")
        setattr(conversation.asked, what, choose(what, argument, names))
        return Outcome(f"{what}: {argument}, from the next reply on")

    return run


def _branch(conversation: Conversation, argument: str) -> Outcome:
    asked = conversation.asked
    if not argument:
        return Outcome(
            f"branch: {_shown(asked.branch)}. /branch on, /branch width=3 depth=8, /branch off. "
            f"Fields: {', '.join(conversation.facts.branch)}"
        )
    if argument in OFF:
        # a budget of nothing also holds where the server has a default
        asked.branch = {"budget": 0} if conversation.facts.default.get("branch") else None
        return Outcome("branch: off, from the next reply on")
    asked.branch = {} if argument == "on" else fields("branch", argument, conversation.facts.branch)
    return Outcome(f"branch: {_shown(asked.branch)}, from the next reply on")


def _consensus(conversation: Conversation, argument: str) -> Outcome:
    asked = conversation.asked
    if not argument:
        return Outcome(
            f"consensus: {_shown(asked.consensus)}. /consensus extract=last_number k=5, /consensus off. "
            f"Fields: {', '.join(conversation.facts.consensus)}"
        )
    if argument in OFF:
        asked.consensus = False if conversation.facts.default.get("consensus") else None
        return Outcome("consensus: off, from the next reply on")
    asked.consensus = fields("consensus", argument, conversation.facts.consensus)
    return Outcome(f"consensus: {_shown(asked.consensus)}, from the next reply on")


def _answer(conversation: Conversation, argument: str) -> Outcome:
    asked = conversation.asked
    if not argument:
        known = ", ".join(conversation.facts.extractors)
        return Outcome(f"answer: {_shown(asked.answer)}. Where the answer stands in a reply: {known}, off")
    asked.answer = None if argument in OFF else choose("extractor", argument, conversation.facts.extractors)
    return Outcome(f"answer: {_shown(asked.answer)}, from the next reply on")


def _shown(value: Any) -> str:
    if value is None:
        return "the server's default"
    if value is False:
        return "off"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) if value else "on"


def _seed(conversation: Conversation, argument: str) -> Outcome:
    asked = conversation.asked
    if not argument:
        now = "the server's" if asked.seed is None else str(asked.seed)
        last = conversation.last.seed if conversation.last is not None else None
        told = "" if last is None else f"; the last reply had {last}"
        return Outcome(f"seed: {now}{told}")
    if argument in {"random", *OFF}:
        asked.seed = None
        return Outcome("seed: another one for each reply")
    if not re.fullmatch(r"-?\d{1,19}", argument) or not -_SEED_LIMIT <= int(argument) < _SEED_LIMIT:
        raise CommandError("/seed takes a whole number of 64 bits, or random")
    asked.seed = int(argument)
    return Outcome(f"seed: {argument}")


def _temperature(conversation: Conversation, argument: str) -> Outcome:
    asked = conversation.asked
    if argument in OFF:
        asked.temperature = None
    elif argument:
        try:
            value = float(argument)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 2:
            raise CommandError("/temperature takes a number from 0 to 2, or off")
        asked.temperature = value
    return Outcome(
        f"temperature: {'the server’s default' if asked.temperature is None else asked.temperature}"
    )


def _system(conversation: Conversation, argument: str) -> Outcome:
    asked = conversation.asked
    if argument:
        asked.system = None if argument in OFF else argument
    return Outcome(f"system: {'no message' if asked.system is None else asked.system}")


def _reset(conversation: Conversation, argument: str) -> Outcome:
    conversation.reset()
    return Outcome("The conversation is forgotten; settings stay.")


def _save(conversation: Conversation, argument: str) -> Outcome:
    if not argument:
        raise CommandError("/save takes the name of a file")
    count = conversation.save(Path(argument))
    return Outcome(f"{count} {'reply' if count == 1 else 'replies'} written to {argument}")


def _help(conversation: Conversation, argument: str) -> Outcome:
    shown = [command for command in COMMANDS.values() if conversation.facts.measures or not command.measured]
    width = max(len(command.usage) for command in shown)
    lines = [f"{command.usage:<{width}}  {command.help}" for command in shown]
    return Outcome(
        "\n".join([*lines, "Ctrl-C stops a reply, Ctrl-D leaves; // begins a message with a slash."])
    )


def _quit(conversation: Conversation, argument: str) -> Outcome:
    return Outcome(leave=True)


_TABLE: Final = (
    Command("signal", "/signal NAME", "colour tokens by a signal; none: plain", _signal, signal_names, True),
    Command("strategy", "/strategy", "colour tokens by what the policy did", _strategy, measured=True),
    Command(
        "policy",
        "/policy NAME",
        "who decides: entropix, fixed, or one formula",
        _named("policy", lambda c: c.facts.policies),
        lambda c: c.facts.policies,
        True,
    ),
    Command(
        "preset",
        "/preset NAME",
        "the policy's numbers: calibrated or seed",
        _named("preset", lambda c: c.facts.presets),
        lambda c: c.facts.presets,
        True,
    ),
    Command(
        "branch",
        "/branch on|off|width=4 ...",
        "at doubtful tokens roll out several ways on",
        _branch,
        lambda c: ["on", "off", *(f"{name}=" for name in c.facts.branch)],
        True,
    ),
    Command(
        "consensus",
        "/consensus extract=WAY ...|off",
        "draw several replies, return the vote's winner",
        _consensus,
        lambda c: ["off", *(f"{name}=" for name in c.facts.consensus)],
        True,
    ),
    Command(
        "answer",
        "/answer WAY|off",
        "where the answer stands, to estimate an error",
        _answer,
        lambda c: [*c.facts.extractors, "off"],
        True,
    ),
    Command("seed", "/seed NUMBER|random", "what draws begin with; alone: the last reply's", _seed),
    Command("temperature", "/temperature NUMBER|off", "0: always the most probable token", _temperature),
    Command("system", "/system TEXT|none", "the message before all others", _system),
    Command("reset", "/reset", "forget all messages", _reset),
    Command("save", "/save FILE", "write the conversation and its figures as JSON", _save),
    Command("help", "/help", "this list", _help),
    Command("quit", "/quit", "leave", _quit),
)
COMMANDS: Final = {command.name: command for command in _TABLE}
