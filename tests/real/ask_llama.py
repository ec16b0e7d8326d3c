"""llama.cpp through its C interface: reads one JSON request from stdin, writes one JSON answer to stdout.

It runs under the Python of ``make peers`` and knows nothing of entropick. The requests:
``{"do": "quantize", "source", "target", "type"}``, ``{"do": "tokenize", "file", "texts"}`` and
``{"do": "greedy", "file", "ids", "count"}``.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import llama_cpp as ll
import numpy as np

GGML_TYPE_F32 = 0


def quantize(asked: dict[str, Any]) -> None:
    params = ll.llama_model_quantize_default_params()
    params.ftype = asked["type"]
    params.nthread = 1
    if ll.llama_model_quantize(asked["source"].encode(), asked["target"].encode(), ctypes.byref(params)):
        raise SystemExit("llama_model_quantize failed")


def load(path: str, vocabulary_alone: bool) -> Any:
    params = ll.llama_model_default_params()
    params.n_gpu_layers = 0
    params.vocab_only = vocabulary_alone
    model = ll.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise SystemExit(f"{path} was not loaded")
    return model


def tokenize(asked: dict[str, Any]) -> list[list[int]]:
    vocabulary = ll.llama_model_get_vocab(load(asked["file"], True))
    found = []
    for text in asked["texts"]:
        data = text.encode()
        room = (ll.llama_token * (len(data) + 8))()
        count = ll.llama_tokenize(vocabulary, data, len(data), room, len(room), True, True)
        found.append(list(room[:count]))
    return found


def greedy(asked: dict[str, Any]) -> list[int]:
    model = load(asked["file"], False)
    options = ll.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = 512
    options.n_threads = options.n_threads_batch = 1
    options.type_k = options.type_v = GGML_TYPE_F32
    options.flash_attn_type = ll.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = ll.llama_init_from_model(model, options)
    vocabulary = ll.llama_model_get_vocab(model)
    size = ll.llama_vocab_n_tokens(vocabulary)
    fed, made = list(asked["ids"]), []
    for _ in range(asked["count"]):
        tokens = (ll.llama_token * len(fed))(*fed)  # the batch points into it
        batch = ll.llama_batch_get_one(tokens, len(fed))
        if code := ll.llama_decode(context, batch):
            raise SystemExit(f"llama_decode: {code}")
        logits = np.ctypeslib.as_array(ll.llama_get_logits_ith(context, -1), (size,))
        fed = [int(logits.argmax())]
        made += fed
        if ll.llama_vocab_is_eog(vocabulary, fed[0]):
            break
    return made


if __name__ == "__main__":
    request = json.load(sys.stdin)
    ll.llama_backend_init()
    print(json.dumps({"quantize": quantize, "tokenize": tokenize, "greedy": greedy}[request["do"]](request)))
