"""A batch of the pipeline's records as the device takes it."""

import numpy as np
from flax import struct

from resadapt_jax.generation.answer import Prompts
from resadapt_jax.typing import Array, Bool, Int, UInt8


@struct.dataclass
class PromptBatch:
    """What the device needs of a batch of prompts."""

    frames: UInt8[Array, "B F height width 3"]
    frame_mask: Bool[Array, "B F"]  # frames that exist
    prompts: Prompts
    query_ids: Int[Array, "B N"]
    query_mask: Bool[Array, "B N"]

    @classmethod
    def from_records(cls, records: dict[str, np.ndarray]) -> "PromptBatch":
        """Takes from a batch of the data pipeline what may reach the allocator and the backbone."""
        return cls(
            frames=records["frames"],
            frame_mask=np.ones(records["frames"].shape[:2], bool),
            prompts=Prompts.from_records(records),
            query_ids=records["query_ids"],
            query_mask=records["query_mask"],
        )
