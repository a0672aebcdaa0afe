"""A batch of the pipeline's records as the device takes it."""

import numpy as np
from flax import struct

from resadapt_jax.generation.prompts import Prompts
from resadapt_jax.typing import Array, Bool, Int, UInt8


@struct.dataclass
class PromptBatch:
    """What the device needs of a batch of prompts.

    A frame's pixels lie in the top left corner of its canvas, `native_index` says how large they
    are; images are pairs of one frame, which is there twice.
    """

    frames: UInt8[Array, "B F height width 3"]
    frame_mask: Bool[Array, "B F"]  # frames that exist
    native_index: Int[Array, "B E"]  # native size of each pair, of those of the run (`Geometry`)
    segment_ids: Int[Array, "B F"]  # the allocator sees frames of one segment together
    valid: Bool[Array, " B"]  # prompts that count; what could not be read does not
    prompts: Prompts
    query_ids: Int[Array, "B N"]
    query_mask: Bool[Array, "B N"]

    @property
    def num_pairs(self) -> int:
        return self.native_index.shape[1]

    @classmethod
    def from_records(cls, records: dict[str, np.ndarray]) -> "PromptBatch":
        """Takes from a batch of the data pipeline what may reach the allocator and the backbone."""
        names = ("frames", "frame_mask", "native_index", "segment_ids", "valid")
        return cls(
            **{name: records[name] for name in (*names, "query_ids", "query_mask")},
            prompts=Prompts.from_records(records),
        )
