"""The tokenizer of a GGUF file, built for Hugging Face: vocabulary, merges, pre-tokenizer, special tokens."""

from __future__ import annotations

from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import GenerationConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from .header import GgufFile

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
"""types of tokens that are matched whole in a text"""
_ENDS_OF_TURN: Final = frozenset({"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>"})
"""control tokens that end a reply, whatever the file names as its end: llama.cpp takes them so too"""
_SPACE: Final = "\u2581"
_LLAMA3: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2: Final = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_SPLITS: Final = {
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
}
"""pre-tokenizer -> the pattern that it cuts a text by"""
_WHOLE_WORDS: Final = frozenset({"llama-bpe", "llama3", "llama-v3"})
"""pre-tokenizers of models that take a word of the vocabulary before any merge, and begin a text with bos"""
PRE_TOKENIZERS: Final = ("gpt-2", "smollm", *_SPLITS)


def build_tokenizer(file: GgufFile) -> PreTrainedTokenizerBase:
    """Builds the tokenizer of a file, with its special tokens and its chat template.

    Raises ModelLoadError for a file without a tokenizer, and for a kind or a pre-tokenizer that is not known.
    """
    keys = file.keys
    kind, tokens = keys.get("tokenizer.ggml.model"), keys.get("tokenizer.ggml.tokens")
    if kind is None or kind == "no_vocab" or not tokens:
        raise file.error("it holds no tokenizer (tokenizer.ggml.model, tokenizer.ggml.tokens)")
    types = keys.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    try:
        if kind == "gpt2":
            tokenizer = _byte_level(file, tokens)
        elif kind == "llama":
            tokenizer = _sentencepiece(file, tokens)
        else:
            raise file.error(f"its tokenizer is of kind {kind!r} (known: gpt2, llama)")
        tokenizer.add_tokens(
            [_added(t, n) for t, n in zip(tokens, types, strict=True) if n in _added_types(kind)]
        )
        special = {
            name: tokens[keys[key]]
            for name, key in {
                "bos_token": "tokenizer.ggml.bos_token_id",
                "eos_token": "tokenizer.ggml.eos_token_id",
                "unk_token": "tokenizer.ggml.unknown_token_id",
                "pad_token": "tokenizer.ggml.padding_token_id",
            }.items()
            if key in keys
        }
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise file.error(f"its tokenizer cannot be built: {error}") from error
    _frame(tokenizer, file, special)
    build: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerBase = build(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, model_max_length=10**30, **special
    )
    if template := keys.get("tokenizer.chat_template"):
        made.chat_template = template
    return made


def _byte_level(file: GgufFile, tokens: list[str]) -> Tokenizer:
    """Builds a byte-level BPE, as GPT-2's, which Llama 3, Qwen and SmolLM use."""
    pre = file.keys.get("tokenizer.ggml.pre")
    if pre not in PRE_TOKENIZERS:
        raise file.error(
            f"its pre-tokenizer {pre!r} is not known (known: {', '.join(PRE_TOKENIZERS)}); a folder in "
            "Hugging Face format brings its own"
        )
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = []
    for merge in file.keys.get("tokenizer.ggml.merges") or ():
        left, _, right = merge.partition(" ")
        if not {left, right, left + right} <= vocab.keys():
            raise file.error(f"its merge {merge!r} is not of tokens that it has")
        merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre in _WHOLE_WORDS))
    if pre in _SPLITS:
        first: Any = pre_tokenizers.Split(Regex(_SPLITS[pre]), behavior="isolated")
        second = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, second])
        if _SPLITS[pre] is _QWEN2:
            tokenizer.normalizer = normalizers.NFC()
    else:
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words]) if pre == "smollm" else words
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(file: GgufFile, tokens: list[str]) -> Tokenizer:
    """Builds SentencePiece's BPE, as Llama 2's: merges by score, unknown characters as bytes."""
    vocab = {token: i for i, token in enumerate(tokens)}
    scores = dict(zip(tokens, file.keys["tokenizer.ggml.scores"], strict=True))
    unknown = tokens[file.keys.get("tokenizer.ggml.unknown_token_id", 0)]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=generate_merges(vocab, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces: list[Any] = [normalizers.Replace(" ", _SPACE)]
    strip = [decoders.Strip(" ", 1, 0)]
    if file.keys.get("tokenizer.ggml.add_space_prefix", True):
        spaces.insert(0, normalizers.Prepend(_SPACE))
    else:
        strip = []
    tokenizer.normalizer = normalizers.Sequence(spaces)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _added_types(kind: str) -> frozenset[int]:
    # the unknown token of a byte-level vocabulary is a control token where it is matched in a text at all
    return frozenset({_CONTROL, _USER_DEFINED} | ({_UNKNOWN} if kind == "llama" else set()))


def _added(token: str, kind: int) -> AddedToken:
    return AddedToken(token, normalized=False, special=kind != _USER_DEFINED)


def _frame(tokenizer: Tokenizer, file: GgufFile, special: dict[str, str]) -> None:
    """Puts the beginning and the end of a text around it, where the file says so."""
    keys = file.keys
    begins_by_default = (
        keys["tokenizer.ggml.model"] == "llama" or keys.get("tokenizer.ggml.pre") in _WHOLE_WORDS
    )
    frame = ["$A"]
    used = []
    if keys.get("tokenizer.ggml.add_bos_token", begins_by_default) and "bos_token" in special:
        frame.insert(0, special["bos_token"])
        used.append((special["bos_token"], keys["tokenizer.ggml.bos_token_id"]))
    if keys.get("tokenizer.ggml.add_eos_token", False) and "eos_token" in special:
        frame.append(special["eos_token"])
        used.append((special["eos_token"], keys["tokenizer.ggml.eos_token_id"]))
    if used:
        tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=used)


def generation_config(file: GgufFile) -> GenerationConfig:
    """Builds the generation config of a file: the tokens that end a reply, and the sampling it advises."""
    keys = file.keys
    named = [keys.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    types = keys.get("tokenizer.ggml.token_type") or ()
    tokens = keys["tokenizer.ggml.tokens"]
    turns = [i for i, kind in enumerate(types) if kind == _CONTROL and tokens[i] in _ENDS_OF_TURN]
    ends = list(dict.fromkeys(i for i in (*named, *turns) if i is not None))
    advised = {
        theirs: keys[f"general.sampling.{ours}"]
        for ours, theirs in {"temp": "temperature", "top_p": "top_p", "top_k": "top_k"}.items()
        if f"general.sampling.{ours}" in keys
    }
    build: Any = GenerationConfig
    made: GenerationConfig = build(
        bos_token_id=keys.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=ends or None,
        pad_token_id=keys.get("tokenizer.ggml.padding_token_id"),
        do_sample=bool(advised),
        **advised,
    )
    return made
