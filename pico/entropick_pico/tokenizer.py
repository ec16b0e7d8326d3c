"""The tokenizer: byte-level BPE with single digits, ChatML markers and the markers of a tool call.

``encode_talk`` turns conversations into token ids with a loss mask and the true distributions of labelled
positions.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from entropick_pico import grammar, template
from entropick_pico.grammar import world
from entropick_pico.grammar.tools import CALL, CALL_END, WEATHERS

PAD: Final = "<|pad|>"
END_OF_TEXT: Final = "<|endoftext|>"
START: Final = "<|im_start|>"
END: Final = "<|im_end|>"
VOCABULARY: Final = 2048
_SPLIT: Final = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _corpus(samples: int, seed: int) -> Iterator[str]:
    """Yields training text, then the words of choices often enough to become single tokens."""
    rng = random.Random(seed)
    for _ in range(samples):
        talk = grammar.conversation(rng, turns=1, with_tools=0.1)
        yield template.header([tool for example in talk for tool in example.tools]) or ""
        for example in talk:
            yield example.user
            yield example.assistant
    spaced = world.TOWNS + world.NAMES + world.COUNTRIES + world.COLORS + world.OBJECTS + world.ANIMALS
    spaced += world.PLACES + world.MOODS + world.SEASONS + world.COIN
    spaced += tuple("abcd") + WEATHERS
    bare = world.NAMES + tuple(item.capitalize() for item in world.COLORS + world.PLACES)
    bare += world.COLORS + world.OBJECTS + world.ANIMALS + world.PLACES
    plain = (*bare, *grammar.CLARIFY.split(), "system", "user", "assistant", "tool")
    for text in [*(" " + item for item in spaced), *plain]:
        for _ in range(300):
            yield text


def build(samples: int = 20000, seed: int = 7) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on the grammar."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END_OF_TEXT, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(samples, seed), trainer)
    # not special: they are part of what a client reads
    tokenizer.add_tokens([AddedToken(mark, normalized=False, special=False) for mark in (CALL, CALL_END)])
    wrap: Any = PreTrainedTokenizerFast
    fast: PreTrainedTokenizerFast = wrap(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        bos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
    fast.chat_template = template.CHAT
    settings: Any = fast
    settings.response_template = dict(template.RESPONSE)
    return fast


def load(folder: Path) -> PreTrainedTokenizerFast:
    """Loads the tokenizer saved in ``folder``."""
    loaded: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return loaded


@dataclass
class Row:
    """The token ids of one conversation, the positions that carry loss, and the labels.

    ``truths`` lists (index of the token that the label is about, token ids, their probabilities, label kind).
    """

    ids: list[int] = field(default_factory=list)
    loss: list[bool] = field(default_factory=list)
    truths: list[tuple[int, tuple[int, ...], tuple[float, ...], str]] = field(default_factory=list)


class Encoder:
    """An encoder of conversations, segment by segment, so forced text keeps a server's token boundaries."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Wraps the tokenizer ``tokenizer``."""
        self._backend: Any = tokenizer.backend_tokenizer
        self._end = self.ids(END)[0]
        self._first: dict[str, int] = {"": self._end}
        self._distributions: dict[int, tuple[Mapping[str, float], tuple[int, ...], tuple[float, ...]]] = {}

    def ids(self, text: str) -> list[int]:
        """Returns the token ids of ``text``."""
        encoded: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return encoded

    def distribution(self, alternatives: Mapping[str, float]) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Returns the true distribution over FIRST tokens: alternatives that share a token are merged."""
        cached = self._distributions.get(id(alternatives))
        if cached is not None and cached[0] is alternatives:
            return cached[1], cached[2]
        merged: dict[int, float] = {}
        for text, probability in alternatives.items():
            first = self._first.get(text)
            if first is None:
                first = self._first[text] = self.ids(text)[0]
            merged[first] = merged.get(first, 0.0) + probability
        ids, probabilities = tuple(merged), tuple(merged.values())
        # Only the large distributions are worth keeping; the grammar shares them, and makes small ones anew.
        if len(alternatives) > 16:
            self._distributions[id(alternatives)] = (alternatives, ids, probabilities)
        return ids, probabilities

    def encode_talk(self, talk: Sequence[grammar.Example], system: str | None = None) -> Row:
        """Encodes a conversation; loss falls on assistant tokens and on the marker that ends the turn."""
        row = Row()
        top = template.header([tool for example in talk for tool in example.tools], system)
        if top is not None:
            self._append(row, f"{START}system\n{top}{END}\n", False)
        for example in talk:
            self._append(row, f"{START}{example.role}\n{example.user}{END}\n{START}assistant\n", False)
            self._reply(row, example)
            self._append(row, END, True)
            self._append(row, "\n", False)
        return row

    def _append(self, row: Row, text: str, loss: bool) -> None:
        ids = self.ids(text)
        row.ids += ids
        row.loss += [loss] * len(ids)

    def _reply(self, row: Row, example: grammar.Example) -> None:
        text, start = example.assistant, 0
        labels = {choice.offset: choice for choice in example.choices}
        cuts = [(a, b, True) for a, b in example.forced] + [(len(text), len(text), False)]
        for begin, finish, _ in cuts:
            self._labelled(row, text, start, begin, labels)
            if finish > begin:
                self._append(row, text[begin:finish], False)
            start = finish
        ended = labels.get(len(text))
        if ended is not None:
            row.truths.append((len(row.ids), *self.distribution(ended.alternatives), ended.kind))

    def _labelled(
        self, row: Row, text: str, start: int, finish: int, labels: Mapping[int, grammar.Choice]
    ) -> None:
        if finish == start:
            return
        encoding = self._backend.encode(text[start:finish], add_special_tokens=False)
        for index, (begin, _) in enumerate(encoding.offsets):
            choice = labels.get(start + begin)
            if choice is not None:
                where = len(row.ids) + index
                row.truths.append((where, *self.distribution(choice.alternatives), choice.kind))
        row.ids += encoding.ids
        row.loss += [True] * len(encoding.ids)
