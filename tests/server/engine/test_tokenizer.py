"""Bytes of single tokens against what the whole tokenizer decodes."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from entropick_server.detokenizer import Detokenizer
from entropick_server.engine.tokenizer import FastTokenizer, byte_map

TEXTS = (
    "Hello world",
    " leading and  double spaces ",
    "naïve café — 日本語 🙂🙂",
    "tabs\tand\nnewlines\r\n",
    "a<0x41>b ▁ literal",
    "",
)
CORPUS = ["hello world this is a café", "spaces  double  and more words for merges", "日本 naïve"] * 8


def byte_level() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def sentencepiece_like(style: str) -> Tokenizer:
    """Byte-fallback BPE: Llama 2's chain of decoders, Gemma's, or a Metaspace decoder."""
    trained = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    special = ["<unk>", *(f"<0x{b:02X}>" for b in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(m) for m in model["merges"]]
    backend = Tokenizer(models.BPE(model["vocab"], merges, byte_fallback=True, unk_token="<unk>"))
    fuse = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    match style:
        case "llama":
            backend.normalizer = normalizers.Sequence(
                [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            )
            backend.decoder = decoders.Sequence([*fuse, decoders.Strip(" ", 1, 0)])
        case "gemma":
            backend.normalizer = normalizers.Replace(" ", "▁")
            backend.decoder = decoders.Sequence(fuse)
        case "metaspace":
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
            backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return backend


def wrap(backend: Tokenizer, **more: Any) -> FastTokenizer:
    return FastTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", **more))


BACKENDS = {
    "byte_level": byte_level,
    "llama": lambda: sentencepiece_like("llama"),
    "gemma": lambda: sentencepiece_like("gemma"),
    "metaspace": lambda: sentencepiece_like("metaspace"),
}


def test_the_byte_map_is_a_bijection() -> None:
    assert sorted(byte_map().values()) == list(range(256))
    assert set(byte_map()) == set(pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_a_reply_are_its_text(name: str, text: str) -> None:
    tokenizer = wrap(BACKENDS[name]())
    prompt = tokenizer.encode("hello", add_special_tokens=False)
    reply = tokenizer.encode(text, add_special_tokens=False)
    before = tokenizer.decode(prompt, skip_special_tokens=True)
    both = tokenizer.decode(prompt + reply, skip_special_tokens=True)
    parts = [tokenizer.token_bytes(i) for i in reply]
    assert None not in parts
    assert b"".join(p for p in parts if p is not None).decode("utf-8", "replace") == both[len(before) :]


@pytest.mark.parametrize("name", BACKENDS)
def test_special_tokens_have_no_bytes_and_added_text_has(name: str) -> None:
    backend = BACKENDS[name]()
    backend.add_tokens([AddedToken("<tool call>", special=False, normalized=False)])
    tokenizer = wrap(backend)
    (added,) = tokenizer.encode("<tool call>", add_special_tokens=False)[-1:]
    (end,) = tokenizer.encode("<eos>", add_special_tokens=False)[-1:]
    assert tokenizer.token_bytes(added) == b"<tool call>"
    assert tokenizer.token_bytes(end) is None
    assert tokenizer.token_bytes(10_000) is None
    assert tokenizer.token_bytes(-1) is None


def test_other_decoders_are_read_in_context() -> None:
    vocab = {"[UNK]": 0, "hello": 1, "##s": 2, "world": 3}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    tokenizer = wrap(backend)
    assert tokenizer.token_bytes(3) == b" world"


def test_chat_templates() -> None:
    turns = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    template = turns + "{% if add_generation_prompt %}>{% endif %}"
    tokenizer = wrap(byte_level(), chat_template=template)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hé"}], add_generation_prompt=True)
    assert tokenizer.decode(ids, skip_special_tokens=False) == "[user]hé>"
    with pytest.raises(ValueError, match="no chat template"):
        wrap(byte_level()).apply_chat_template([], add_generation_prompt=True)


def test_a_message_that_is_continued() -> None:
    """The prompt ends with the message's text, with its blanks where the template keeps them."""
    turns = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>{% endfor %}"
    trimmed = turns.replace("m.content", "m.content | trim")
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "so I "}]
    for template, wanted in (
        (turns, "[user]hi<end>[assistant]so I "),
        (trimmed, "[user]hi<end>[assistant]so I"),
    ):
        tokenizer = wrap(byte_level(), chat_template=template)
        text = tokenizer.render_chat(messages, add_generation_prompt=False, continue_final_message=True)
        assert text == wanted
    silent = wrap(byte_level(), chat_template="{{ messages[0].content }}")
    with pytest.raises(ValueError, match="final message does not appear"):
        silent.render_chat(messages, add_generation_prompt=False, continue_final_message=True)


