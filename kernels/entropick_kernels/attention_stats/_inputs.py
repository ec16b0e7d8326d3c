"""The arguments of an attention over a paged cache, as public functions hand them to an implementation."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PagedQueries(NamedTuple):
    """The newest queries of a batch, and the cached keys and values that they see.

    Shapes and options are those of :func:`entropick_kernels.attention_stats.decode_attention`.
    """

    q: Tensor
    k_pages: Tensor
    v_pages: Tensor | None
    """None where attention is measured only"""
    page_table: Tensor
    lengths: Tensor
    scale: float
    window: int | None = None
    softcap: float | None = None

    @property
    def pages(self) -> tuple[Tensor, ...]:
        """Returns the pages of keys, and of values where there are any."""
        return (self.k_pages,) if self.v_pages is None else (self.k_pages, self.v_pages)

    def check(self) -> None:
        """Raises ValueError on shapes that do not fit and options that no implementation can serve."""
        check_pages(self.q, self.pages, self.window, self.softcap)
        rows, table = self.q.shape[0], self.page_table.shape
        if len(table) != 2 or table[0] != rows or table[1] < 1 or self.lengths.shape != (rows,):
            raise ValueError(
                f"expected page_table [{rows}, N >= 1] and lengths [{rows}], got "
                f"{tuple(table)}, {tuple(self.lengths.shape)}"
            )


def check_pages(q: Tensor, pages: tuple[Tensor, ...], window: int | None, softcap: float | None) -> None:
    """Raises ValueError where queries do not fit their pages, or for options that cannot be served."""
    keys = pages[0]
    same = all(tensor.shape == keys.shape for tensor in pages)
    if q.dim() != 3 or keys.dim() != 4 or not same or q.shape[2] != keys.shape[3]:
        names = "k_pages, v_pages" if len(pages) == 2 else "k_pages"
        raise ValueError(
            f"expected q [.., H, D] and {names} [P, Hk, page, D], got "
            + ", ".join(str(tuple(tensor.shape)) for tensor in (q, *pages))
        )
    if q.shape[1] % keys.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads do not share {keys.shape[1]} key-value heads evenly")
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap must be positive, got {softcap}")
