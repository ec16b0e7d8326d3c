"""A plain vLLM that is told of our logits processor and of nothing else; test_entry_point.py runs it.

``plain_llm.py FOLDER OUT``, with requests as JSON on standard input (a list of ``{"prompt": ids, "seed": n,
"tokens": n}``), writes to OUT what each said, what the processor measured where it runs in this process, and
which attention backend is registered.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any


def main(folder: str, out: str) -> None:
    # nothing of ours is imported before vLLM's worker runs: numba must not be
    from vllm import LLM, SamplingParams
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    llm = LLM(
        model=folder,
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        kv_cache_memory_bytes=1 << 26,
        distributed_executor_backend="uni",
        logits_processors=["entropick_server.engine.vllm.processor:EntropickProcessor"],
    )
    measured = "entropick_server.engine.vllm.attention.cpu" in sys.modules
    steps = watch()
    said = []
    for asked in json.load(sys.stdin):
        steps.clear()
        params = SamplingParams(
            seed=asked["seed"],
            max_tokens=asked["tokens"],
            ignore_eos=True,
            extra_args={"entropick": {"preset": "seed"}},
        )
        (output,) = llm.generate([{"prompt_token_ids": asked["prompt"]}], params, use_tqdm=False)
        said.append({"tokens": list(output.outputs[0].token_ids), "steps": [*steps]})
    told = {
        "said": said,
        "registered": AttentionBackendEnum.CPU_ATTN.get_path(),
        "measured": measured,
        "found": {e.name: e.value for e in entry_points(group="vllm.general_plugins")},
    }
    Path(out).write_text(json.dumps(told))


def watch() -> list[tuple[int, tuple[float | None, ...]]]:
    """Token and signals of every row that a processor in this process draws from now on."""
    from entropick_sampler.batch import SampledBatch
    from entropick_sampler.packed import unpack

    steps: list[tuple[int, tuple[float | None, ...]]] = []
    original = SampledBatch.step

    def step(self: SampledBatch, *args: Any, **kwargs: Any) -> Any:
        lines = original(self, *args, **kwargs)
        steps.extend((row.token, row.signals) for row in unpack(lines))
        return lines

    SampledBatch.step = step  # type: ignore[method-assign]
    return steps


if __name__ == "__main__":
    main(*sys.argv[1:])
