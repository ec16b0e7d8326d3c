"""Where numba is not installed, torch serves everything."""

import subprocess
import sys

SCRIPT = """
import sys
sys.modules["numba"] = None  # what an import of it then raises is ImportError
import torch
from entropick_kernels import attention_stats, decoder, logits_stats, sample

for package in (attention_stats, decoder, logits_stats, sample):
    package.warmup()
assert not decoder.available()
x = torch.zeros(2, 8)
one = torch.ones(2)
assert logits_stats.logits_stats(x).entropy.tolist() == [3, 3]
u = sample.philox_uniform(*(torch.zeros(2, 1, dtype=torch.int64) for _ in range(4)))
assert sample.draw(x, one, one.long(), one, one, u).tolist() == [[0], [0]]
blocks = torch.zeros(1, 1, 4, 8)
kv, slot = torch.zeros(1, 1, 8), torch.zeros(1, dtype=torch.int64)
attention_stats.write_kv(kv, kv, blocks, blocks, slot)
out, stats = attention_stats.decode_attention(kv, blocks, blocks, slot[None], slot + 1, scale=1.0)
assert stats.entropy.tolist() == [[0]]
stats = attention_stats.measure_attention(kv, blocks, slot[None], slot + 1, scale=1.0)
assert stats.entropy.tolist() == [[0]]
for refused in (
    lambda: logits_stats.logits_stats(x, kernels="numba"),
    lambda: sample.draw(x, one, one.long(), one, one, u, kernels="numba"),
    lambda: attention_stats.measure_attention(
        kv, blocks, slot[None], slot + 1, scale=1.0, kernels="numba"
    ),
):
    try:
        refused()
    except ValueError:
        continue
    raise SystemExit("not refused")
"""


def test_torch_serves_everything():
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
