"""The conversation's loop: a line in, a reply out, until the end of the input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from rich.style import Style

from .alignment import Aligner, Stretch
from .commands import is_command, run_command, words
from .conversation import Conversation, Reply, verdict
from .interrupts import Interrupts, hear_interrupts
from .remote import ChatError, RemoteServer
from .scale import Scale, make_scale
from .screen import Screen
from .sparkline import sparkline

_PROMPT: Final = "> "
_ERROR: Final = Style(bold=True)
_LEAST_TOP: Final = 2.0
"""bits that the highest bar stands for at least, so that a sure reply looks like one"""


class Chat:
    """A conversation on a screen."""

    def __init__(
        self, server: RemoteServer, conversation: Conversation, screen: Screen, *, light: bool
    ) -> None:
        """Prepares the conversation; ``light``: whether the terminal's ground is light."""
        self._server = server
        self._conversation = conversation
        self._screen = screen
        self._light = light
        self._typed = sys.stdin.isatty()
        """whether a person types"""
        self._interrupts = Interrupts()
        self.failures = 0

    def run(self) -> None:
        """Greets, and answers line by line until the input ends."""
        if self._typed:
            hear_interrupts()
            self._greet()
        for line in self._lines():
            text = line.strip()
            if not text:
                continue
            try:
                if not is_command(text):
                    self._answer(text.removeprefix("/") if text.startswith("//") else text)
                elif self._command(text):
                    return
            except ChatError as error:
                self.failures += 1
                self._screen.note(str(error), _ERROR)

    def _greet(self) -> None:
        facts = self._conversation.facts
        self._screen.note(f"{facts.model} at {self._server.url}. /help lists the commands, Ctrl-D leaves.")
        if not facts.measures:
            self._screen.note(
                "This server tells nothing of its tokens (it is no entropick server): plain chat."
            )
        self._legend()

    def _legend(self) -> None:
        """Writes what the colours mean, where there are any."""
        scale = self._scale()
        if scale is not None:
            self._screen.note_pieces(scale.legend())

    def _scale(self) -> Scale | None:
        """Returns the scale of the colours; None where there are none."""
        facts = self._conversation.facts
        if not (self._screen.coloured and facts.measures):
            return None
        return make_scale(self._conversation.asked.colour, facts.quantiles, light=self._light)

    def _lines(self) -> Iterator[str]:
        """Yields the lines of the input; Ctrl-C at the prompt drops the line."""
        if not self._typed:
            yield from sys.stdin
            return
        self._complete()
        while True:
            try:
                yield self._ask()
            except EOFError:
                self._screen.note("")
                return
            except KeyboardInterrupt:
                self._screen.note("\nCtrl-D or /quit leaves.")

    def _ask(self) -> str:
        if self._screen.interactive:
            return input(_PROMPT)
        # replies go into a file: the prompt must not
        sys.stderr.write(_PROMPT)
        sys.stderr.flush()
        return input()

    def _complete(self) -> None:
        """Lets the tab key complete commands, where the line editor can."""
        try:
            import readline
        except ImportError:  # a Python without it: lines are edited as the terminal does
            return

        def complete(text: str, state: int) -> str | None:
            line = readline.get_line_buffer()
            found = words(line, self._conversation) if is_command(line) else []
            return found[state] if state < len(found) else None

        readline.set_completer(complete)
        readline.set_completer_delims(" ")
        readline.parse_and_bind("tab: complete")

    def _command(self, text: str) -> bool:
        """Runs a command; True where it ends the conversation."""
        outcome = run_command(text, self._conversation)
        if outcome.text:
            self._screen.note(outcome.text)
        if outcome.recolour:
            self._legend()
            if self._conversation.last is not None and self._screen.interactive:
                self._show_again(self._conversation.last)
        return outcome.leave

    def _show_again(self, reply: Reply) -> None:
        scale = self._scale()
        for stretch in reply.stretches:
            style = None if scale is None or stretch.row is None else scale.style(stretch.row)
            self._screen.write(stretch.text, style)
        self._screen.end_reply()

    def _answer(self, message: str) -> None:
        """Asks for a reply and shows it; Ctrl-C stops it, and what came stays in the conversation."""
        reply, stopped = Reply(), False
        try:
            with self._interrupts.watched():
                self._stream(message, reply)
        except KeyboardInterrupt:
            stopped = True
        finally:
            self._screen.end_reply()
            if reply.text:
                self._conversation.add(message, reply)
                self._conversation.last = reply
        if stopped:
            self._screen.note("Stopped." if reply.text else "Stopped before the first token; not kept.")
        self._sum_up(reply)

    def _stream(self, message: str, reply: Reply) -> None:
        scale, aligner, reasons = self._scale(), Aligner(), False
        for event in self._server.reply(self._conversation.body(message)):
            self._interrupts.check()
            if event.news:
                self._screen.status(event.news.removeprefix("choice 0: "))
            reply.rows += event.rows
            reply.summary = event.summary or reply.summary
            reply.finish_reason = event.finish_reason or reply.finish_reason
            stretches = aligner.push(event.reasoning or event.text, event.rows)
            if event.reasoning:
                stretches = [stretch._replace(reasoning=True) for stretch in stretches]
            elif reasons and event.text:
                stretches.insert(0, Stretch("\n\n", None, reasoning=True))
            reasons = bool(event.reasoning) or (reasons and not event.text)
            if event.finish_reason is not None or not self._conversation.facts.measures:
                stretches += aligner.finish()
            for stretch in stretches:
                reply.stretches.append(stretch)
                if stretch.reasoning and not self._screen.interactive:
                    continue  # a pipe gets the answers alone
                style = None if scale is None or stretch.row is None else scale.style(stretch.row)
                self._screen.write(stretch.text, style)

    def _sum_up(self, reply: Reply) -> None:
        """Writes the entropy as a line of bars, and the one number about the reply."""
        if not self._screen.interactive:
            return
        if reply.finish_reason == "length":
            self._screen.note("It was cut: max_tokens or the context is full.")
        if not (told := verdict(reply, self._conversation.facts)):
            return
        entropies = reply.entropies
        top = max(_LEAST_TOP, *(value for value in entropies if value is not None))
        if len(entropies) > 1:
            label = f"  entropy, 0 to {top:.1f} bits"
            bars = sparkline(entropies, top, self._screen.width - len(label) - 1, self._screen.bars)
            self._screen.note_pieces([(bars, None), (label, Style(dim=True))])
        self._screen.note(told, None)
