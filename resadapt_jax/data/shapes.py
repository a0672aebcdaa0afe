"""Length buckets: a few static shapes of a batch that hold every row with little padding.

Each shape costs a compilation, and what a row does not fill of its shape is wasted. The cost of a
shape is what a row of it takes: frames · height · width pixels, and for each text token as much as
for a visual one, 2 · 28 · 28 pixels. In video the pixels outweigh the text.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from resadapt_jax.typing import Float, Int

_TOKEN_PIXELS = 2 * 28 * 28
_TOKEN_STEP = 16
_MAX_GROUPS = 192


class BatchShape(NamedTuple):
    """Room that every row of a batch has."""

    num_frames: int
    height: int
    width: int
    prompt_tokens: int
    query_tokens: int


def shape_cost(shape: Int[np.ndarray, "*N 5"]) -> Float[np.ndarray, "*N"]:
    """F · H · W + 1568 · (prompt + query tokens), in pixels."""
    shape = np.asarray(shape, np.float64)
    return shape[..., :3].prod(axis=-1) + _TOKEN_PIXELS * shape[..., 3:].sum(axis=-1)


def choose_shapes(
    needs: Int[np.ndarray, "N 5"], max_shapes: int, batch_size: int = 1
) -> tuple[BatchShape, ...]:
    """At most ``max_shapes`` shapes, such that every row fits in one; the cheapest first.

    Greedy: every need begins as a group of its own, and the two groups whose union pads their rows
    least are merged, until few enough are left and each has the rows of a batch. Numbers of tokens
    are rounded up to a multiple of 16.

    Args:
        needs: of the rows, columns as in `BatchShape`.
        batch_size: rows that every shape holds at least, as far as there are so many: too few
            would wait for further epochs, or fill a batch with repeats.

    Raises:
        ValueError: no row, or no shape.
    """
    needs = np.asarray(needs, np.int64)
    if not len(needs) or max_shapes < 1:
        raise ValueError(f"{len(needs)} rows cannot be divided among {max_shapes} shapes")
    sizes, counts = _first_groups(needs)
    while len(sizes) > max_shapes:
        sizes, counts = _merge_two(sizes, counts)
    while True:
        shapes = _as_shapes(sizes)
        # A row goes to the cheapest shape that holds it, which need not be its group's.
        counts = np.bincount(assign(needs, shapes), minlength=len(shapes))
        if len(shapes) == 1 or counts.min() >= batch_size:
            return shapes
        sizes, _ = _merge_two(np.array(shapes), counts, only=int(np.argmin(counts)))


def _as_shapes(sizes: Int[np.ndarray, "G 5"]) -> tuple[BatchShape, ...]:
    sizes = sizes.copy()
    sizes[:, 3:] = -(-sizes[:, 3:] // _TOKEN_STEP) * _TOKEN_STEP
    sizes = np.unique(sizes, axis=0)
    order = np.argsort(shape_cost(sizes), kind="stable")
    return tuple(BatchShape(*size) for size in sizes[order].tolist())


def assign(needs: Int[np.ndarray, "N 5"], shapes: Sequence[BatchShape]) -> Int[np.ndarray, " N"]:
    """Number of the cheapest shape that each row fits in.

    Raises:
        ValueError: a row fits in none.
    """
    sizes = np.asarray(shapes)
    fits = np.all(np.asarray(needs)[:, None] <= sizes, axis=-1)
    if not fits.any(axis=1).all():
        row = int(np.argmin(fits.any(axis=1)))
        needed = BatchShape(*np.asarray(needs)[row].tolist())
        raise ValueError(f"row {row} fits in no shape: it needs {needed}")
    return np.argmin(np.where(fits, shape_cost(sizes), np.inf), axis=1)


def padding(needs: Int[np.ndarray, "N 5"], shapes: Sequence[BatchShape]) -> float:
    """Share of the rows' pixels and tokens that is padding, by `shape_cost`."""
    given = shape_cost(np.asarray(shapes))[assign(needs, shapes)].sum()
    return float(1 - shape_cost(np.asarray(needs)).sum() / given)


def _first_groups(
    needs: Int[np.ndarray, "N 5"],
) -> tuple[Int[np.ndarray, "G 5"], Int[np.ndarray, " G"]]:
    """Largest needs and number of rows of groups that are alike: few, as merging is cubic.

    Rows are alike if all their needs are equal once rounded up to a step; the step of all grows
    until few groups are left.
    """
    coarse = 1
    while True:
        step = np.array([2, 28, 28, _TOKEN_STEP, _TOKEN_STEP]) * coarse if coarse > 1 else 1
        alike, group = np.unique(-(-needs // step), axis=0, return_inverse=True)
        if len(alike) <= _MAX_GROUPS:
            break
        coarse *= 2
    largest = np.zeros_like(alike)
    np.maximum.at(largest, group.reshape(-1), needs)
    return largest, np.bincount(group.reshape(-1))


def _merge_two(
    sizes: Int[np.ndarray, "G 5"], counts: Int[np.ndarray, " G"], only: int | None = None
) -> tuple[Int[np.ndarray, "G2 5"], Int[np.ndarray, " G2"]]:
    """Merges the two groups whose union adds the least cost; of equals the first.

    Args:
        only: a group that has to be one of the two.
    """
    union = np.maximum(sizes[:, None], sizes[None])
    apart = counts * shape_cost(sizes)
    added = (counts[:, None] + counts) * shape_cost(union) - apart[:, None] - apart
    added[np.tril_indices(len(sizes))] = np.inf
    if only is not None:
        others = np.arange(len(sizes)) != only
        added[np.ix_(others, others)] = np.inf
    a, b = np.unravel_index(np.argmin(added), added.shape)
    sizes[a], counts[a] = union[a, b], counts[a] + counts[b]
    return np.delete(sizes, b, axis=0), np.delete(counts, b)
