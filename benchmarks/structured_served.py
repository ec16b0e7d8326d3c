"""Structured output through servers: do replies under random schemas hold, on the engine that is asked for?

The schemas of benchmarks/structured.py (nested, enums, arrays, numbers, patterns, unicode, $ref), two choices
each at temperature 1, with and without branches, on the shipped model and on a model of its shape with random
weights, over HTTP: every reply that came to its end must validate. The servers run in processes of their own
on loopback, with the interpreter ``--python`` (vLLM has an environment of its own).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import httpx
import jsonschema
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from entropick_pico import model_path
from entropick_sampler.branch_config import BRANCH_STRATEGIES
from robustness.served import Served

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from random_schemas import SchemaMaker

CHOICES: Final = 2
PLAIN: Final[dict[str, Any]] = {"preset": "seed", "overrides": {"clarify_budget": 0}}
POLICIES: Final[dict[str, dict[str, Any]]] = {
    "one reply": PLAIN,
    "branches": {**PLAIN, "branch": {"width": 3, "depth": 5, "on": list(BRANCH_STRATEGIES), "budget": 4.0}},
}


def write_random_model(folder: Path) -> None:
    """Writes a model of pico's shape and tokenizer with random weights."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.15 if parameter.dim() > 1 else 0.02)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_path()).save_pretrained(folder)


async def answers(
    client: httpx.AsyncClient, schemas: list[Any], policy: dict[str, Any], tokens: int, at_once: int
) -> list[dict[str, Any]]:
    """Returns the answer to each schema, in order."""
    gate = asyncio.Semaphore(at_once)

    async def one(number: int) -> dict[str, Any]:
        body = {
            "prompt": f"{number}: a",
            "max_tokens": tokens,
            "temperature": 1.0,
            "seed": number,
            "n": CHOICES,
            "structured_outputs": {"json": schemas[number]},
            "entropick": policy,
        }
        async with gate:
            reply = await client.post("/v1/completions", json=body)
        if reply.status_code != 200:
            raise RuntimeError(f"schema {number}: {reply.status_code} {reply.text}")
        found: dict[str, Any] = reply.json()
        return found

    return list(await asyncio.gather(*(one(number) for number in range(len(schemas)))))


def judged(schemas: list[Any], replies: list[dict[str, Any]]) -> Counter[str]:
    """Returns how many choices ended and validate, and prints each that ended and does not."""
    found: Counter[str] = Counter()
    for number, reply in enumerate(replies):
        found["tokens"] += reply["usage"]["completion_tokens"]
        for choice in reply["choices"]:
            found["choices"] += 1
            if choice["finish_reason"] != "stop":
                continue
            found["ended"] += 1
            try:
                jsonschema.validate(
                    json.loads(choice["text"]), schemas[number], jsonschema.Draft202012Validator
                )
                found["valid"] += 1
            except (ValueError, jsonschema.ValidationError) as error:
                print(f"  {number}: {str(error).partition(chr(10))[0]} in {choice['text']!r}")
    return found


async def check(options: argparse.Namespace, model: str, name: str) -> bool:
    """Prints, for each policy, how many replies of a served model hold. Returns whether all that ended do."""
    command = [options.python, "-m", "entropick_server.cli", "serve", model, "--engine", options.engine]
    sound = True
    async with Served(command=command, changes=dict(options.set)) as served:
        url = f"http://127.0.0.1:{served.port}"
        async with httpx.AsyncClient(base_url=url, timeout=options.seconds) as client:
            for how, policy in POLICIES.items():
                maker = SchemaMaker(14)
                schemas = [maker.schema() for _ in range(options.schemas)]
                began = time.perf_counter()
                found = judged(
                    schemas, await answers(client, schemas, policy, options.tokens, options.at_once)
                )
                taken = time.perf_counter() - began
                print(
                    f"{options.engine:9s} {name:15s} {how:10s} {options.schemas:7d} {found['choices']:7d} "
                    f"{found['ended']:6d} {found['valid']:6d} {found['tokens']:8d} {taken:7.0f}",
                    flush=True,
                )
                sound = sound and found["ended"] == found["valid"] > 0
    return sound


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("torch", "vllm"), default="torch")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the servers")
    parser.add_argument("--schemas", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1800.0, help="that an answer may take")
    parser.add_argument(
        "--set", action="append", default=[], type=lambda text: text.split("=", 1), metavar="NAME=VALUE",
        help="a variable of the servers' environment",
    )  # fmt: skip
    options = parser.parse_args()
    print("engine    model           replies    schemas choices  ended  valid   tokens seconds")
    with tempfile.TemporaryDirectory() as folder:
        write_random_model(Path(folder))
        sound = await check(options, str(model_path()), "pico")
        sound = await check(options, folder, "random weights") and sound
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
