"""What benchmarks/kernels.py compares: cases, their inputs and who can do the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from entropick_kernels._triton import triton_impl
from entropick_kernels.attention_stats import decode_attention, measure_attention
from entropick_kernels.attention_stats._inputs import PagedQueries
from entropick_kernels.logits_stats import logits_stats
from entropick_kernels.sample import draw, philox_uniform

Inputs = dict[str, Tensor]
Provider = Callable[[Inputs], Callable[[], object]]
BLOCK = 16
ATTENTION_SHAPES = {
    "cuda": [(b, 32, 8, 128, n, torch.bfloat16) for b, n in ((1, 4096), (32, 1024), (32, 4096))],
    "cpu": [(8, 12, 4, 64, n, torch.float32) for n in (16, 128, 1024, 4096)],
}
"""rows, heads, key-value heads, width, keys, type"""


@dataclass(frozen=True, slots=True)
class Case:
    """``bytes``: what must be read and written at least, 0 where bytes are not the limit."""

    name: str
    bytes: int
    inputs: Callable[[torch.device], Inputs]
    providers: Callable[[torch.device], dict[str, Provider]]


@dataclass(frozen=True, slots=True)
class Suite:
    """``yardstick``: the provider that the others are divided by."""

    title: str
    yardstick: str
    cases: Callable[[torch.device], list[Case]]


def ours(device: torch.device) -> tuple[str, ...]:
    """Our implementations that serve a device."""
    return ("triton", "torch") if device.type == "cuda" else ("numba", "torch")


def logits_inputs(rows: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> Inputs:
    return {"logits": torch.randn(rows, vocabulary, device=device).mul_(3).to(dtype)}


def eager_stats(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What one writes without thinking: softmax, logarithm, two sums."""
    logp = x.float().log_softmax(-1)
    p = logp.exp()
    entropy = -(p * logp).sum(-1)
    return entropy, (p * (logp + entropy.unsqueeze(-1)).square()).sum(-1), x.amax(-1)


@cache
def compiled_stats() -> Callable[[Tensor], object]:
    return torch.compile(eager_stats)


def logits_cases(device: torch.device) -> list[Case]:
    def providers(_: torch.device) -> dict[str, Provider]:
        mine: dict[str, Provider] = {
            f"ours, {name}": lambda given, name=name: partial(logits_stats, given["logits"], kernels=name)
            for name in ours(device)
        }
        others: dict[str, Provider] = {
            "argmax": lambda given: partial(torch.argmax, given["logits"], -1),
            "torch eager": lambda given: partial(eager_stats, given["logits"]),
        }
        if device.type == "cuda":
            others["torch.compile"] = lambda given: partial(compiled_stats(), given["logits"])
        return mine | others

    if device.type == "cuda":
        shapes = [(rows, v, torch.bfloat16) for v in (128256, 151936) for rows in (1, 16, 64, 256)]
    else:
        shapes = [(rows, v, torch.float32) for rows, v in ((1, 32000), (16, 32000), (16, 151936))]
    return [
        Case(
            f"[{rows}, {v}] {str(dtype).removeprefix('torch.')}",
            rows * v * dtype.itemsize,
            partial(logits_inputs, rows, v, dtype),
            providers,
        )
        for rows, v, dtype in shapes
    ]


