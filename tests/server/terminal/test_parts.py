"""Escaping, scales, bars, and which text belongs to which token."""

from __future__ import annotations

import io
import unicodedata
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.color import ColorSystem

from entropick_sampler.signals import SIGNALS
from entropick_sampler.strategy import Strategy
from entropick_server.terminal.alignment import Aligner
from entropick_server.terminal.escaping import one_line, printable
from entropick_server.terminal.scale import SignalScale, StrategyScale, ground, make_scale
from entropick_server.terminal.screen import Screen
from entropick_server.terminal.sparkline import ASCII_BARS, BARS, sparkline

# -- escaping ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("Grüße 🙂 北京 👩‍🚀", "Grüße 🙂 北京 👩‍🚀"),
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("\x1b]52;c;cm0=\x07", "␛]52;c;cm0=␇"),
        ("\x9b31m", "\\x9b31m"),
        ("over\rwrite\x08\x7f", "over␍write␈␡"),
        ("\u202etxt.exe\u2066", "\\u202etxt.exe\\u2066"),
        ("\ufeff\u200b\u2028", "\\ufeff\\u200b\\u2028"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
        ("\x00", "␀"),
    ],
)
def test_nothing_that_a_terminal_obeys_comes_through(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_what_is_shown_can_be_shown_again_and_has_no_control(text: str) -> None:
    shown = printable(text)
    assert printable(shown) == shown
    assert {c for c in shown if unicodedata.category(c) in ("Cc", "Cs")} <= {"\n", "\t"}
    assert not {
        c for c in shown if unicodedata.bidirectional(c) in ("RLO", "LRO", "RLI", "LRI", "FSI", "PDI")
    }


def test_one_line_is_one_and_short() -> None:
    assert one_line("a\n\x1b[2J b") == "a ␛[2J b"
    assert one_line("x" * 400, 10) == "x" * 9 + "…"


# -- bars ----------------------------------------------------------------------------------------------


def test_a_bar_for_each_value() -> None:
    assert sparkline([0.0, 0.1, 0.5, 1.0], 1.0, 10) == "▁▁▄█"
    assert sparkline([k / 8 for k in range(1, 9)], 1.0, 10) == BARS
    assert sparkline([0.0, 1.0], 1.0, 10, ASCII_BARS) == "_#"


def test_more_than_the_top_and_less_than_nothing_stay_in_the_line() -> None:
    assert sparkline([-1.0, 7.0, None, float("nan")], 1.0, 10) == "▁█  "


@given(st.lists(st.floats(0, 10), min_size=1, max_size=300), st.integers(1, 40))
def test_a_narrow_line_shows_the_largest_of_its_neighbours(values: list[float], width: int) -> None:
    line = sparkline(values, 10.0, width)
    assert len(line) == min(width, len(values))
    # no peak is lost
    highest = sparkline([max(values)], 10.0, 1)
    assert max(line, key=BARS.index) == highest


def test_no_line_without_room_or_measure() -> None:
    assert sparkline([1.0], 1.0, 0) == sparkline([], 1.0, 5) == sparkline([1.0], 0.0, 5) == ""


# -- scales --------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(style: Any) -> float:
    two = sorted((luminance(style.color.name), luminance(style.bgcolor.name)), reverse=True)
    return (two[0] + 0.05) / (two[1] + 0.05)


@pytest.mark.parametrize("light", [False, True])
def test_steps_grow_evenly_in_lightness_and_can_be_read(light: bool) -> None:
    scale = make_scale("logits_entropy", {}, light=light)
    assert isinstance(scale, SignalScale)
    assert all(contrast(style) >= 4.5 for style in scale.styles)
    tones = [luminance(style.bgcolor.name) for style in scale.styles if style.bgcolor is not None]
    assert len(tones) == 4
    # the largest value differs most from the terminal's ground, without help of the hue
    assert tones == sorted(tones, reverse=light)
    assert all(abs(a - b) > 0.04 for a, b in pairwise(tones))


@pytest.mark.parametrize("system", [ColorSystem.TRUECOLOR, ColorSystem.EIGHT_BIT])
def test_steps_stay_apart_in_a_terminal_with_fewer_colours(system: ColorSystem) -> None:
    for light in (False, True):
        scale = make_scale("logits_entropy", {}, light=light)
        assert isinstance(scale, SignalScale)
        assert len({style.render("x", color_system=system) for style in scale.styles}) == 4
    strategies = make_scale("strategy", {}, light=False)
    assert isinstance(strategies, StrategyScale)
    assert len({s.render("x", color_system=system) for s in strategies.styles.values() if s}) == 4


def test_a_value_has_the_style_of_its_step() -> None:
    scale = make_scale("logits_entropy", {}, light=False)
    assert isinstance(scale, SignalScale)
    for value, step in [
        (0.0, None),
        (0.499, None),
        (0.5, 0),
        (1.9, 0),
        (2.0, 1),
        (4.0, 2),
        (6.0, 3),
        (16, 3),
    ]:
        wanted = None if step is None else scale.styles[step]
        assert scale.style({"signals": {"logits_entropy": value}}) == wanted, value
    for unmeasured in ({}, {"signals": {}}, {"signals": None}, {"signals": {"logits_entropy": None}}):
        assert scale.style(unmeasured) is None
    legend = "".join(text for text, _ in scale.legend())
    assert "logits_entropy (bits)" in legend
    assert "plain below 0.5" in legend
    assert "0.5 to 2" in legend
    assert "6 and more" in legend


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda s: s.name)
def test_every_signal_has_a_scale(signal: Any) -> None:
    for profile in ({}, {signal.name: [float(q) for q in range(9)]}):
        scale = make_scale(signal.name, profile, light=False)
        assert isinstance(scale, SignalScale)
        assert len(set(scale.cuts)) == 4
        assert list(scale.cuts) == sorted(scale.cuts)
        if profile and signal.group == "attention":
            assert scale.cuts == (4.0, 5.0, 6.0, 8.0)


