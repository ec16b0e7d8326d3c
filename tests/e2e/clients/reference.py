"""Computes log probabilities of continuations by transformers alone, in our environment, which has torch.

Reads ``{"model": FOLDER, "pairs": [[context, continuation], ...]}`` and writes ``[[sum, greedy], ...]``:
the sum of the log probabilities of a continuation's tokens, and whether each is the likeliest.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

asked = json.load(sys.stdin)
tokenizer = AutoTokenizer.from_pretrained(asked["model"])
model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32).eval()
found = []
for context, continuation in asked["pairs"]:
    # lm-eval counts the blanks between the two to the continuation
    bare = context.rstrip()
    context, continuation = bare, context[len(bare) :] + continuation
    before = len(tokenizer(context, add_special_tokens=False).input_ids)
    ids = tokenizer(context + continuation, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        costs = model(ids).logits[0, before - 1 : -1].double().log_softmax(-1)
    wanted = ids[0, before:]
    total = costs.gather(1, wanted[:, None]).sum().item()
    found.append([total, bool((costs.argmax(-1) == wanted).all())])
json.dump(found, sys.stdout)
