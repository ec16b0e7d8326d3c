"""Weights in fewer bytes: products against float64, the same bits as the same numbers in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

from entropick_kernels.decoder import GroupedWeight, LayerWeights, Weight, numba_impl, storage
from entropick_kernels.decoder.coded_products import call_coded, coded_product
from entropick_kernels.decoder.formats import CODED, FLOAT32, INT8, WeightFormat
from entropick_kernels.decoder.packing import pack, pack_pair, unpack
from entropick_kernels.decoder.products import product
from entropick_kernels.decoder.reference import forward
from entropick_kernels.decoder.weights import as_floats, form_of, stacked

from .test_decoder import Model, make_model, random_texts, run, same_bits

exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


@numba.njit
def multiply_coded(  # type: ignore[no-untyped-def]
    function, x, rows, stride, weights, inputs, first, last, out, out_stride, add, size, room
):
    call_coded(function, x, rows, stride, weights, inputs, first, last, out, out_stride, add, size, room)


def some_weight(form: WeightFormat, out: int, inputs: int, seed: int = 1) -> Weight:
    """A matrix of numbers of all sizes, among them the extremes of its form."""
    rng = torch.Generator().manual_seed(seed)
    if not form.grouped:
        values = torch.randn(out, inputs, generator=rng) * 2.0 ** torch.randint(
            -9, 4, (out, 1), generator=rng
        )
        return values.to({"bfloat16": torch.bfloat16, "float16": torch.float16}[form.name])
    low, high = (-128, 128) if form.bits == 8 else (0, 16)
    numbers = torch.randint(low, high, (out, inputs), generator=rng)
    size = (out, inputs // form.group)
    scales = (torch.randn(size, generator=rng) * 2.0 ** torch.randint(-18, 2, size, generator=rng)).half()
    minima = torch.randn(size, generator=rng).half() if form.minimum else None
    kind = torch.int8 if form.bits == 8 else torch.uint8
    if form.wide:
        # as K-quants have them: a whole number of 6 bits times a float16
        codes = torch.randint(1, 64, size, generator=rng)
        return GroupedWeight(
            form, numbers.to(kind), scales.float() * codes, None if minima is None else minima.float() * codes
        )
    return GroupedWeight(form, numbers.to(kind), scales, minima)


def multiply(weight: Weight, x: Tensor, before: Tensor | None = None, pitch: int = 3) -> Tensor:
    """The product of rows and a matrix, by the native function of the matrix's form."""
    packed = pack(weight)
    rows, inputs = x.shape
    columns = packed.count * 16 + pitch
    out = torch.full((rows, columns), math.nan)
    if before is not None:
        out[:, : before.shape[1]] = before
    spread = torch.full((rows, inputs + 5), math.nan)
    spread[:, :inputs] = x
    room = torch.full((inputs, 16), math.nan)
    size = packed.form.panel_bytes(inputs)
    add = int(before is not None)
    if packed.form == FLOAT32:
        product(
            spread.data_ptr(), rows, inputs + 5, packed.panels.data_ptr(), inputs, 0, packed.count,
            out.data_ptr(), columns, add,
        )  # fmt: skip
    else:
        multiply_coded(
            coded_product(packed.form), spread.data_ptr(), rows, inputs + 5, packed.panels.data_ptr(), inputs,
            0, packed.count, out.data_ptr(), columns, add, size, room.data_ptr(),
        )  # fmt: skip
    assert out[:, packed.count * 16 :].isnan().all()
    return out[:, : weight.shape[0]]


