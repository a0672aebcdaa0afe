"""Batches in order, whoever reads them, and from wherever one goes on."""

import grain
import numpy as np
import pytest

from resadapt_jax.data.batches import BatchIterator, HostShare, ReadAhead, Share


class Numbers:
    """Records of different shapes: those of batch b have b + 1 elements."""

    def __init__(self, batches, size):
        self._batches, self._size = batches, size

    def __len__(self):
        return self._batches * self._size

    def __getitem__(self, position):
        return {"row": np.full(1 + position // self._size, position), "name": f"row {position}"}


def batches(reading, size=4, share=HostShare()):  # noqa: B008
    rows = grain.MapDataset.source(Share(Numbers(5, size), size, share))
    return BatchIterator(rows, share.rows(size), reading)


def contents(iterator):
    return [(batch["row"].tolist(), batch["name"].tolist()) for batch in iterator]


EXPECTED = [
    ([[4 * b + i] * (b + 1) for i in range(4)], [f"row {4 * b + i}" for i in range(4)])
    for b in range(5)
]


# That processes change nothing either is tested on a corpus, in test_corpus.py: they take seconds.
@pytest.mark.parametrize(
    "reading", [ReadAhead(), ReadAhead(threads=1), ReadAhead(threads=5, ahead=3)], ids=str
)
def test_who_reads_changes_nothing(reading):
    iterator = batches(reading)
    assert contents(iterator) == EXPECTED
    iterator.set_state({"batches": 3})
    assert iterator.get_state() == {"batches": 3}
    assert contents(iterator) == EXPECTED[3:]
    assert iterator.get_state() == {"batches": 5}
    iterator.close()


def test_processes_share_each_batch():
    halves = [contents(batches(ReadAhead(), share=HostShare(index, 2))) for index in range(2)]
    for whole, first, second in zip(EXPECTED, *halves, strict=True):
        assert whole[0] == first[0] + second[0]


def test_what_cannot_be_shared_is_an_error():
    with pytest.raises(ValueError, match="3 processes cannot share batches of 4"):
        batches(ReadAhead(), share=HostShare(0, 3))
