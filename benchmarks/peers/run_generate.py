"""transformers ``generate`` as a peer: greedy, default attention, one batch of equal prompts."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from protocol import Load, Recorder, Run, serve
from transformers import AutoModelForCausalLM, StoppingCriteria


class Follow(StoppingCriteria):
    """Called when a step's tokens are there; never stops."""

    def __init__(self, recorder: Recorder, rows: int) -> None:
        self.recorder, self.rows = recorder, range(rows)
        self.never = torch.zeros(rows, dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self.recorder.took(self.rows)
        return self.never


class Generate:
    name = f"transformers {transformers.__version__} generate"

    def __init__(self, asked: Load) -> None:
        torch.set_num_threads(asked.threads)
        self.model: Any = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
        self.model.eval()

    def run(self, prompts: list[list[int]], tokens: int, greedy: bool) -> Run:
        recorder = Recorder(len(prompts))
        given = torch.tensor(prompts)
        with torch.inference_mode():
            made = self.model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                stopping_criteria=[Follow(recorder, len(prompts))],
            )
        return recorder.done(made[:, given.shape[1] :].tolist())


if __name__ == "__main__":
    serve(Generate)
