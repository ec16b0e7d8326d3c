"""transformers' continuous batching as a peer: greedy, its default attention on the CPU, tokens streamed."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from protocol import Load, Recorder, Run, serve
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

BLOCK = 256


class Continuous:
    name = f"transformers {transformers.__version__} continuous batching"

    def __init__(self, asked: Load) -> None:
        torch.set_num_threads(asked.threads)
        model: Any = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
        config = ContinuousBatchingConfig(
            block_size=BLOCK,
            num_blocks=asked.rows * (-(-asked.context // BLOCK) + 1),
            max_batch_tokens=max(512, asked.rows),
            max_requests_per_batch=asked.rows,
            allow_block_sharing=False,
        )
        generation = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        self.manager = model.init_continuous_batching(generation, config)
        self.manager.start()
        self.batches = 0

    def run(self, prompts: list[list[int]], tokens: int, greedy: bool) -> Run:
        self.batches += 1
        ids: list[list[int]] = [[] for _ in prompts]
        recorder = Recorder(len(prompts))
        for row, prompt in enumerate(prompts):
            self.manager.add_request(
                prompt, f"{self.batches}-{row}", max_new_tokens=tokens, streaming=True, eos_token_id=-1
            )
        going = len(prompts)
        while going:
            result = self.manager.get_result(timeout=60)
            if result is None or result.error is not None:
                raise RuntimeError(result.error if result else "no token for a minute")
            row = int(result.request_id.partition("-")[2])
            recorder.took([row] * (len(result.generated_tokens) - len(ids[row])))
            ids[row] = list(result.generated_tokens)
            going -= result.is_finished()
        return recorder.done(ids)


if __name__ == "__main__":
    serve(Continuous)
