"""Euclidean distances between two sets of samples, in blocks of bounded memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK_ROWS = 1024
BLOCK_ELEMENTS = 2**23
"""Bounds of one block of the distance matrix: 64 MiB in float64."""


def squared_distances(rows: Tensor, columns: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Squared distances of rows (N, D) to columns (M, D), as (first row, block (B, M)) from top to bottom, in float64.
    A block may be changed and is overwritten by the next one: allocating each anew takes twice the time.

    Each block is one matrix product, |x|^2 + |y|^2 - 2 x.y about the mean of the columns, from which a bound of its
    rounding, 4 (D + 2) eps (|x|^2 + |y|^2), is taken off. So a value is never above the true one, that of equal samples
    is 0 or a little below, and the error is of no weight for distances above about 1e-5 of the samples' spread.
    Of a sample with a NaN or an infinity, only its own distances are NaN or infinite.
    """
    rows, columns = rows.double(), columns.double()
    centre = columns[columns.isfinite().all(dim=1)].mean(dim=0)
    rows, columns = rows - centre, columns - centre
    kept = 1 - 4 * (columns.shape[1] + 2) * torch.finfo(torch.float64).eps

    norms = columns.square().sum(dim=1, keepdim=True) * kept
    right = torch.cat([columns, torch.ones_like(norms), norms], dim=1).T
    step = max(1, min(BLOCK_ROWS, BLOCK_ELEMENTS // len(columns)))
    buffer = rows.new_empty(min(step, len(rows)), len(columns))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        norms = block.square().sum(dim=1, keepdim=True) * kept
        left = torch.cat([-2 * block, norms, torch.ones_like(norms)], dim=1)
        yield start, torch.mm(left, right, out=buffer[: len(block)])


def nearest(queries: Tensor, points: Tensor, k: int, *, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Distances (N, k), ascending, and indices (N, k) of the k points (M, D) that are nearest to each query (N, D).

    skip (N,): for each query the index of a point that does not count, the query itself where it is one of the points.
    The distances are those of the differences, so the one of equal samples is exactly 0.
    """
    queries, points = queries.double(), points.double()
    distances, indices = [], []
    for start, block in squared_distances(queries, points):
        rows = slice(start, start + len(block))
        if skip is not None:
            block.scatter_(1, skip[rows, None], float("inf"))
        found = block.topk(k, dim=1, largest=False).indices
        exact, order = (points[found] - queries[rows, None]).norm(dim=2).sort(dim=1)
        distances.append(exact)
        indices.append(found.gather(1, order))
    return torch.cat(distances), torch.cat(indices)
