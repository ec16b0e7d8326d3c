"""Models to hold `entropick inspect` against, and what its sections cost.

``shuffle MODEL OUT``: a copy of a folder in which the entries of every matrix of every layer are permuted at
random; embedding and norms stay. Scale, sparsity and shape of every matrix are kept, what training wrote into
their order is not. ``random OUT``: a Llama of 1.2 billion random numbers in bfloat16, a shard a layer and
never whole in memory, with the tokenizer of another model. ``cost MODEL``: each section in a process of its
own, its seconds and the most memory that it held.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import LlamaConfig

from entropick_lens.command import open_model
from entropick_lens.sections import SECTIONS

COPIED = ("*.json", "*.jinja", "*.txt", "*.model")
INDEX = "model.safetensors.index.json"


def shuffle(model: Path, out: Path, seed: int) -> int:
    """Writes the shuffled copy; returns how many matrices were shuffled."""
    out.mkdir(parents=True)
    for pattern in COPIED:
        for path in model.glob(pattern):
            # a profile and a report belong to the weights that they were made of
            if not path.name.startswith("entropick_"):
                shutil.copy(path, out)
    count = 0
    generator = torch.Generator().manual_seed(seed)
    for path in sorted(model.glob("*.safetensors")):
        tensors = {}
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                tensor = file.get_tensor(name)
                if ".layers." in name and tensor.dim() == 2:
                    order = torch.randperm(tensor.numel(), generator=generator)
                    tensor = tensor.flatten()[order].view(tensor.shape)
                    count += 1
                tensors[name] = tensor.contiguous()
        save_file(tensors, out / path.name, {"format": "pt"})
    return count


def shapes(config: LlamaConfig) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    """Yields the shards of a Llama and the shapes of their tensors."""
    d, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    yield "embedding", {"model.embed_tokens.weight": (config.vocab_size, d), "model.norm.weight": (d,)}
    for layer in range(config.num_hidden_layers):
        own = {
            "input_layernorm": (d,),
            "post_attention_layernorm": (d,),
            "self_attn.q_proj": (queries, d),
            "self_attn.k_proj": (keys, d),
            "self_attn.v_proj": (keys, d),
            "self_attn.o_proj": (d, queries),
            "mlp.gate_proj": (inner, d),
            "mlp.up_proj": (inner, d),
            "mlp.down_proj": (d, inner),
        }
        yield f"layer-{layer:03}", {f"model.layers.{layer}.{n}.weight": s for n, s in own.items()}


def random_model(out: Path, tokenizer: Path, layers: int, seed: int) -> int:
    """Writes the random model shard by shard; returns the count of its parameters."""
    out.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        if (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, out)
    # the sizes of Llama 3.2 1B
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    config.save_pretrained(out)
    generator = torch.Generator().manual_seed(seed)
    places, total = {}, 0
    for shard, tensors in shapes(config):
        made = {}
        for name, shape in tensors.items():
            if len(shape) == 1:
                made[name] = torch.ones(shape, dtype=torch.bfloat16)
            else:
                made[name] = (torch.randn(shape, generator=generator) * 0.02).bfloat16()
            places[name] = f"{shard}.safetensors"
            total += made[name].numel()
        save_file(made, out / f"{shard}.safetensors", {"format": "pt"})
    (out / INDEX).write_text(json.dumps({"metadata": {"total_size": 2 * total}, "weight_map": places}))
    return total


def cost(model: str, out: Path, options: list[str], names: list[str]) -> None:
    """Prints a row for each section: seconds, and the most memory that its process held."""
    print("| section | seconds | CPU seconds | peak memory, GB |\n|---|---:|---:|---:|")
    for name in names or [section.name for section in SECTIONS]:
        command = ["inspect", model, "--sections", name, "--out", str(out), "--quiet", *options]
        run = [
            sys.executable,
            "-c",
            "import sys; from entropick_server.cli import main; sys.exit(main())",
            *command,
        ]
        begin = time.perf_counter()
        child = subprocess.Popen(run, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begin
        if status:
            sys.exit(f"{name}: exit {os.waitstatus_to_exitcode(status)}")
        cpu = used.ru_utime + used.ru_stime
        print(f"| `{name}` | {seconds:.0f} | {cpu:.0f} | {used.ru_maxrss / 1e6:.2f} |", flush=True)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("shuffle")
    made.add_argument("model")
    made.add_argument("out", type=Path)
    made.add_argument("--seed", type=int, default=0)
    made = commands.add_parser("random")
    made.add_argument("out", type=Path)
    made.add_argument("--tokenizer", type=Path, required=True, help="a folder with a tokenizer")
    made.add_argument("--layers", type=int, default=16)
    made.add_argument("--seed", type=int, default=0)
    made = commands.add_parser("cost")
    made.add_argument("model")
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--sections", nargs="+", default=[], metavar="NAME")
    args, rest = parser.parse_known_args()
    if rest and args.command != "cost":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if args.command == "shuffle":
        print(f"{shuffle(open_model(args.model).folder, args.out, args.seed)} matrices shuffled")
    elif args.command == "random":
        print(f"{random_model(args.out, args.tokenizer, args.layers, args.seed):,} parameters")
    else:
        # sections that others need come first: they are read from the data that is there
        cost(args.model, args.out, rest, args.sections)


if __name__ == "__main__":
    main()
