"""Which rows make which batch: a function of the seed, the same on every host.

Rows are drawn one by one. The corpus of a draw is the one that is furthest behind its weight, so
the shares of the rows drawn follow the weights to within a row or two at any time. Within a corpus
the rows of an epoch come in an order shuffled anew for it. A drawn row waits with those of its
shape; as soon as they are enough they are a batch.

So the rows that were drawn are those in the batches and those that wait, each once for each time
it was drawn; at most (batch_size - 1) rows wait for each shape.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from resadapt_jax.typing import Float, Int


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """The batches of a run.

    Attributes:
        corpus, row: which row of which corpus; rows are numbers among those of the corpus.
        shape: of each batch.
        epochs: times that each corpus is gone through, draws over rows.
    """

    corpus: Int[np.ndarray, "S B"]
    row: Int[np.ndarray, "S B"]
    shape: Int[np.ndarray, " S"]
    epochs: Float[np.ndarray, " D"]


def plan_batches(
    shapes: Sequence[Int[np.ndarray, " N"]],
    weights: Sequence[float],
    *,
    batch_size: int,
    num_batches: int,
    seed: int,
) -> Schedule:
    """Draws rows until ``num_batches`` are full.

    Args:
        shapes: number of the shape of each row, for each corpus.
        weights: shares of the corpora in the rows drawn, up to a common factor.

    Raises:
        ValueError: a corpus without a row, or weights that are not positive, one for each.
    """
    weights = np.asarray(weights, np.float64)
    if len(weights) != len(shapes) or not np.all(weights > 0) or not np.all(np.isfinite(weights)):
        raise ValueError(f"{len(shapes)} corpora need as many positive weights, got {weights}")
    if not all(len(shape) for shape in shapes):
        raise ValueError("a corpus has no row")
    orders = [_rows(len(shape), seed, corpus) for corpus, shape in enumerate(shapes)]
    waiting: dict[int, list[tuple[int, int]]] = {}
    drawn = np.zeros(len(shapes), np.int64)
    batches, of_batch = [], []
    for corpus in _corpora(weights / weights.sum()):
        if len(batches) == num_batches:
            break
        row = next(orders[corpus])
        drawn[corpus] += 1
        shape = int(shapes[corpus][row])
        queue = waiting.setdefault(shape, [])
        queue.append((corpus, row))
        if len(queue) == batch_size:
            batches.append(waiting.pop(shape))
            of_batch.append(shape)
    drawn_rows = np.array(batches, np.int64).reshape(-1, batch_size, 2)
    return Schedule(
        corpus=drawn_rows[..., 0],
        row=drawn_rows[..., 1],
        shape=np.array(of_batch, np.int64),
        epochs=drawn / [len(shape) for shape in shapes],
    )


def shuffled(count: int, *seed: int) -> Int[np.ndarray, " N"]:
    """A permutation that is the same for a seed on every machine and with every numpy.

    Sorts raw draws of PCG64, whose stream is fixed; that of ``Generator.permutation`` is not.
    """
    draws = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)
    return np.argsort(draws, kind="stable")


def _rows(count: int, seed: int, corpus: int) -> Iterator[int]:
    """Rows of a corpus without end, epoch after epoch."""
    epoch = 0
    while True:
        yield from shuffled(count, seed, corpus, epoch).tolist()
        epoch += 1


def _corpora(shares: Float[np.ndarray, " D"]) -> Iterator[int]:
    """Corpora without end, each as often as its share: always the one furthest behind."""
    taken = np.zeros(len(shares))
    draws = 0
    while True:
        draws += 1
        corpus = int(np.argmax(shares * draws - taken))
        taken[corpus] += 1
        yield corpus
