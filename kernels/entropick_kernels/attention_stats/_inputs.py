"""The arguments of an attention over a paged cache, as public functions hand them to an implementation."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PagedQueries(NamedTuple):
    """The newest queries of a batch, and the cached keys and values that they see.

    Shapes and options are those of :func:`entropick_kernels.attention_stats.decode_attention`.
    """

    q: Tensor
    k_blocks: Tensor
    v_blocks: Tensor | None
    """None where attention is measured only"""
    block_table: Tensor
    lengths: Tensor
    scale: float
    window: int | None = None
    softcap: float | None = None

    @property
    def blocks(self) -> tuple[Tensor, ...]:
        """Returns the blocks of keys, and of values where there are any."""
        return (self.k_blocks,) if self.v_blocks is None else (self.k_blocks, self.v_blocks)

    def check(self) -> None:
        """Raises ValueError on shapes that do not fit and options that no implementation can serve."""
        check_blocks(self.q, self.blocks, self.window, self.softcap)
        rows, table = self.q.shape[0], self.block_table.shape
        if len(table) != 2 or table[0] != rows or table[1] < 1 or self.lengths.shape != (rows,):
            raise ValueError(
                f"expected block_table [{rows}, N >= 1] and lengths [{rows}], got "
                f"{tuple(table)}, {tuple(self.lengths.shape)}"
            )


def check_blocks(q: Tensor, blocks: tuple[Tensor, ...], window: int | None, softcap: float | None) -> None:
    """Raises ValueError where queries do not fit their blocks, or for options that cannot be served."""
    keys = blocks[0]
    same = all(tensor.shape == keys.shape for tensor in blocks)
    if q.dim() != 3 or keys.dim() != 4 or not same or q.shape[2] != keys.shape[3]:
        names = "k_blocks, v_blocks" if len(blocks) == 2 else "k_blocks"
        raise ValueError(
            f"expected q [.., H, D] and {names} [P, Hk, block, D], got "
            + ", ".join(str(tuple(tensor.shape)) for tensor in (q, *blocks))
        )
    if q.shape[1] % keys.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads do not share {keys.shape[1]} key-value heads evenly")
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap must be positive, got {softcap}")
