"""Small random models as GGUF files, and their logits in float64 by llama.cpp's conventions.

The float64 pass knows nothing of our conversion: it reads the file, dequantises its tensors and rotates as a
GGUF file is meant to be rotated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from entropick_server.engine.gguf_files.config import llama3_divisors
from entropick_server.engine.tokenizer import byte_map

HIDDEN, HEADS, KV_HEADS, LAYERS, FEED, VOCAB, CONTEXT = 256, 4, 2, 2, 256, 300, 128
"""a row of 256 numbers is one block of a K-quant"""
END, END_OF_TURN, BEGIN, PLAIN = 256, 257, 258, 259
"""ids of the tokens behind the 256 bytes; PLAIN is user-defined text"""
NAMES = {END: "<|end_of_text|>", END_OF_TURN: "<|im_end|>", BEGIN: "<|begin|>", PLAIN: "<think>"}
MERGES = ("Ġ Ġ", "Ġ a", "1 2", "12 3", "Ġ 1", "a b", "ĠĠ Ġ", "Ã ©")
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
K_SCALES: dict[Kind, dict[int, float]] = {
    Kind.Q2_K: {80: 4e-3, 82: 6e-3},
    Kind.Q3_K: {108: 1.3e-3},
    Kind.Q4_K: {0: 2e-4, 2: 1.5e-3},
    Kind.Q5_K: {0: 1e-4, 2: 1.5e-3},
    Kind.Q6_K: {208: 4e-5},
}
"""K-quant -> the numbers in half precision that a block holds: offset in bytes -> a sane value"""
UNREAD = Kind.IQ4_NL


def quantised(values: np.ndarray, kind: Kind, rng: np.random.Generator) -> np.ndarray:
    """Values in a type that gguf writes; for the types that it only reads random blocks of that shape."""
    if kind not in K_SCALES and kind != UNREAD:
        return gguf.quantize(values, kind)
    width, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (values.size // width, size), dtype=np.uint8)
    for at, scale in K_SCALES.get(kind, {}).items():
        halves = (scale * rng.uniform(0.5, 1.5, len(blocks))).astype(np.float16)
        blocks[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(values.shape[0], -1)


def write_model(
    path: Path,
    architecture: str = "llama",
    kind: Kind = Kind.F32,
    *,
    tied: bool = True,
    keys: dict[str, Any] | None = None,
    extra: dict[str, np.ndarray] | None = None,
    without: Sequence[str] = (),
    tokenizer: bool = True,
    head_dim: int = HIDDEN // HEADS,
    rope_factor: float | None = None,
    seed: int = 0,
) -> Path:
    """Writes a random model whose matrices are of type ``kind``.

    ``keys`` replaces or adds keys, None removes one; ``extra`` adds tensors, ``without`` leaves some out.
    ``rope_factor`` adds the divisors of Llama 3's rotary frequencies.
    """
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    numbers: dict[str, Any] = {
        f"{architecture}.context_length": CONTEXT,
        f"{architecture}.embedding_length": HIDDEN,
        f"{architecture}.block_count": LAYERS,
        f"{architecture}.feed_forward_length": FEED,
        f"{architecture}.attention.head_count": HEADS,
        f"{architecture}.attention.head_count_kv": KV_HEADS,
        f"{architecture}.attention.key_length": head_dim,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{architecture}.rope.freq_base": 10000.0,
    }
    if tokenizer:
        numbers |= byte_level_keys()
    for key, value in {**numbers, **(keys or {})}.items():
        add_key(writer, key, value)
    for name, shape in shapes(architecture, tied, head_dim).items():
        if name in without:
            continue
        scale = 1.0 if name.endswith("norm.weight") else 0.08
        values = (rng.normal(size=shape) * scale + (scale == 1.0)).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            data = quantised(values, kind, rng)
            writer.add_tensor(name, data, raw_dtype=kind)
    if rope_factor is not None:
        writer.add_tensor(
            "rope_freqs.weight", llama3_divisors(10000.0, head_dim, rope_factor).astype(np.float32)
        )
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case None:
            return
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def shapes(architecture: str, tied: bool, head_dim: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCAB, HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    if not tied:
        found["output.weight"] = (VOCAB, HIDDEN)
    wide, narrow = HEADS * head_dim, KV_HEADS * head_dim
    for layer in range(LAYERS):
        parts: dict[str, tuple[int, ...]] = {
            "attn_q.weight": (wide, HIDDEN),
            "attn_k.weight": (narrow, HIDDEN),
            "attn_v.weight": (narrow, HIDDEN),
            "attn_output.weight": (HIDDEN, wide),
            "ffn_gate.weight": (FEED, HIDDEN),
            "ffn_up.weight": (FEED, HIDDEN),
            "ffn_down.weight": (HIDDEN, FEED),
            "attn_norm.weight": (HIDDEN,),
            "ffn_norm.weight": (HIDDEN,),
        }
        if architecture == "qwen2":
            parts |= {"attn_q.bias": (wide,), "attn_k.bias": (narrow,), "attn_v.bias": (narrow,)}
        if architecture == "qwen3":
            parts |= {"attn_q_norm.weight": (head_dim,), "attn_k_norm.weight": (head_dim,)}
        found |= {f"blk.{layer}.{name}": shape for name, shape in parts.items()}
    return found


def byte_level_keys(pre: str = "gpt-2") -> dict[str, Any]:
    """Keys of a tokenizer of bytes, a few merges and special tokens."""
    tokens = [*sorted(byte_map(), key=lambda c: byte_map()[c]), *NAMES.values()]
    tokens += ["".join(merge.split(" ")) for merge in MERGES]
    tokens += [f"[unused{i}]" for i in range(len(tokens), VOCAB)]
    types = [gguf.TokenType.NORMAL] * len(tokens)
    for i, kind in {END: 3, END_OF_TURN: 3, BEGIN: 3, PLAIN: 4}.items():
        types[i] = gguf.TokenType(kind)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in types],
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": BEGIN,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.chat_template": TEMPLATE,
    }


def float64_logits(path: Path, ids: Sequence[int]) -> np.ndarray:
    """The logits of every position, [tokens, vocabulary]."""
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {t.name: t for t in reader.tensors}

    def weight(name: str) -> np.ndarray:
        # one at a time: a real model is large in float64
        values = gguf.dequantize(tensors[name].data, tensors[name].tensor_type)
        return np.asarray(values, dtype=np.float64)

    kind = keys["general.architecture"]
    heads = keys[f"{kind}.attention.head_count"]
    kv_heads = keys[f"{kind}.attention.head_count_kv"]
    width = keys.get(f"{kind}.attention.key_length", keys[f"{kind}.embedding_length"] // heads)
    epsilon = keys[f"{kind}.attention.layer_norm_rms_epsilon"]

    divisors = weight("rope_freqs.weight") if "rope_freqs.weight" in tensors else np.ones(width // 2)
    if keys.get(f"{kind}.rope.scaling.type") == "linear":
        divisors = divisors * keys[f"{kind}.rope.scaling.factor"]
    frequencies = keys[f"{kind}.rope.freq_base"] ** -(np.arange(0, width, 2) / width) / divisors
    angles = np.arange(len(ids))[:, None] * frequencies
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight(name)

    def rotate(x: np.ndarray) -> np.ndarray:
        # llama: neighbouring pairs; qwen: halves
        if kind == "llama":
            a, b = x[..., 0::2], x[..., 1::2]
            return np.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)
        a, b = np.split(x, 2, -1)
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

    x = weight("token_embd.weight")[list(ids)]
    future = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    for layer in range(keys[f"{kind}.block_count"]):
        block = f"blk.{layer}"

        def project(name: str, count: int, y: np.ndarray, block: str = block) -> np.ndarray:
            out = y @ weight(f"{block}.{name}.weight").T
            if f"{block}.{name}.bias" in tensors:
                out = out + weight(f"{block}.{name}.bias")
            out = out.reshape(len(ids), count, width)
            normed = f"{block}.{name}_norm.weight"
            return norm(out, normed) if normed in tensors else out

        y = norm(x, f"{block}.attn_norm.weight")
        query = rotate(project("attn_q", heads, y))
        key = np.repeat(rotate(project("attn_k", kv_heads, y)), heads // kv_heads, 1)
        value = np.repeat(project("attn_v", kv_heads, y), heads // kv_heads, 1)
        scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(width) + future
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), value)
        x = x + mixed.reshape(len(ids), -1) @ weight(f"{block}.attn_output.weight").T
        y = norm(x, f"{block}.ffn_norm.weight")
        gate = y @ weight(f"{block}.ffn_gate.weight").T
        up = y @ weight(f"{block}.ffn_up.weight").T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ weight(f"{block}.ffn_down.weight").T
    head = weight("output.weight" if "output.weight" in tensors else "token_embd.weight")
    return norm(x, "output_norm.weight") @ head.T
