"""Ctrl-C while a reply streams is not lost."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from entropick_server.terminal.interrupts import Interrupts, hear_interrupts


class Dropped:
    """An object in whose destructor the interrupt strikes, where Python drops the exception."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


def interrupted(interrupts: Interrupts) -> None:
    """Gets an interrupt whose exception arrives."""
    with interrupts.watched():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


def turned(interrupts: Interrupts, turns: list[int]) -> None:
    """Works in turns, and gets an interrupt whose exception is lost in the first."""
    with interrupts.watched():
        for turn in range(3):
            interrupts.check()
            turns.append(turn)
            if turn == 0:
                dropped = Dropped()
                del dropped


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_whose_exception_is_lost_stops_the_next_turn() -> None:
    turns: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        turned(Interrupts(), turns)
    assert turns == [0]


def test_the_handler_from_before_comes_back_and_the_flag_goes() -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupts = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        interrupted(interrupts)
    assert signal.getsignal(signal.SIGINT) is before
    assert interrupts.asked
    with interrupts.watched():
        interrupts.check()


def test_beside_the_main_thread_nothing_is_watched() -> None:
    ended: list[bool] = []

    def work() -> None:
        with Interrupts().watched():
            ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True]


def test_a_person_is_heard_where_interrupts_were_ignored() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        hear_interrupts()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ours = signal.signal(signal.SIGINT, lambda number, frame: None)
        kept = signal.getsignal(signal.SIGINT)
        hear_interrupts()
        assert ours is signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is kept
    finally:
        signal.signal(signal.SIGINT, before)