def test_every_strategy_has_a_place() -> None:
    scale = make_scale("strategy", {}, light=False)
    assert isinstance(scale, StrategyScale)
    assert set(scale.styles) == {strategy.label for strategy in Strategy}
    assert all(contrast(style) >= 4.5 for style in scale.styles.values() if style)
    assert scale.style({"strategy": None}) is None
    assert scale.style({"strategy": "unheard of"}) is None
    forced = scale.style({"strategy": "clarify", "forced": True})
    assert forced is not None
    assert forced.underline


def test_none_has_no_scale() -> None:
    assert make_scale("none", {}, light=False) is None


def test_letters_are_black_or_white_by_contrast() -> None:
    assert ground("#ffffff").color == ground("#fee838").color
    assert ground("#000000").color == ground("#00224e").color != ground("#ffffff").color


# -- which text is whose -------------------------------------------------------------------------------


def row(token: str, **fields: Any) -> dict[str, Any]:
    return {"token": token, **fields}


def owners(*chunks: tuple[str, list[dict[str, Any]]]) -> list[tuple[str, str | None]]:
    aligner = Aligner()
    stretches = [stretch for text, rows in chunks for stretch in aligner.push(text, rows)] + aligner.finish()
    return [(s.text, None if s.row is None else s.row["token"]) for s in stretches]


def test_a_chunk_of_several_tokens() -> None:
    rows = [row("The"), row(" sea"), row("."), row("<eos>", eos=True)]
    assert owners(("The sea.", rows)) == [("The", "The"), (" sea", " sea"), (".", ".")]


def test_text_waits_for_its_row() -> None:
    got = owners(("Hel", []), ("lo wo", [row("Hello")]), ("rld", [row(" world")]))
    assert got == [("Hello", "Hello"), (" world", " world")]


def test_a_character_of_several_tokens_is_one_stretch() -> None:
    smile = [row(f"bytes:\\x{byte:02x}") for byte in "🙂".encode()]
    assert owners(("ab🙂c", [row("ab"), *smile, row("c")])) == [
        ("ab", "ab"),
        ("🙂", "bytes:\\x82"),
        ("c", "c"),
    ]


def test_text_that_is_not_as_its_labels_goes_to_the_last_row() -> None:
    assert owners(("\ufffd!", [row("bytes:\\xff"), row("!")])) == [("\ufffd!", "!")]
    assert owners(("x", [row("<|special|>"), row("x")])) == [("x", "x")]
    assert owners(("Paris", [row(" Paris")])) == [("Paris", " Paris")]
    assert owners((" Paris", [row(" Paris")])) == [(" Paris", " Paris")]


def test_what_has_no_row_comes_at_the_end() -> None:
    assert owners(("abc", [])) == [("abc", None)]


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5), max_size=12),
    st.data(),
)
def test_text_is_never_lost_nor_put_in_another_order(tokens: list[str], data: st.DataObject) -> None:
    text = "".join(tokens)
    released = data.draw(st.lists(st.integers(0, len(text)), max_size=5).map(sorted))
    aligner, begin, handed, got = Aligner(), 0, 0, ""
    ends = [len("".join(tokens[: n + 1])) for n in range(len(tokens))]
    for end in [*released, len(text)]:
        done = sum(at <= end for at in ends)
        rows = [row(token) for token in tokens[handed:done]]
        got += "".join(stretch.text for stretch in aligner.push(text[begin:end], rows))
        begin, handed = end, done
    assert got + "".join(stretch.text for stretch in aligner.finish()) == text


# -- the screen ----------------------------------------------------------------------------------------


class Stream(io.StringIO):
    def __init__(self, tty: bool, encoding: str = "utf-8") -> None:
        super().__init__()
        self._tty, self._encoding = tty, encoding

    def isatty(self) -> bool:
        return self._tty

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


@pytest.fixture(autouse=True)
def _a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")


def test_a_coloured_ground_ends_with_its_line() -> None:
    out = Stream(tty=True)
    Screen(out, out).write("a\nb", ground("#fee838"))
    assert (
        out.getvalue() == "\x1b[38;2;0;0;0;48;2;254;232;56ma\x1b[0m\n\x1b[38;2;0;0;0;48;2;254;232;56mb\x1b[0m"
    )


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "unknown")])
def test_plain_where_colours_are_not_wanted(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    out = Stream(tty=True)
    screen = Screen(out, out)
    screen.write("a", ground("#fee838"))
    screen.note("b")
    assert not screen.coloured
    assert out.getvalue() == "ab\n"


def test_a_file_gets_the_reply_alone() -> None:
    out, errors = Stream(tty=False), Stream(tty=False)
    screen = Screen(out, errors)
    screen.status("waiting")
    screen.write("a", ground("#fee838"))
    screen.end_reply()
    screen.note("b")
    assert (out.getvalue(), errors.getvalue()) == ("a\n", "b\n")


def test_a_status_goes_away_with_what_comes_next() -> None:
    out = Stream(tty=True)
    screen = Screen(out, out)
    screen.status("2 of 3")
    screen.status("2 of 3")
    screen.write("a")
    assert out.getvalue() == "\r\x1b[K\x1b[2m2 of 3\x1b[0m\r\x1b[Ka"


def test_an_old_encoding_does_not_end_the_conversation() -> None:
    out = Stream(tty=True, encoding="ascii")
    screen = Screen(out, out)
    assert screen.bars == ASCII_BARS
    screen.write("é 🙂\x1b")
    assert out.getvalue() == "\\xe9 \\U0001f642\\u241b"