def attention_inputs(
    rows: int, heads: int, kv_heads: int, width: int, keys: int, dtype: torch.dtype, device: torch.device
) -> Inputs:
    count = rows * -(-keys // BLOCK)
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    k_blocks = torch.randn(count, kv_heads, BLOCK, width, **options)
    table = torch.randperm(count, device=device).view(rows, -1).to(torch.int32)
    return {
        "q": torch.randn(rows, heads, width, **options),
        "k_blocks": k_blocks,
        "v_blocks": torch.randn_like(k_blocks),
        "table": table,
        "lengths": torch.full((rows,), keys, dtype=torch.int32, device=device),
    }


def sdpa(given: Inputs) -> Callable[[], object]:
    """torch's attention over contiguous keys: no blocks, no statistics."""
    q, (k, v) = given["q"].unsqueeze(2), (_contiguous(given, name) for name in ("k_blocks", "v_blocks"))
    return lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def _contiguous(given: Inputs, name: str) -> Tensor:
    return given[name][given["table"].long()].transpose(1, 2).flatten(2, 3).contiguous()


def flashinfer_decode(given: Inputs) -> Callable[[], object]:
    """FlashInfer's paged decode, planned once as an engine plans once a step."""
    import flashinfer

    q, table, lengths = given["q"], given["table"], given["lengths"]
    kv_heads, width = given["k_blocks"].shape[1], q.shape[2]
    workspace = torch.empty(128 << 20, dtype=torch.uint8, device=q.device)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "HND")
    rows, columns = table.shape
    wrapper.plan(
        torch.arange(0, rows * columns + 1, columns, dtype=torch.int32, device=q.device),
        table.flatten(),
        ((lengths - 1) % BLOCK + 1).to(torch.int32),
        q.shape[1],
        kv_heads,
        width,
        BLOCK,
        q_data_type=q.dtype,
    )
    return lambda: wrapper.run(q, (given["k_blocks"], given["v_blocks"]))


def attention_cases(device: torch.device) -> list[Case]:
    def arguments(given: Inputs) -> tuple[Tensor, ...]:
        return tuple(given[name] for name in ("q", "k_blocks", "v_blocks", "table", "lengths"))

    def providers(_: torch.device) -> dict[str, Provider]:
        def decode(name: str, given: Inputs) -> Callable[[], object]:
            scale = given["q"].shape[2] ** -0.5
            return lambda: decode_attention(*arguments(given), scale=scale, kernels=name)

        def triton_decode(want: str, given: Inputs) -> Callable[[], object]:
            module, scale = triton_impl("entropick_kernels.attention_stats"), given["q"].shape[2] ** -0.5
            inputs = PagedQueries(*arguments(given), scale)
            return lambda: module.decode_attention_triton(inputs, want=want)

        if device.type != "cuda":
            return {"sdpa": sdpa} | {f"ours, {name}": partial(decode, name) for name in ours(device)}
        return {
            "ours, no statistics": partial(triton_decode, "none"),
            "ours, entropy and scores": partial(triton_decode, "heads"),
            "ours, with agreement": partial(triton_decode, "all"),
            "ours, torch": partial(decode, "torch"),
            "sdpa": sdpa,
            "flashinfer": flashinfer_decode,
        }

    return [
        Case(
            f"B={b}, {h}/{hk} heads of {d}, {n} keys",
            2 * b * hk * n * d * dtype.itemsize,
            partial(attention_inputs, b, h, hk, d, n, dtype),
            providers,
        )
        for b, h, hk, d, n, dtype in ATTENTION_SHAPES[device.type]
    ]


def keys_cases(device: torch.device) -> list[Case]:
    """Keys as vLLM holds them, [P, block, Hk, 2 D]; sdpa reads values, too."""

    def inputs(shape: tuple[Any, ...], on: torch.device) -> Inputs:
        given = attention_inputs(*shape, on)
        slots = (
            torch.cat((given["k_blocks"], given["v_blocks"]), 3).transpose(1, 2).contiguous().transpose(1, 2)
        )
        width = given["q"].shape[2]
        return given | {"k_blocks": slots[..., :width], "v_blocks": slots[..., width:]}

    def keys_alone(name: str, given: Inputs) -> Callable[[], object]:
        arguments = (given[n] for n in ("q", "k_blocks", "table", "lengths"))
        return partial(measure_attention, *arguments, scale=given["q"].shape[2] ** -0.5, kernels=name)

    names = ours(device) if device.type == "cuda" else ("torch",)
    providers: dict[str, Provider] = {"sdpa": sdpa} | {f"ours, {n}": partial(keys_alone, n) for n in names}
    return [
        Case(
            f"B={b}, {h}/{hk} heads of {d}, {n} keys",
            b * hk * n * d * dtype.itemsize,
            partial(inputs, (b, h, hk, d, n, dtype)),
            lambda _: providers,
        )
        for b, h, hk, d, n, dtype in ATTENTION_SHAPES[device.type]
    ]