def test_what_a_template_refuses() -> None:
    tokenizer = wrap(byte_level(), chat_template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match="refuses these messages: roles must alternate"):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], add_generation_prompt=True)


def test_a_template_cannot_leave_the_sandbox() -> None:
    tokenizer = wrap(byte_level(), chat_template="{{ ''.__class__.__mro__ }}")
    with pytest.raises(ValueError, match="chat template"):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], add_generation_prompt=True)


def test_added_tokens_are_their_text() -> None:
    """Characters of theirs stand for bytes in a vocabulary of bytes, but not in them."""
    backend = byte_level()
    added = ("naïve", "£5", "日本", "<tool>")
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in added])
    tokenizer = wrap(backend)
    for text in added:
        ids = tokenizer.encode(f"a {text}é!", add_special_tokens=False)
        assert b"".join(tokenizer.token_bytes(i) or b"" for i in ids).decode() == f"a {text}é!"
        assert tokenizer.decode(ids, skip_special_tokens=True) == f"a {text}é!"
    (end,) = tokenizer.encode("<eos>", add_special_tokens=False)
    ids = [*tokenizer.encode("£5", add_special_tokens=False), end]
    assert tokenizer.decode(ids, skip_special_tokens=False) == "£5<eos>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "£5"


WORDS = [
    "do",
    "n't",
    "hello",
    "##s",
    "world",
    ".",
    ",",
    "'",
    "s",
    "m",
    "x</w>",
    "y</w>",
    "a",
    "|",
    "<pad>",
    "é",
]
ODD: dict[str, Any] = {
    "none": None,
    "wordpiece": decoders.WordPiece(),
    "ctc": decoders.CTC(),
    "bpe suffix": decoders.BPEDecoder(),
    "strip": decoders.Strip("s", 1, 0),
    "replace": decoders.Sequence([decoders.Replace("o", "0"), decoders.Fuse()]),
    "metaspace of another mark": decoders.Metaspace("|"),
    "bytes and more": decoders.Sequence([decoders.ByteLevel(), decoders.Replace("a", "b")]),
    "fallback and more": decoders.Sequence([decoders.ByteFallback(), decoders.Strip(" ", 0, 1)]),
}


@pytest.mark.parametrize("name", ODD)
def test_the_text_of_a_reply_is_that_of_decoding_the_whole(name: str) -> None:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="é"))
    if ODD[name] is not None:
        backend.decoder = ODD[name]
    tokenizer = wrap(backend)
    rng = random.Random(3)
    for _ in range(60):
        prompt = [rng.randrange(len(WORDS)) for _ in range(rng.randrange(4))]
        reply = [rng.randrange(len(WORDS)) for _ in range(rng.randrange(1, 30))]
        grown = tokenizer.reply_text(prompt, skip_special_tokens=True)
        assert grown is not None
        detokenizer = Detokenizer(grown.push, rest=grown.finish)
        parts = [detokenizer.push(i).text for i in reply]
        early = "".join(parts)
        last = detokenizer.finish()
        whole = tokenizer.decode(prompt + reply, skip_special_tokens=True)
        before = tokenizer.decode(prompt, skip_special_tokens=True)
        assert early + last.text == whole[len(before) :]
        assert early or len(reply) < 12


@pytest.mark.parametrize("name", BACKENDS)
def test_tokens_with_bytes_of_their_own_need_no_neighbours(name: str) -> None:
    assert wrap(BACKENDS[name]()).reply_text([1], skip_special_tokens=True) is None
