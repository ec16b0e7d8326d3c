"""GGUF files: their logits against float64, their tokenizer, and what is refused."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM, AutoTokenizer

from entropick_server.engine.base import ModelLoadError
from entropick_server.engine.embedded.core import EngineCore
from entropick_server.engine.embedded.loader import load_model
from entropick_server.engine.gguf_files.convert import CONVERTER, converted_folder, gguf_identity
from entropick_server.engine.source import Source, read_source
from entropick_server.engine.types import EngineOptions, Request

from .conftest import Room
from .gguf_models import (
    BEGIN,
    CONTEXT,
    END,
    END_OF_TURN,
    HIDDEN,
    K_SCALES,
    PLAIN,
    byte_level_keys,
    float64_logits,
    write_model,
)

PROMPT = tuple(b"What is the capital of France? It is")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "entropick"


def options(path: Path, **more: Any) -> EngineOptions:
    return EngineOptions(model=str(path), device="cpu", **more)


def source(path: Path) -> Source:
    return read_source(options(path))


def logits(path: Path, ids: tuple[int, ...] = PROMPT) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(
        source(path).folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        found: np.ndarray = model(torch.tensor([ids])).logits[0].double().numpy()
    return found


def compare(path: Path) -> None:
    expected = float64_logits(path, PROMPT)
    assert expected.std() > 0.3, "logits so flat that nothing could be seen"
    np.testing.assert_allclose(logits(path), expected, atol=1e-4, rtol=0)


WRITTEN = (Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1)


@pytest.mark.parametrize("kind", [*WRITTEN, *K_SCALES], ids=lambda kind: kind.name)
def test_the_logits_of_every_type_of_tensors(kind: Kind, tmp_path: Path) -> None:
    compare(write_model(tmp_path / "model.gguf", kind=kind))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_the_logits_of_every_architecture(architecture: str, tmp_path: Path) -> None:
    compare(write_model(tmp_path / "model.gguf", architecture, Kind.Q8_0, tied=False, head_dim=32))


def test_the_rotary_embedding_of_llama_3(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", rope_factor=8.0)
    compare(path)
    rope = json.loads((source(path).folder / "config.json").read_text())["rope_parameters"]
    assert (rope["rope_type"], rope["factor"]) == ("llama3", 8.0)
    plain = write_model(tmp_path / "plain.gguf")
    assert np.abs(float64_logits(plain, PROMPT) - float64_logits(path, PROMPT)).max() > 1e-3


def test_a_linear_rotary_embedding(tmp_path: Path) -> None:
    keys = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    compare(write_model(tmp_path / "model.gguf", keys=keys))


def test_half_precision_stays_as_it_is_on_the_disk(tmp_path: Path) -> None:
    sizes = {}
    for kind in (Kind.F32, Kind.F16, Kind.BF16):
        folder = source(write_model(tmp_path / f"{kind.name}.gguf", kind=kind)).folder
        sizes[kind] = (folder / "model.safetensors").stat().st_size
        dtype = {Kind.F32: "float32", Kind.F16: "float16", Kind.BF16: "bfloat16"}[kind]
        assert json.loads((folder / "config.json").read_text())["dtype"] == dtype
    assert sizes[Kind.F16] == pytest.approx(sizes[Kind.F32] / 2, rel=0.02)
    assert sizes[Kind.F16] == pytest.approx(sizes[Kind.BF16], rel=0.02)


def test_weights_in_several_files_are_the_same_model(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf")
    whole = source(path).folder
    parts = converted_folder(path, "another", tmp_path / "elsewhere", shard=300_000)
    assert len(list(parts.glob("*.safetensors"))) > 3
    one, two = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (whole, parts))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_engine_serves_a_file(tmp_path: Path, make_request: Callable[..., Request]) -> None:
    path = write_model(tmp_path / "tiny.Q8_0.gguf", kind=Kind.Q8_0)
    loaded = load_model(options(path))
    assert (loaded.info.name, loaded.info.source) == ("tiny.Q8_0", str(path))
    assert loaded.info.eos_token_ids == (END, END_OF_TURN)
    assert loaded.info.max_model_len == CONTEXT
    room = Room(EngineCore(loaded, options(path), None))
    request = make_request(PROMPT, temperature=0.0, max_tokens=6)
    room.add(request)
    room.finish()
    ids = list(PROMPT)
    for token in room.text(request.request_id):
        assert token == float64_logits(path, ids)[-1].argmax()
        ids.append(token)
    assert len(ids) > len(PROMPT) + 2
    assert load_model(options(path, served_model_name="mine")).info.name == "mine"


# -- identity, and conversion once ---------------------------------------------------------------------


def test_the_identity_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf")
    moved = tmp_path / "elsewhere" / "other.gguf"
    moved.parent.mkdir()
    moved.write_bytes(path.read_bytes())
    one, two = source(path), source(moved)
    assert (one.model_hash, one.folder) == (two.model_hash, two.folder)
    assert (one.name, two.name) == ("model", "other")
    assert source(write_model(tmp_path / "third.gguf", seed=1)).model_hash != one.model_hash


def test_the_identity_does_not_move_by_itself() -> None:
    """A shipped profile is found by it: another version of the conversion needs renewed profiles."""
    assert CONVERTER == 1
    assert gguf_identity("0" * 64).startswith("42b6137b622ea79d")


def test_a_file_is_converted_once(tmp_path: Path, cache: Path) -> None:
    path = write_model(tmp_path / "model.gguf")
    folder = source(path).folder
    assert folder.parent == cache / "converted"
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert source(path).folder == folder
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir() if not p.name.endswith(".lock")] == [folder.name]


def test_a_full_disk_is_known_before_anything_is_written(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "model.gguf")
    usage = type("Usage", (), {"free": 5_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(
        ModelLoadError, match=r"converting model\.gguf needs \d+ MB in .*, where 5 MB are free"
    ):
        source(path)
    assert not [p for p in (cache / "converted").iterdir() if not p.name.endswith(".lock")]


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelLoadError, match="XDG_CACHE_HOME names another folder"):
        source(write_model(tmp_path / "model.gguf"))


# -- the tokenizer -------------------------------------------------------------------------------------


def tokens(path: Path, text: str, **how: Any) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(source(path).folder)
    found: list[str] = tokenizer.convert_ids_to_tokens(tokenizer.encode(text, **how))
    return found


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "a  123", ["a", "Ġ", "Ġ", "123"]),
        ("smollm", "a  123", ["a", "ĠĠ", "1", "2", "3"]),
        ("llama-bpe", "a  1234", ["a", "Ġ", "Ġ", "123", "4"]),
        ("qwen2", "a  123", ["a", "Ġ", "Ġ", "1", "2", "3"]),
        ("gpt-2", "e\u0301", ["e", "Ì", "ģ"]),
        ("qwen2", "e\u0301", ["Ã©"]),
    ],
)
def test_pre_tokenizers(pre: str, text: str, expected: list[str], tmp_path: Path) -> None:
    keys = {"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": False}
    assert tokens(write_model(tmp_path / "model.gguf", keys=keys), text) == expected


def test_special_tokens_and_the_chat_template(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", keys={"tokenizer.ggml.add_bos_token": True})
    found = source(path).tokenizer
    text = "hi<|im_end|><think>[unused280]"
    ids = found.encode(text, add_special_tokens=True)
    assert ids[0] == BEGIN
    assert END_OF_TURN in ids
    assert PLAIN in ids
    assert 280 not in ids  # an unused token is no part of a text
    assert found.decode(ids[1:], skip_special_tokens=False) == text
    assert found.token_bytes(PLAIN) == b"<think>"
    assert found.token_bytes(END_OF_TURN) is None
    messages = [{"role": "user", "content": "hi"}]
    assert found.render_chat(messages, add_generation_prompt=True) == "user: hi<|im_end|>"
    assert BEGIN not in found.apply_chat_template(messages, add_generation_prompt=True)


@pytest.mark.parametrize(("pre", "given", "begins"), [("gpt-2", None, False), ("llama-bpe", None, True)])
def test_whether_a_text_begins_with_bos(pre: str, given: bool | None, begins: bool, tmp_path: Path) -> None:
    keys = {"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": given}
    found = tokens(write_model(tmp_path / "model.gguf", keys=keys), "hi")
    assert (found[0] == "<|begin|>") == begins


def test_advised_sampling_and_the_ends_of_a_reply(tmp_path: Path) -> None:
    keys = {
        "general.sampling.temp": 0.6,
        "general.sampling.top_k": 20,
        "tokenizer.ggml.eot_token_id": 300 - 1,
    }
    loaded = load_model(options(write_model(tmp_path / "model.gguf", keys=keys)))
    assert loaded.info.eos_token_ids == (END, 299, END_OF_TURN)
    defaults = loaded.info.defaults
    assert (round(defaults.temperature or 0, 3), defaults.top_k, defaults.top_p) == (0.6, 20, None)


def sentencepiece_keys() -> dict[str, Any]:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    types = [2, 3, 3] + [6] * 256
    words = ["▁", "a", "b", "c", "ab", "▁ab", "▁a", "bc"]
    pieces += words
    types += [1] * len(words)
    scores = [0.0] * 259 + [-9.0, -9.0, -9.0, -9.0, -2.0, -1.0, -3.0, -4.0]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": None,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def test_a_sentencepiece_vocabulary(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", keys=sentencepiece_keys())
    assert tokens(path, "abc  é</s>") == ["<s>", "▁ab", "c", "▁", "▁", "<0xC3>", "<0xA9>", "</s>"]
    found = source(path).tokenizer
    assert found.token_bytes(259 + 5) == b" ab"
    assert found.token_bytes(3 + 0xC3) == b"\xc3"
    bare = write_model(
        tmp_path / "bare.gguf", keys=sentencepiece_keys() | {"tokenizer.ggml.add_space_prefix": False}
    )
    assert tokens(bare, "abc", add_special_tokens=False) == ["ab", "c"]


# -- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"architecture": "falcon"}, r"architecture 'falcon' is not validated .*llama, qwen2, qwen3"),
        ({"kind": Kind.IQ4_NL}, r"quantisation type IQ4_NL is not read \(read: F32, F16, .*Q6_K\)"),
        ({"tokenizer": False}, "it holds no tokenizer"),
        ({"keys": {"tokenizer.ggml.model": "bert"}}, "its tokenizer is of kind 'bert'"),
        ({"keys": {"tokenizer.ggml.pre": "odd"}}, "its pre-tokenizer 'odd' is not known .*gpt-2, smollm"),
        ({"keys": {"tokenizer.ggml.pre": None}}, "its pre-tokenizer None is not known"),
        ({"keys": {"tokenizer.ggml.merges": ["x y"]}}, "its merge 'x y' is not of tokens that it has"),
        ({"keys": {"llama.expert_count": 8}}, r"its setting llama\.expert_count = 8 is not known"),
        ({"keys": {"llama.rope.scaling.type": "yarn"}}, "rope scaling 'yarn' is not known"),
        ({"keys": {"llama.rope.dimension_count": 32}}, r"rope\.dimension_count is not the heads' width 64"),
        ({"keys": {"llama.context_length": None}}, r"it does not say llama\.context_length"),
        ({"keys": {"llama.attention.head_count_kv": [2, 1]}}, r"head_count_kv is \[2, 1\]"),
        ({"keys": {"split.count": 3, "split.no": 1}}, "it is part 2 of 3 of a model; join them first"),
        ({"keys": {"general.type": "adapter"}}, "it holds no language model but 'adapter'"),
        ({"without": ["blk.1.ffn_up.weight"]}, r"it has no tensor blk\.1\.ffn_up\.weight"),
        ({"without": ["token_embd.weight"]}, r"it has no tensor token_embd\.weight"),
        ({"extra": {"blk.0.attn_q.bias": np.ones(HIDDEN, np.float32)}}, r"blk\.0\.attn_q\.bias has no place"),
        (
            {"keys": {"llama.feed_forward_length": 512}},
            r"ffn_gate\.weight has shape \[256, 256\], not \[512, 256\]",
        ),
        (
            {"extra": {"rope_freqs.weight": np.full(32, 2.0, np.float32)}},
            r"rope_freqs\.weight is not Llama 3's",
        ),
    ],
)
def test_what_cannot_be_loaded_says_why(
    how: dict[str, Any], message: str, tmp_path: Path, cache: Path
) -> None:
    path = write_model(tmp_path / "odd.gguf", **how)
    with pytest.raises(ModelLoadError, match=rf"odd\.gguf cannot be loaded: .*{message}"):
        source(path)
    assert not [p for p in (cache / "converted").iterdir() if not p.name.endswith(".lock")]


def test_more_tokens_than_rows(tmp_path: Path) -> None:
    keys = byte_level_keys()
    keys["tokenizer.ggml.tokens"] = [*keys["tokenizer.ggml.tokens"], "one more"]
    keys["tokenizer.ggml.token_type"] = [*keys["tokenizer.ggml.token_type"], 1]
    with pytest.raises(ModelLoadError, match="it has 301 tokens, its embedding 300 rows"):
        source(write_model(tmp_path / "model.gguf", keys=keys))


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_a_file_that_was_cut_off(share: float, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", kind=Kind.Q8_0)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(
        ModelLoadError, match=r"model\.gguf (is not a GGUF file|cannot be loaded: .* cut off)"
    ):
        source(path)


def test_a_quantisation_type_that_nobody_knows(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf")
    data = path.read_bytes()
    # of a tensor: name, dimensions, their sizes, type
    name = b"token_embd.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8
    path.write_bytes(data[:at] + struct.pack("<I", 999) + data[at + 4 :])
    with pytest.raises(
        ModelLoadError, match=r"model\.gguf cannot be loaded: quantisation type 999 is unknown"
    ):
        source(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    other = tmp_path / "notes.gguf"
    other.write_text("not a model")
    with pytest.raises(ModelLoadError, match=r"notes\.gguf is not a GGUF file: it begins with b'not '"):
        source(other)
    with pytest.raises(ModelLoadError, match=r"missing\.gguf: no such folder or file"):
        read_source(EngineOptions(model="missing.gguf", device="cpu"))
