"""llama.cpp as a peer, through its C interface: one ``llama_decode`` for all rows a step, float32 throughout.

Tokens are picked by argmax over the logits of all rows (numpy).
"""

from __future__ import annotations

import ctypes
from importlib.metadata import version

import llama_cpp as ll
import numpy as np
from protocol import Load, Recorder, Run, serve

GGML_TYPE_F32 = 0


class Llama:
    def __init__(self, asked: Load) -> None:
        ll.llama_backend_init()
        params = ll.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = ll.llama_model_load_from_file(asked.gguf.encode(), params)
        if not self.model:
            raise RuntimeError(f"{asked.gguf} was not loaded")
        options = ll.llama_context_default_params()
        options.n_seq_max = asked.rows
        options.n_ctx = asked.rows * -(-asked.context // 256) * 256
        options.n_batch = max(asked.chunk, asked.rows)
        options.n_threads = options.n_threads_batch = asked.threads
        options.type_k = options.type_v = GGML_TYPE_F32
        # slower on a CPU, at one row and at 16
        options.flash_attn_type = ll.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.no_perf = True
        self.context = ll.llama_init_from_model(self.model, options)
        if not self.context:
            raise RuntimeError("no context")
        self.vocabulary = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))
        self.name = f"llama.cpp (llama-cpp-python {version('llama-cpp-python')})"

    def run(self, prompts: list[list[int]], tokens: int, greedy: bool) -> Run:
        rows = len(prompts)
        ll.llama_memory_clear(ll.llama_get_memory(self.context), False)
        recorder = Recorder(rows)
        batch = Batch([(row, at) for row, prompt in enumerate(prompts) for at in range(len(prompt))])
        batch.token[:] = np.concatenate(prompts)
        batch.wanted[:] = 0
        batch.wanted[np.cumsum([len(prompt) for prompt in prompts]) - 1] = 1
        made = np.empty((tokens, rows), np.int32)
        made[0] = self._step(batch, rows)
        recorder.took(range(rows))
        batch = Batch([(row, len(prompt)) for row, prompt in enumerate(prompts)])
        batch.wanted[:] = 1
        for step in range(1, tokens):
            batch.token[:] = made[step - 1]
            made[step] = self._step(batch, rows)
            batch.position += 1
            recorder.took(range(rows))
        return recorder.done(made.T.tolist())

    def _step(self, batch: Batch, rows: int) -> np.ndarray:
        if code := ll.llama_decode(self.context, batch.batch):
            raise RuntimeError(f"llama_decode: {code}")
        logits = np.ctypeslib.as_array(ll.llama_get_logits(self.context), (rows, self.vocabulary))
        return logits.argmax(axis=1)


class Batch:
    """A llama_batch with numpy views of its arrays. ``places``: (row, position) of each token."""

    def __init__(self, places: list[tuple[int, int]]) -> None:
        n = len(places)
        self.token = np.zeros(n, np.int32)
        self.position = np.array([at for _, at in places], np.int32)
        self.wanted = np.zeros(n, np.int8)
        self._counts = np.ones(n, np.int32)
        self._rows = np.array([row for row, _ in places], np.int32)
        width = self._rows.itemsize
        self._pointers = (ctypes.POINTER(ll.llama_seq_id) * n)(
            *(
                ctypes.cast(self._rows.ctypes.data + i * width, ctypes.POINTER(ll.llama_seq_id))
                for i in range(n)
            )
        )
        self.batch = ll.llama_batch(
            n_tokens=n,
            token=self.token.ctypes.data_as(ctypes.POINTER(ll.llama_token)),
            embd=None,
            pos=self.position.ctypes.data_as(ctypes.POINTER(ll.llama_pos)),
            n_seq_id=self._counts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._pointers,
            logits=self.wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )


if __name__ == "__main__":
    serve(Llama)
