"""From a random-access source of records to batches: which rows are whose, and where one is."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex

import grain
import numpy as np
from absl import flags
from grain.experimental import ThreadPrefetchIterDataset

from resadapt_jax.errors import UserError
from resadapt_jax.typing import Float


def pad_to(values: list[int] | np.ndarray, length: int, fill: int) -> np.ndarray:
    """Right-padded int32 vector; a longer one is an error, never cut."""
    if len(values) > length:
        raise ValueError(f"{len(values)} positions do not fit in {length}")
    return np.concatenate([values, np.full(length - len(values), fill)]).astype(np.int32)


def pair_seconds(times: Float[np.ndarray, " F"]) -> Float[np.ndarray, " K"]:
    """Mean time of the two frames of each temporal pair."""
    return times.reshape(-1, 2).mean(axis=1)


class HostShare(NamedTuple):
    """Which of several processes reads; each reads its own rows of every batch.

    Attributes:
        index: of this process.
        count: of processes.
    """

    index: int = 0
    count: int = 1

    def rows(self, batch_size: int) -> int:
        """Rows of a batch that are this process's.

        Raises:
            ValueError: the processes cannot share a batch evenly.
        """
        if batch_size % self.count:
            raise ValueError(f"{self.count} processes cannot share batches of {batch_size}")
        return batch_size // self.count


ALONE = HostShare()


class Share(Sequence):
    """A process's rows of a source's batches, batch after batch."""

    def __init__(self, source: Sequence[Any], batch_size: int, share: HostShare):
        self._source, self._batch_size, self._share = source, batch_size, share
        self._rows = share.rows(batch_size)

    def __len__(self) -> int:
        return len(self._source) // self._batch_size * self._rows

    def __getitem__(self, position: SupportsIndex) -> Any:
        batch, row = divmod(range(len(self))[position], self._rows)
        return self._source[batch * self._batch_size + self._share.index * self._rows + row]


class ReadAhead(NamedTuple):
    """How records are read ahead; it changes no record and no order.

    Attributes:
        workers: processes beside this one that read; with 0 its own threads do.
        threads: of each process that reads.
        ahead: batches whose rows are read ahead; beside them at most two wait whole.
    """

    workers: int = 0
    threads: int = 2
    ahead: int = 1


BY_THREADS = ReadAhead()


class BatchIterator:
    """Whole batches of a dataset; its place is a number of batches.

    So that a place is the same in every process, however many there are, and a run may go on with
    another number of them. Grain's own counts the records that one process read.

    The rows of one batch have arrays of one shape; another batch's may differ.

    Args:
        identity: what tells these batches from others, of JSON's types; a place in others is none
            in these.
    """

    def __init__(
        self,
        dataset: grain.MapDataset,
        batch_size: int,
        read_ahead: ReadAhead = BY_THREADS,
        identity: Mapping[str, Any] | None = None,
    ):
        self._dataset, self._batch_size, self._read_ahead = dataset, batch_size, read_ahead
        self._identity = dict(identity or {})
        self._iterator = None
        self._start(0)

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self) -> dict[str, Any]:
        batch = next(self._iterator)
        self._done += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        return {"batches": self._done, **self._identity}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to a place that ``get_state`` gave.

        Raises:
            UserError: a place in other batches; says what they are by, then and now.
        """
        if any(state.get(name) != value for name, value in self._identity.items()):
            known = "; ".join(
                f"{name} was {state.get(name, 'not known')} and is {value}"
                for name, value in self._identity.items()
            )
            raise UserError(
                "the questions, answers or media that were read are not those of the checkpoint "
                f"({known}); give --output-dir another folder, or put the files back"
            )
        self._start(state["batches"])

    def _start(self, done: int) -> None:
        self.close()
        self._done = done
        left = self._dataset[self._done * self._batch_size :]
        rows = _read_ahead(left, self._batch_size, self._read_ahead)
        batches = rows.batch(self._batch_size, drop_remainder=True)
        # Stacking a batch of video takes a while: done while the one before is in use.
        self._iterator = iter(ThreadPrefetchIterDataset(batches, prefetch_buffer_size=1))

    def close(self) -> None:
        """Ends the threads and processes that read ahead."""
        if self._iterator is not None:
            self._iterator.close()


def _read_ahead(
    dataset: grain.MapDataset, batch_size: int, how: ReadAhead
) -> grain.IterDataset[Any]:
    """Rows in order, read by threads of this process or of several others."""
    processes = max(how.workers, 1)
    rows = -(-how.ahead * batch_size // processes)
    options = grain.ReadOptions(num_threads=how.threads, prefetch_buffer_size=rows)
    ahead = dataset.to_iter_dataset(options)
    if how.workers:
        if not flags.FLAGS.is_parsed():  # grain reads flags of its own there
            flags.FLAGS.mark_as_parsed()
        ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(num_workers=how.workers))
    return ahead