def draw_inputs(rows: int, vocabulary: int, draws: int, top_k: int, device: torch.device) -> Inputs:
    words = torch.arange(rows, device=device).unsqueeze(1)
    columns = torch.arange(draws, device=device).unsqueeze(0)
    full = partial(torch.full, (rows,), device=device)
    return {
        "logits": torch.randn(rows, vocabulary, device=device).mul_(3),
        "temperature": full(0.7),
        "top_k": full(top_k),
        "top_p": full(0.95),
        "min_p": full(0.02),
        "uniforms": philox_uniform(words, words, columns, torch.zeros_like(words)),
    }


def _top_k(given: Inputs) -> Tensor:
    """top_k as peers want it: the whole vocabulary where it is off."""
    return torch.where(given["top_k"] > 0, given["top_k"], given["logits"].shape[1])


def multinomial(given: Inputs) -> Callable[[], object]:
    """softmax, sort, cut, torch.multinomial: the usual way in torch."""

    top_k = _top_k(given)

    def call() -> object:
        p = (given["logits"] / given["temperature"].unsqueeze(1)).softmax(-1)
        ordered, ids = p.sort(dim=-1, descending=True)
        cut = (ordered.cumsum(-1) - ordered) >= given["top_p"].unsqueeze(1)
        cut |= torch.arange(p.shape[1], device=p.device) >= top_k.unsqueeze(1)
        chosen = ordered.masked_fill(cut, 0.0).multinomial(given["uniforms"].shape[1], replacement=True)
        return ids.gather(1, chosen)

    return call


def flashinfer_draw(given: Inputs) -> Callable[[], object]:
    """FlashInfer's rejection sampling; one draw a row, whatever we draw."""
    import flashinfer

    k, p = _top_k(given).to(torch.int32), given["top_p"].float()
    return lambda: flashinfer.sampling.top_k_top_p_sampling_from_logits(given["logits"], k, p)


def vllm_draw(given: Inputs) -> Callable[[], object]:
    """vLLM's top-k and top-p over logits, then its exponential race; one draw a row."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

    k, p = _top_k(given), given["top_p"].float()

    def call() -> object:
        kept = apply_top_k_top_p(given["logits"].clone(), k, p).softmax(-1)
        return kept.div_(torch.empty_like(kept).exponential_()).argmax(-1)

    return call


def draw_cases(device: torch.device) -> list[Case]:
    def providers(_: torch.device) -> dict[str, Provider]:
        names = ("logits", "temperature", "top_k", "top_p", "min_p", "uniforms")

        def ours_draw(name: str, hint: int | None, given: Inputs) -> Callable[[], object]:
            return lambda: draw(*(given[n] for n in names), max_top_k=hint, kernels=name)  # type: ignore[misc]

        found: dict[str, Provider] = {
            f"ours, {name}": partial(ours_draw, name, None) for name in ours(device)
        }
        others: dict[str, Provider] = {"torch, sort and multinomial": multinomial}
        if device.type == "cuda":
            others |= {"flashinfer": flashinfer_draw, "vllm": vllm_draw}
        return found | others

    rows = (1, 64) if device.type == "cuda" else (1, 16)
    vocabulary = 151936 if device.type == "cuda" else 32000
    return [
        Case(
            f"[{b}, {vocabulary}], 12 draws, top_k {k or 'off'}",
            0,
            partial(draw_inputs, b, vocabulary, 12, k),
            providers,
        )
        for b in rows
        for k in (32, 0)
    ]


SUITES = {
    "logits": Suite("Entropy, varentropy, maximum, normaliser of the logits", "argmax", logits_cases),
    "attention": Suite("Decode attention, one layer, every statistic unless said", "sdpa", attention_cases),
    "keys": Suite("The same statistics from the keys alone, in vLLM's layout", "sdpa", keys_cases),
    "draw": Suite("Filters and draws", "torch, sort and multinomial", draw_cases),
}
