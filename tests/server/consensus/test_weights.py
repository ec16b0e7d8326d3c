"""Votes of replies whose figures are written by hand, beside weights computed by hand."""

import math
from itertools import pairwise

import pytest

from entropick_server.answers import extractor, last_number, whole_text
from entropick_server.consensus.config import WeightConfig, WeightName
from entropick_server.consensus.weights import Figures, Vote, answer_tokens, reply_weight, vote

LN2 = math.log(2)
# text, log2 probability, entropy in bits
REPLY = (("It", -1.0, 2.0), (" is", -0.5, 1.0), (" 4", -0.25, 0.5), ("2.", -0.25, 0.25), ("", -1.0, 3.0))


def weighing(by: WeightName = "mean_logprob", scale: float = 3.0, cut: float = 0.05) -> WeightConfig:
    """Weights whose numbers do not depend on the defaults."""
    return WeightConfig(by, scale, cut)


def reply(parts: tuple[tuple[str, float, float], ...] = REPLY) -> tuple[str, list[Figures]]:
    text, tokens = "", []
    for part, bits, entropy in parts:
        tokens.append(Figures(bits * LN2, entropy, len(text)))
        text += part
    return text, tokens


def test_the_answer_and_its_surprisal() -> None:
    text, tokens = reply()
    cast = vote(text, tokens, True, last_number, weighing("none"))
    assert cast.answer == "42"
    assert (cast.weight, cast.ended) == (1.0, True)
    assert cast.answer_bits == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("config", "weight"),
    [
        (weighing("none"), 1.0),
        # the mean of -1, -.5, -.25, -.25, -1 is -.6
        (weighing("mean_logprob"), 2 ** (-3 * 0.6)),
        (weighing("mean_logprob", scale=1.0), 2**-0.6),
        (weighing("mean_logprob", scale=0.0), 1.0),
        # up to the answer's end: -1, -.5, -.25, -.25
        (weighing("answer_logprob"), 2 ** (-3 * 0.5)),
        # the last half of five tokens: .5, .25, 3
        (weighing("median_entropy"), 2 ** (-3 * 0.5)),
    ],
)
def test_weights(config: WeightConfig, weight: float) -> None:
    text, tokens = reply()
    assert vote(text, tokens, True, last_number, config).weight == pytest.approx(weight, rel=1e-14)
    cut = vote(text, tokens, False, last_number, config)
    assert cut == Vote("42", 0.05, False, cut.answer_bits)


def test_a_cut_reply_gets_no_more_than_it_had() -> None:
    text, tokens = reply()
    config = weighing("mean_logprob", cut=0.9)
    assert vote(text, tokens, False, last_number, config).weight == pytest.approx(2 ** (-3 * 0.6))


def test_a_reply_without_an_answer_abstains() -> None:
    text, tokens = reply((("No", -1.0, 1.0), (" idea", -1.0, 1.0)))
    assert vote(text, tokens, True, last_number, weighing()) == Vote(None, 0.0, True, math.inf)
    assert vote("", [], True, whole_text, weighing()).answer is None


def test_forced_tokens_were_not_chosen() -> None:
    text, tokens = reply()
    tokens[0] = tokens[0]._replace(forced=True, logprob=-50.0, entropy=9.0)
    # -.5, -.25, -.25, -1
    assert vote(text, tokens, True, last_number, weighing()).weight == pytest.approx(2 ** (-3 * 0.5))
    assert reply_weight(tokens[:1], 2, weighing(cut=0.25)) == 0.25


def test_figures_that_were_lost() -> None:
    text, tokens = reply()
    lost = [token._replace(logprob=math.nan, entropy=None) for token in tokens]
    for by in ("mean_logprob", "answer_logprob", "median_entropy"):
        cast = vote(text, lost, True, last_number, weighing(by))  # type: ignore[arg-type]
        assert cast.weight == 0.05
        assert cast.answer_bits == math.inf
    partly = [tokens[0], *lost[1:]]
    assert vote(text, partly, True, last_number, weighing()).weight == pytest.approx(2**-3)


def test_an_impossible_token_and_a_rounded_certain_one() -> None:
    text, tokens = reply((("42", -math.inf, 0.0),))
    assert vote(text, tokens, True, last_number, weighing()).weight == 0.0
    text, tokens = reply((("42", 1e-9, 0.0),))
    assert vote(text, tokens, True, last_number, weighing()).weight == 1.0


def test_the_tokens_of_an_answer() -> None:
    # "x é1": é is two tokens, of which the first has no text of its own yet
    tokens = [Figures(0.0, 0.0, at) for at in (0, 1, 2, 2, 3)]
    own = [[tokens.index(t) for t in answer_tokens(tokens, b, e, 4)] for b, e in pairwise((0, 1, 2, 3, 4))]
    assert own == [[0], [1], [2, 2], [4]]
    assert len(answer_tokens(tokens, 0, 4, 4)) == 5
    # the token that ends a reply has no text
    assert answer_tokens([*tokens, Figures(0.0, 0.0, 4)], 3, 4, 4) == [tokens[4]]


def test_an_answer_of_any_extractor_is_weighed_at_its_place() -> None:
    text, tokens = reply((('{"n": ', -4.0, 1.0), ("7", -0.25, 1.0), (', "m": 1}', -4.0, 1.0)))
    cast = vote(text, tokens, True, extractor({"json_path": "$.n"}), weighing("answer_logprob"))
    assert cast.answer == "7"
    assert cast.answer_bits == pytest.approx(0.25)
    assert cast.weight == pytest.approx(2 ** (-3 * 4.25 / 2))
