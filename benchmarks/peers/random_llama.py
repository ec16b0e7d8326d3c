"""A Llama of 125 M parameters with random weights, float32, from a seed: speed needs no training.

Hidden 768, 12 layers, 12 query and 4 kv heads of 64, feed-forward 2048, 32000 tokens: those of the shipped
model's tokenizer, and fillers that no text is cut into.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SEED = 0
VOCABULARY = 32_000


def make(tokenizer: Path, target: Path) -> Path:
    """Write the model to a folder unless it is there; returns the folder."""
    if (target / "config.json").is_file():
        return target
    config = LlamaConfig(
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        vocab_size=VOCABULARY,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=3,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(config)
    part = target.with_suffix(".part")
    model.save_pretrained(part)
    words = json.loads((tokenizer / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    known = set(vocabulary.values())
    # "Ġ" is byte-level BPE's space
    vocabulary.update({f"Ġfill{i}": i for i in range(VOCABULARY) if i not in known})
    (part / "tokenizer.json").write_text(json.dumps(words, ensure_ascii=False))
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (part / name).write_text((tokenizer / name).read_text())
    part.rename(target)
    return target
