"""An engine with our parts comes and goes in this process; run by test_worker_context.py.

Prints as JSON what it measured and sent, and which of the objects that it held are still alive.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import weakref
from typing import Any

PROMPT = [1, *range(20, 40)]


def run(channel: str) -> tuple[dict[str, Any], list[weakref.ref[Any]]]:
    """Serves one request, and returns what came of it with weak references to the model and its layers."""
    # nothing of ours is imported before vLLM's worker runs: numba must not be
    from vllm import LLM, SamplingParams

    from entropick_pico import model_path

    llm = LLM(
        model=str(model_path()),
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        kv_cache_memory_bytes=1 << 26,
        distributed_executor_backend="uni",
        logits_processors=["entropick_server.engine.vllm.processor:EntropickProcessor"],
        worker_extension_cls="entropick_server.engine.vllm.worker_extension.WorkerExtension",
        additional_config={"entropick": {"layers": [0, 3]}},
    )
    (measured,) = llm.collective_rpc("entropick_open", args=(channel, None))
    from entropick_sampler import params
    from entropick_server.engine.vllm.wire import RowSpec

    spec = RowSpec(params.SamplingParams(seed=3), params.PolicyConfig(preset="seed", telemetry="full"), "k")
    sampling = SamplingParams(
        temperature=0.0, max_tokens=8, ignore_eos=True, extra_args={"entropick": spec.as_dict()}
    )
    (output,) = llm.generate([{"prompt_token_ids": PROMPT}], sampling, use_tqdm=False)
    (messages,) = llm.collective_rpc("entropick_take", args=("k",))
    llm.collective_rpc("entropick_close")
    runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
    layers = list(runner.compilation_config.static_forward_context.values())
    held = [weakref.ref(one) for one in (runner, runner.model, *layers)]
    # else a finalizer of vLLM's holds the engine until the process ends
    llm.llm_engine.engine_core.shutdown()
    del llm, runner, layers
    found = {"measured": measured, "tokens": len(output.outputs[0].token_ids), "messages": len(messages)}
    return found, held


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found, held = run(f"ipc://{folder}/c")
    import zmq

    sockets = [one for one in gc.get_objects() if isinstance(one, zmq.Socket) and one.type == zmq.PUSH]
    found["open"] = sum(not socket.closed for socket in sockets)
    gc.collect()
    found["alive"] = sum(one() is not None for one in held)
    found["contexts"] = len(sys.modules["entropick_server.engine.vllm.worker_context"]._contexts)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
