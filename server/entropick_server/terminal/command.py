"""The command line of ``entropick chat``."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from ..settings import SettingsError, load_settings
from .arguments import choose
from .chat import Chat
from .commands import run_command, signal_names
from .conversation import ENTROPY, Asked, Conversation
from .remote import ChatError, RemoteServer
from .screen import Screen

_EPILOG = """\
Lines from a pipe are answered one by one: entropick chat < questions.txt > answers.txt
Colours go away where NO_COLOR is set, TERM is dumb, or the output is no terminal.
"""


def run(argv: Sequence[str]) -> int:
    """Runs ``entropick chat`` with its arguments and returns the exit code."""
    args = _parser().parse_args(argv)
    screen = Screen()
    if isinstance(sys.stdin, io.TextIOWrapper):
        # bytes that are no text shall neither end the conversation nor reach a request as half a character
        sys.stdin.reconfigure(errors="replace")
    try:
        key = args.api_key or _configured_key()
        server = RemoteServer(args.url, key)
        try:
            return _talk(server, screen, args)
        finally:
            server.close()
    except (ChatError, SettingsError) as error:
        return _fail(screen, str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader of our output has gone; the interpreter must not try to write what is left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _configured_key() -> str | None:
    """Returns the key of the settings: a person who serves with ENTROPICK_API_KEY talks with it as well."""
    key = load_settings().api_key
    return None if key is None else key.get_secret_value()


def _talk(server: RemoteServer, screen: Screen, args: argparse.Namespace) -> int:
    facts = server.facts(args.model, screen.status)
    asked = Asked(
        seed=args.seed, temperature=args.temperature, max_tokens=args.max_tokens, system=args.system
    )
    conversation = Conversation(facts, asked)
    if facts.measures:
        asked.colour = choose("signal", args.signal, signal_names(conversation))
    for name in ("policy", "preset", "branch", "consensus", "answer"):
        if (value := getattr(args, name)) is not None:
            run_command(f"/{name} {value}", conversation)
    chat = Chat(server, conversation, screen, light=_is_light(args.background))
    chat.run()
    return 1 if chat.failures and not sys.stdin.isatty() else 0


def _is_light(asked: str | None) -> bool:
    """Tells whether the terminal's ground is light: as asked, else as the terminal says, else not.

    Some terminals set COLORFGBG to the numbers of their two colours; 7 and 15 are white.
    """
    if asked is not None:
        return asked == "light"
    return os.environ.get("COLORFGBG", "").rpartition(";")[2] in ("7", "15")


def _fail(screen: Screen, message: str) -> int:
    screen.end_reply()
    print(f"entropick: error: {message}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="entropick chat",
        description="Chat with a model in the terminal and see where it hesitates: tokens are coloured by a "
        "signal or by strategy. Works with any server of OpenAI's API; colours need an entropick server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("--url", default="http://127.0.0.1:8000", help="the server (default: %(default)s)")
    option("--api-key", metavar="KEY", help="its key; left out: ENTROPICK_API_KEY")
    option("--model", metavar="ID", help="the model to talk to; left out: the first that is served")
    option(
        "--signal",
        default=ENTROPY,
        metavar="NAME",
        help="what colours the tokens: a signal, strategy or none (default: %(default)s)",
    )
    option("--policy", metavar="NAME", help="the policy; left out: the server's")
    option("--preset", metavar="NAME", help="the preset; left out: the server's")
    option("--branch", metavar="FIELDS", help="branches: on, off, or fields such as 'width=3 depth=8'")
    option("--consensus", metavar="FIELDS", help="a vote: fields such as 'extract=last_number k=5', or off")
    option("--answer", metavar="WAY", help="where the answer stands in a reply, such as last_number")
    option("--seed", type=int, metavar="NUMBER", help="what draws begin with; left out: the server's")
    option("--temperature", type=float, metavar="NUMBER", help="0 to 2; left out: the policy's")
    option("--max-tokens", type=int, metavar="NUMBER", help="the longest reply; left out: the server's limit")
    option("--system", metavar="TEXT", help="the message before all others")
    option("--background", choices=("dark", "light"), help="the terminal's ground; left out: what it says")
    return parser