@pytest.mark.parametrize("form", CODED, ids=lambda form: form.name)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6, 7, 50])
@pytest.mark.parametrize(("out", "inputs"), [(16, 32), (83, 96), (160, 64)])
def test_a_product_equals_float64_and_the_bits_of_float32(
    form: WeightFormat, rows: int, out: int, inputs: int
) -> None:
    weight = some_weight(form, out, inputs)
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(rows))
    got = multiply(weight, x)
    exact = x.double() @ as_floats(weight).double().T
    size = x.double().abs() @ as_floats(weight).double().abs().T
    assert float(((got - exact).abs() / size).max()) < 1e-6
    wanted = multiply(as_floats(weight), x)
    exactly(got, wanted)
    before = torch.randn(rows, -(-out // 16) * 16)
    exactly(multiply(weight, x, before), multiply(as_floats(weight), x, before))
    for i in (0, rows // 2, rows - 1):
        exactly(multiply(weight, x[i : i + 1]), got[i : i + 1])


@pytest.mark.parametrize("form", CODED[:2], ids=lambda form: form.name)
def test_numbers_of_16_bits_need_no_groups(form: WeightFormat) -> None:
    weight = some_weight(form, 21, 37)
    x = torch.randn(5, 37)
    exactly(multiply(weight, x), multiply(as_floats(weight), x))
    exactly(multiply(weight, x[:1]), multiply(as_floats(weight), x[:1]))


@pytest.mark.parametrize("rows", [1, 3, 6, 50])
@pytest.mark.parametrize("form", [FLOAT32, *CODED], ids=lambda form: form.name)
def test_long_rows_are_summed_in_blocks(form: WeightFormat, rows: int) -> None:
    """In one chain 65,536 equal numbers would drift, sixteen times beyond the bound of chains of 128."""
    inputs = 1 << 16
    weight: Weight = torch.ones(16, inputs)
    if form.grouped:
        scales = torch.ones(16, inputs // form.group, dtype=torch.float32 if form.wide else torch.float16)
        numbers = torch.full((16, inputs), 1 + form.offset)
        minima = torch.zeros_like(scales) if form.minimum else None
        weight = GroupedWeight(
            form, numbers.to(torch.int8 if form.bits == 8 else torch.uint8), scales, minima
        )
    elif form != FLOAT32:
        weight = weight.to({"bfloat16": torch.bfloat16, "float16": torch.float16}[form.name])
    x = torch.full((rows, inputs), 0.1)
    exact = inputs * float(x[0, 0])
    bound = (128 + inputs / 128) * 2.0**-24
    assert float((multiply(weight, x).double() / exact - 1).abs().max()) < bound


@pytest.mark.parametrize("form", CODED, ids=lambda form: form.name)
def test_a_row_of_the_matrix_is_looked_up(form: WeightFormat) -> None:
    weight = some_weight(form, 40, 64)
    packed = pack(weight)
    room = torch.empty(64, 16)
    for row in (0, 15, 16, 39):
        out = torch.full((64,), math.nan)
        multiply_coded(
            coded_product(form), 0, 0, 0, packed.panels.data_ptr(), 64, row, row, out.data_ptr(), 0, 0,
            form.panel_bytes(64), room.data_ptr(),
        )  # fmt: skip
        exactly(out, as_floats(weight)[row])


def test_every_half_is_decoded() -> None:
    """Subnormal, infinite and NaN too."""
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(1 << 11, 32)
    halves = bits.view(torch.float16)
    packed = pack(halves)
    room, out = torch.empty(32, 16), torch.empty(32)
    for row in range(0, 1 << 11, 7):
        multiply_coded(
            coded_product(packed.form), 0, 0, 0, packed.panels.data_ptr(), 32, row, row, out.data_ptr(), 0, 0,
            packed.form.panel_bytes(32), room.data_ptr(),
        )  # fmt: skip
        torch.testing.assert_close(out, halves[row].float(), rtol=0, atol=0, equal_nan=True)


STORED: dict[str, Callable[[Tensor], Weight]] = {
    "bf16": Tensor.bfloat16,
    "fp16": storage.in_float16,
    "int8": storage.in_int8,
    "int4": storage.in_int4,
}


def stored(model: Model, keep: Callable[[Tensor], Weight]) -> Model:
    """A model whose matrices are kept in a form, w_qkv as three."""
    s = model.shape
    sizes = [s.heads * s.width, s.kv_heads * s.width, s.kv_heads * s.width]
    layers = []
    for layer in model.layers:
        assert isinstance(layer.w_qkv, Tensor)
        kept = {name: keep(getattr(layer, name)) for name in ("w_out", "w_gate", "w_up", "w_down")}
        layers.append(replace(layer, w_qkv=[keep(part) for part in layer.w_qkv.split(sizes)], **kept))
    head = None if model.head is None else keep(model.head)
    return replace(model, layers=layers, embed=keep(model.embed), head=head)  # type: ignore[arg-type]


def in_floats(model: Model) -> Model:
    """The same model with the same numbers as float32."""

    def plain(layer: LayerWeights) -> LayerWeights:
        parts = [as_floats(part) for part in layer.w_qkv]
        rest = {name: as_floats(getattr(layer, name)) for name in ("w_out", "w_gate", "w_up", "w_down")}
        return replace(layer, w_qkv=torch.cat(parts), **rest)

    head = None if model.head is None else as_floats(model.head)
    return replace(model, layers=[plain(x) for x in model.layers], embed=as_floats(model.embed), head=head)


@pytest.mark.parametrize("form", STORED)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["wide", "odd", "even"])
def test_a_step_equals_the_reference_and_the_bits_of_float32(form: str, tied: bool, name: str) -> None:
    model = stored(make_model(name, bias=True, norms=True, tied=tied), STORED[form])
    native = model.native()
    texts = random_texts(model, (1, 9, 4, 5, 13, 2, 8))
    decoded = run(model, native, texts)
    for i, text in enumerate(texts):
        logits = forward(*model.parts, text)[0]
        np.testing.assert_allclose(decoded.logits[i].double().numpy(), logits[-1], atol=1e-4)
    floats = in_floats(model).native()
    same_bits(decoded, run(model, floats, texts))
    if name == "wide":
        assert native.weight_bytes < floats.weight_bytes * {"int8": 0.27, "int4": 0.16}.get(form, 0.51)


@pytest.mark.parametrize("form", STORED)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neighbours_and_threads_change_no_bit(
    form: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stored(make_model("wide", bias=True), STORED[form])
    native = model.native()
    texts = random_texts(model, tuple(1 + i % 14 for i in range(0, 39, 3)))
    monkeypatch.setattr(numba_impl, "threads_for", lambda work: threads)
    together = run(model, native, texts)
    monkeypatch.setattr(numba_impl, "threads_for", lambda work: 1)
    for i, text in enumerate(texts):
        alone = run(model, native, [text])
        assert torch.equal(alone.logits[0], together.logits[i])
        torch.testing.assert_close(
            alone.by_layer[:, 0], together.by_layer[:, i], rtol=0, atol=0, equal_nan=True
        )


def test_forms_may_differ_within_a_model() -> None:
    """As in a file whose v has more bits than q and k, and whose up has more than its gate."""
    model = make_model("wide", bias=True)
    forms: tuple[Callable[[Tensor], Weight], ...] = (storage.in_int4, Tensor.half, storage.in_int8)
    s = model.shape
    sizes = [s.heads * s.width, s.kv_heads * s.width, s.kv_heads * s.width]
    layers = []
    for layer in model.layers:
        assert isinstance(layer.w_qkv, Tensor)
        assert isinstance(layer.w_up, Tensor)
        parts = [keep(part) for keep, part in zip(forms, layer.w_qkv.split(sizes), strict=True)]
        layers.append(replace(layer, w_qkv=parts, w_up=layer.w_up.bfloat16()))
    mixed = replace(model, layers=layers)
    texts = random_texts(model, (1, 9, 4, 5, 13, 2, 8))
    decoded = run(mixed, mixed.native(), texts)
    same_bits(decoded, run(mixed, in_floats(mixed).native(), texts))
    for i, text in enumerate(texts):
        logits = forward(*mixed.parts, text)[0]
        np.testing.assert_allclose(decoded.logits[i].double().numpy(), logits[-1], atol=1e-4)


@pytest.mark.parametrize("form", [form for form in CODED if form.grouped], ids=lambda form: form.name)
def test_groups_are_packed_as_they_are_read(form: WeightFormat) -> None:
    weight = some_weight(form, 33, 64)
    assert isinstance(weight, GroupedWeight)
    packed = pack(weight)
    assert packed.panels.shape == (3, form.panel_bytes(64))
    assert packed.panels.dtype == torch.uint8
    assert packed.panels.is_contiguous()
    pair = pack_pair(weight, weight)
    assert torch.equal(pair.panels[::2], packed.panels)
    assert torch.equal(pair.panels[1::2], packed.panels)
    first = packed.panels[:, : 16 * form.scale_bytes].contiguous()
    assert torch.equal(first.view(weight.scales.dtype).flatten()[:33], weight.scales[:, 0])


@pytest.mark.parametrize("out", [1, 16, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_packed_tensors_are_all_there(out: int, dtype: torch.dtype) -> None:
    weight, other = torch.randn(out, 5).to(dtype), torch.randn(out, 5).to(dtype)
    assert torch.equal(unpack(pack(weight).panels, out), weight)
    pair = pack_pair(weight, other).panels
    assert torch.equal(unpack(pair[::2], out), weight)
    assert torch.equal(unpack(pair[1::2], out), other)


def test_parts_become_one_where_they_can() -> None:
    one, two = some_weight(INT8, 16, 32), some_weight(INT8, 24, 32, 2)
    half = torch.randn(16, 32).half()
    (joined,) = stacked([one, two])
    exactly(as_floats(joined), torch.cat([as_floats(one), as_floats(two)]))
    assert form_of(joined) == INT8
    assert stacked([one, half]) == [one, half]
    (plain,) = stacked([two, half])  # 24 outputs end within a panel
    exactly(plain, torch.cat([as_floats(two), half.float()]))


def test_exact_storage_keeps_every_number() -> None:
    values = torch.randn(7, 33)
    kept = {
        torch.float32: values,
        torch.bfloat16: values.bfloat16().float(),
        torch.float16: values.half().float(),
    }
    for dtype, matrix in kept.items():
        got = storage.exact(matrix)
        assert isinstance(got, Tensor)
        assert got.dtype == dtype
        exactly(got.float(), matrix)
    assert storage.exact(torch.full((2, 2), 70000.0)).dtype == torch.float32  # type: ignore[union-attr]


@pytest.mark.parametrize("by", [1e-7, 1e-3, 1.0, 300.0])
def test_rounded_storage_is_near(by: float) -> None:
    values = torch.randn(50, 96, generator=torch.Generator().manual_seed(4)) * by
    values[3] = 0.0
    values[4, :32] = values[4, 0]
    groups = values.view(50, 3, 32)
    eight, four = storage.in_int8(values), storage.in_int4(values)
    assert isinstance(eight, GroupedWeight)
    assert isinstance(four, GroupedWeight)
    # half a step, and what float16's least number leaves
    step = groups.abs().amax(-1, keepdim=True) / 127
    error = (eight.floats().view(groups.shape) - groups).abs()
    assert (error <= step * 0.5 * 1.002 + 2.0**-24 * 64).all()
    plain = (groups.amax(-1) - groups.amin(-1)) / 15
    error = (four.floats().view(groups.shape) - groups).square().mean(-1).sqrt()
    assert (error <= plain * 0.5 + 2.0**-11 * groups.abs().amax(-1) + 2.0**-24 * 8).all()
    exactly(eight.floats()[3], values[3])
    exactly(four.floats()[3], values[3])
    assert torch.equal(storage.in_int4(values).numbers, four.numbers)  # type: ignore[union-attr]


def test_what_does_not_fit_is_refused_or_kept_otherwise() -> None:
    assert storage.in_int8(torch.randn(4, 40)).dtype == torch.bfloat16  # type: ignore[union-attr]
    assert storage.in_int4(torch.randn(4, 40)).dtype == torch.bfloat16  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="too large for float16"):
        storage.in_float16(torch.tensor([[1.0, -70000.0]]))
    with pytest.raises(ValueError, match="whole groups"):
        INT8.panel_bytes(40)
    numbers, scales = torch.zeros(4, 32, dtype=torch.int8), torch.zeros(4, 1).half()
    with pytest.raises(ValueError, match="do not make a matrix"):
        GroupedWeight(INT8, numbers, scales, scales)
    with pytest.raises(ValueError, match="do not make a matrix"):
        GroupedWeight(INT8, numbers, scales[:3])
    with pytest.raises(ValueError, match="float64"):
        form_of(torch.zeros(2, 2, dtype=torch.float64))
