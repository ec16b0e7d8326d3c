"""One pass over the rows of a large matrix, in chunks: sums, norms, and a few rows to keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch

CHUNK_ROWS: Final = 4096


@dataclass(frozen=True, slots=True)
class RowSums:
    """The sums over the rows of an embedding [V, d] that its figures are made of, all in float64.

    Rows with a number that is not finite are counted, and left out of every other figure. ``norms`` [V] has
    NaN for them. ``kept`` holds the rows that were asked for, by id, in float64.
    """

    rows: int
    width: int
    not_finite: int
    total: torch.Tensor
    """[d], the sum of the rows."""
    gram: torch.Tensor
    """[d, d], the sum of x x^T."""
    unit_total: torch.Tensor
    """[d], the sum of the rows that are not zero, each divided by its norm."""
    norms: torch.Tensor
    kept: dict[int, torch.Tensor]

    @property
    def counted(self) -> int:
        """Returns the number of rows without a number that is not finite."""
        return self.rows - self.not_finite

    @property
    def mean(self) -> torch.Tensor:
        """Returns the mean row, [d]."""
        return self.total / max(self.counted, 1)

    def covariance(self) -> torch.Tensor:
        """Returns the population covariance of the rows, [d, d]."""
        mean = self.mean
        return self.gram / max(self.counted, 1) - torch.outer(mean, mean)

    def of(self, ids: Sequence[int]) -> torch.Tensor:
        """Returns kept rows, [len(ids), d]. Raises KeyError for an id that was not asked for."""
        return torch.stack([self.kept[i] for i in ids])


def row_chunks(matrix: torch.Tensor, size: int = CHUNK_ROWS) -> Iterator[torch.Tensor]:
    """Yields consecutive rows of ``matrix``, at most ``size`` at a time."""
    for start in range(0, matrix.shape[0], size):
        yield matrix[start : start + size]


def sum_rows(chunks: Iterable[torch.Tensor], keep: Iterable[int] = ()) -> RowSums:
    """Reads a matrix once, chunk by chunk, and returns its row sums and the rows of the ids ``keep``.

    The d x d sum of products is added up in float64 from float64 products. Raises ValueError for a matrix
    without rows.
    """
    wanted = sorted(set(keep))
    kept: dict[int, torch.Tensor] = {}
    norms: list[torch.Tensor] = []
    total = gram = unit_total = None
    rows, bad, at = 0, 0, 0
    for chunk in chunks:
        x = chunk.to(torch.float64)
        while at < len(wanted) and wanted[at] < rows + x.shape[0]:
            kept[wanted[at]] = x[wanted[at] - rows].clone()
            at += 1
        rows += x.shape[0]
        finite = torch.isfinite(x).all(-1)
        norm = x.norm(dim=-1)
        if not bool(finite.all()):
            bad += int((~finite).sum())
            norm = torch.where(finite, norm, torch.nan)
            x = x[finite]
        norms.append(norm)
        inverse = 1.0 / x.norm(dim=-1)
        inverse[torch.isinf(inverse)] = 0.0
        if total is None or gram is None or unit_total is None:
            width = x.shape[1]
            total, unit_total = x.new_zeros(width), x.new_zeros(width)
            gram = x.new_zeros(width, width)
        total += x.sum(0)
        unit_total += inverse @ x
        gram.addmm_(x.T, x)
    if total is None or gram is None or unit_total is None:
        raise ValueError("the matrix has no rows")
    return RowSums(rows, total.shape[0], bad, total, gram, unit_total, torch.cat(norms), kept)
