"""Weights in fewer bytes (``--weights``): what each form costs in the signals, and what it brings in speed.

Signals: the model answers the built-in calibration prompts in float32, drawing with a seed; every other form
is fed the same tokens and compared at each of them with float32: the divergence KL(float32 || form) and the
share of equal most probable tokens, the absolute error of entropy and varentropy, and of every attention
signal (the mean over layers). "file" and float32 must agree in every bit.

Speed: the native decoder alone, all signals on, ``--rows`` sequences that decode one token a step. All forms
take turns, round by round, so a ratio is of one round; the median and the quartiles are printed. Beside them
stand the best round, the bytes of weights that its step reads in a second, and their share of the most that
the same threads read of a large array in a round, adding it up or multiplying it by torch: all of it where
memory is the limit. ``--clock cpu`` takes the processors' time instead, for a machine that does other things
meanwhile (with one thread: waiting threads count too).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from engine import header, spread
from entropick_kernels import loops
from entropick_kernels.decoder import Decoded, DecoderStep, NativeDecoder, PrefillChunk
from entropick_kernels.logits_stats import logits_stats
from entropick_pico import model_path
from entropick_sampler.signals import ATTENTION_SIGNALS
from entropick_server.calibration.samples import built_in_samples
from entropick_server.engine.embedded.cpu_threads import default_threads
from entropick_server.engine.embedded.loader import Loaded, load_model
from entropick_server.engine.embedded.native_decoder import pack_decoder
from entropick_server.engine.embedded.weight_storage import keeper
from entropick_server.engine.types import EngineOptions

BLOCK: Final = 16
FORMS: Final = ("float32", "file", "bf16", "fp16", "int8", "int4")
MEASURED_LAYERS: Final = 7
READ_BYTES: Final = 1 << 28


class Rows:
    """Sequences that decode together, on blocks of their own."""

    def __init__(self, native: NativeDecoder, layers: int, rows: int, length: int) -> None:
        shape = native.shape
        self.native, self.layers = native, layers
        self.blocks = -(-length // BLOCK)
        size = (rows * self.blocks, shape.kv_heads, BLOCK, shape.width)
        self.keys = [torch.zeros(size) for _ in range(layers)]
        self.values = [torch.zeros(size) for _ in range(layers)]
        self.table = torch.arange(rows * self.blocks, dtype=torch.int32).view(rows, self.blocks)

    def step(self, tokens: Tensor, lengths: Tensor, prompts: Sequence[Sequence[int]] = ()) -> Decoded:
        """Feeds prompts, if any, then one token a row, the last of ``lengths`` tokens."""
        places = [(i, at) for i, prompt in enumerate(prompts) for at in range(len(prompt))]
        ids = [prompts[i][at] for i, at in places]
        cells = [int(self.table[i, at // BLOCK]) * BLOCK + at % BLOCK for i, at in places]
        last = lengths - 1
        of_rows = self.table.gather(1, (last // BLOCK).unsqueeze(1))[:, 0] * BLOCK + last % BLOCK
        decoded = self.native(
            DecoderStep(
                ids=torch.cat([torch.tensor(ids, dtype=torch.int64), tokens]),
                positions=torch.cat([torch.tensor([at for _, at in places], dtype=torch.int64), last]),
                cache_index=torch.cat([torch.tensor(cells, dtype=torch.int32), of_rows.int()]),
                keys=self.keys,
                values=self.values,
                block_table=self.table,
                lengths=lengths.int(),
                rows=len(tokens),
                chunks=[
                    PrefillChunk(len(prompt), self.table[i].contiguous(), len(prompt))
                    for i, prompt in enumerate(prompts)
                ],
                monitored=frozenset(range(self.layers)),
            )
        )
        if decoded is None:
            raise RuntimeError("a step with rows gives their logits")
        return decoded


def packed(options: EngineOptions, form: str) -> tuple[NativeDecoder, Loaded, float]:
    """The decoder of a model in a form, and the seconds that rounding and packing took."""
    loaded = load_model(options)
    began = time.monotonic()
    native = pack_decoder(loaded.model, loaded.info.max_model_len, keeper(form, loaded.source))  # type: ignore[arg-type]
    return native, loaded, time.monotonic() - began


def answer(rows: Rows, prompts: list[list[int]], tokens: int, seed: int) -> list[list[int]]:
    """Texts of a model: the prompts, and as many tokens behind each, drawn at temperature 0.8."""
    generator = torch.Generator().manual_seed(seed)
    texts = [list(prompt) for prompt in prompts]
    for turn in range(tokens):
        lengths = torch.tensor([len(text) for text in texts])
        newest = torch.tensor([text[-1] for text in texts])
        decoded = rows.step(newest, lengths, () if turn else [text[:-1] for text in texts])
        drawn = torch.multinomial((decoded.logits / 0.8).softmax(-1), 1, generator=generator)
        for text, token in zip(texts, drawn[:, 0].tolist(), strict=True):
            text.append(token)
    return texts


def replay(rows: Rows, texts: list[list[int]], tokens: int) -> list[Decoded]:
    """What a model gives at each of the last ``tokens`` tokens of the texts but the very last."""
    found = []
    for turn in range(tokens):
        ends = [len(text) - tokens + turn for text in texts]
        newest = torch.tensor([text[end - 1] for text, end in zip(texts, ends, strict=True)])
        prompts = [] if turn else [text[: end - 1] for text, end in zip(texts, ends, strict=True)]
        found.append(rows.step(newest, torch.tensor(ends), prompts))
    return found


def compare(wanted: list[Decoded], got: list[Decoded]) -> list[float]:
    """KL in nats (mean, 99th percentile), top-1 in %, mean errors of entropy, varentropy, the signals."""
    p, q = (torch.cat([d.logits for d in found]).double().log_softmax(-1) for found in (wanted, got))
    kl = (p.exp() * (p - q)).sum(-1)
    one, two = (logits_stats(torch.cat([d.logits for d in found])) for found in (wanted, got))
    figures = [float(kl.mean()), float(kl.quantile(0.99))]
    figures.append(100 * float((p.argmax(-1) == q.argmax(-1)).double().mean()))
    figures.append(float((one.entropy - two.entropy).abs().mean()))
    figures.append(float((one.varentropy - two.varentropy).abs().mean()))
    signals = [torch.cat([d.signals for d in found]).double() for found in (wanted, got)]
    return figures + (signals[0] - signals[1]).abs().nanmean(0).tolist()


def same_bits(wanted: list[Decoded], got: list[Decoded]) -> bool:
    return all(
        torch.equal(a.logits, b.logits) and torch.equal(a.by_layer.nan_to_num(), b.by_layer.nan_to_num())
        for a, b in zip(wanted, got, strict=True)
    )


def signals(args: argparse.Namespace, options: EngineOptions) -> None:
    texts: list[list[int]] = []
    reference: list[Decoded] = []
    names = [signal.name.removeprefix("attention_") for signal in ATTENTION_SIGNALS[:MEASURED_LAYERS]]
    for form in ("float32", *(f for f in args.forms if f != "float32")):
        native, loaded, seconds = packed(options, form)
        if not texts:
            samples = built_in_samples(loaded.tokenizer)[: args.texts]
            prompts = [list(sample.prompt)[: args.longest] for sample in samples]
            rows = Rows(native, loaded.layers, len(prompts), args.longest + args.tokens)
            texts = answer(rows, prompts, args.tokens, args.seed)
            print(
                f"\nErrors against float32: {len(texts)} texts, {len(texts) * args.tokens} tokens; units as "
                "in docs/reference.md (bits; varentropy bits squared); signals are means over layers."
            )
            header(
                "weights", "MB", "packed in s", "KL, bits", "p99", "top-1, %", "entropy", "varentropy", *names
            )
        rows = Rows(native, loaded.layers, len(texts), args.longest + args.tokens)
        found = replay(rows, texts, args.tokens)
        if not reference:
            reference = found
        figures = compare(reference, found)
        figures[:2] = [x * 1.4426950408889634 for x in figures[:2]]
        told = [f"{x:.2g}" for x in figures]
        told[2] = f"{figures[2]:.1f}"
        note = " (same bits)" if same_bits(reference, found) else ""
        print(
            f"| {form}{note} | {native.weight_bytes / 1e6:.1f} | {seconds:.1f} | " + " | ".join(told) + " |"
        )


def read_worker() -> Any:
    """A native worker that adds up a large array, a part for each thread."""
    import numba
    import numpy as np

    def worker(cells: Any) -> None:
        part = loops.claim(cells, 0)
        size = cells[2]
        values = numba.carray(loops.address(cells[1] + part * size * 4), (size,), np.float32)
        total = np.float32(0.0)
        for i in range(size):
            total += values[i]
        cells[8 + part * 8] = np.int64(total)

    return numba.cfunc(
        numba.types.void(numba.types.CPointer(numba.types.int64)), nopython=True, fastmath={"reassoc", "nsz"}
    )(worker)


def bandwidth(worker: Any, array: Tensor, threads: int, clock: Callable[[], float]) -> Callable[[], float]:
    """Seconds that some threads take to read an array once."""
    import numpy as np

    def once() -> float:
        cells = np.zeros(8 + 8 * threads, dtype=np.int64)
        cells[1], cells[2] = array.data_ptr(), array.numel() // threads
        began = clock()
        if threads > 1:
            loops.run(worker, cells, threads)
        else:
            import ctypes

            worker.ctypes(cells.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)))
        return clock() - began

    return once


def linear(array: Tensor, clock: Callable[[], float]) -> float:
    """Seconds that torch takes for one row times a matrix that is the array."""
    matrix, row = array.view(-1, 1024), torch.ones(1, 1024)
    began = clock()
    torch.nn.functional.linear(row, matrix)
    return clock() - began


def speed(args: argparse.Namespace, options: EngineOptions) -> None:
    clock = time.process_time if args.clock == "cpu" else time.monotonic
    natives = {}
    for form in ("float32", *(f for f in args.forms if f != "float32")):
        natives[form], loaded, _ = packed(options, form)
    layers = loaded.layers
    del loaded
    array = torch.ones(READ_BYTES // 4)
    read = bandwidth(read_worker(), array, args.threads, clock)
    print(
        f"\nSpeed, {args.threads} threads, context {args.context}, clock {args.clock}: steps of the decoder"
    )
    columns = ("rows", "weights", "MB", "ms a step", "of float32's speed", "quartiles", "seen")
    header(*columns, "best ms", "best of best", "GB/s", "of read")
    for count in args.rows:
        crowd = {form: Rows(native, layers, count, args.context + 64) for form, native in natives.items()}
        tokens, lengths = torch.arange(count) + 300, torch.full((count,), args.context)
        for rows in crowd.values():
            rows.step(tokens, lengths)
        seconds: dict[str, list[float]] = {form: [] for form in natives}
        reads: list[float] = []
        for _ in range(args.rounds):
            reads.append(READ_BYTES / min(read(), linear(array, clock)))
            for form, rows in crowd.items():
                began = clock()
                for _ in range(args.steps):
                    rows.step(tokens, lengths)
                seconds[form].append((clock() - began) / args.steps)
        for form, native in natives.items():
            ratios = [a / b for a, b in zip(seconds["float32"], seconds[form], strict=True)]
            best = min(seconds[form])
            rate = native.weight_bytes / best
            told = [f"{native.weight_bytes / 1e6:.1f}", f"{statistics.median(seconds[form]) * 1e3:.2f}"]
            told += [spread(ratios), f"{best * 1e3:.2f}", f"{min(seconds['float32']) / best:.2f}"]
            share = f"{100 * rate / max(reads):.0f} % of {max(reads) / 1e9:.1f}"
            print(f"| {count} | {form} | {' | '.join(told)} | {rate / 1e9:.1f} | {share} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="as entropick serve takes it, or pico")
    parser.add_argument("--forms", default=",".join(FORMS), type=lambda text: text.split(","))
    parser.add_argument("--what", choices=("signals", "speed", "both"), default="both")
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--longest", type=int, default=128, help="tokens of a prompt that are fed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", default=[1, 4, 16], type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    options = EngineOptions(str(model_path()) if args.model == "pico" else args.model, device="cpu")
    options = replace(options, threads=args.threads)
    with torch.inference_mode():
        if args.what != "speed":
            signals(args, options)
        if args.what != "signals":
            speed(args, options)


if __name__ == "__main__":
    main()
