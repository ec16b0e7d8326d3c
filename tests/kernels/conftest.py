"""What the kernel tests share: paged keys as engines lay them out, and lines behind pytest's own summary."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

SHOWN = pytest.StashKey[list[str]]()
NOWHERE = 2**30
"""a block id that no cache has"""


class PagedKeys(NamedTuple):
    """Keys of some rows in scattered blocks [P, Hk, block, D]; what no row owns is NaN."""

    blocks: Tensor
    table: Tensor
    lengths: Tensor

    def on(self, device: torch.device) -> PagedKeys:
        """The same with the same strides on another device."""
        bare = self.blocks
        moved = torch.empty_strided(bare.shape, bare.stride(), dtype=bare.dtype, device=device).copy_(bare)
        return PagedKeys(moved, self.table.to(device), self.lengths.to(device))


def scatter(
    lengths: Sequence[int],
    kv_heads: int,
    width: int,
    *,
    block: int = 16,
    layout: str = "plain",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    columns: int = 0,
) -> PagedKeys:
    """Random keys; a row's depend on its length alone. A row of length 0 has no block that exists.

    ``layout``: "plain" [P, Hk, block, D]; keys before values as vLLM has them: "HND" [P, Hk, block, 2 D] or
    "NHD" [P, block, Hk, 2 D].
    """
    g = torch.Generator().manual_seed(seed)
    counts = [-(-n // block) for n in lengths]
    total = sum(counts) + 2
    order = torch.randperm(total, generator=g).tolist()
    shape = (total, kv_heads, block, width)
    if layout == "plain":
        blocks = torch.full(shape, math.nan, dtype=dtype)
    elif layout == "HND":
        blocks = torch.full((*shape[:3], 2 * width), math.nan, dtype=dtype)[..., :width]
    else:
        blocks = torch.full((total, block, kv_heads, 2 * width), math.nan, dtype=dtype)
        blocks = blocks.transpose(1, 2)[..., :width]
    table = torch.full((len(lengths), max(columns, *counts, 1)), order.pop(), dtype=torch.int32)
    for row, (n, count) in enumerate(zip(lengths, counts, strict=True)):
        ids = torch.tensor([order.pop() for _ in range(count)], dtype=torch.int64)
        table[row, :count] = ids
        keys = torch.randn(n, kv_heads, width, generator=torch.Generator().manual_seed(1000 + n))
        slots = torch.arange(n)
        blocks[ids[slots // block], :, slots % block] = keys.to(dtype)
        if n == 0:
            table[row] = NOWHERE
    return PagedKeys(blocks, table, torch.tensor(lengths, dtype=torch.int32))


@pytest.fixture(scope="session")
def paged_keys() -> Callable[..., PagedKeys]:
    """:func:`scatter`."""
    return scatter


def pytest_configure(config: pytest.Config) -> None:
    """A place for lines to show."""
    config.stash[SHOWN] = []


@pytest.fixture
def show(request: pytest.FixtureRequest) -> list[str]:
    """Lines appended here are printed at the end of the run."""
    return request.config.stash[SHOWN]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print them, before the closing line."""
    if config.stash[SHOWN]:
        terminalreporter.section("kernels")
        for line in config.stash[SHOWN]:
            terminalreporter.write_line(line)
