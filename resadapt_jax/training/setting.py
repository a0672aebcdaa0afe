"""What is static about a step's rollouts: how many, of what sizes, by which backbone."""

from dataclasses import replace
from typing import NamedTuple

from resadapt_jax.allocator import Pictures, ScaleRange
from resadapt_jax.models.compute import Remat, with_compute
from resadapt_jax.models.families import ModelConfig
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.operators import NativeSizes, SizeLimits, scaled_size
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.rollout_config import RolloutConfig
from resadapt_jax.training.size_levels import SizeLevels, size_levels, worth_encoding
from resadapt_jax.typing import Array, Int


class Geometry(NamedTuple):
    """What is static about clips and their sizes; hashable.

    Attributes:
        native_sizes: heights and widths in pixels that any frame of the run has.
        scale_range: of the policy.
        limits: of legal sizes.
        convention: how positions are numbered.
        num_shares: parts that a batch is split into over the mesh.
    """

    native_sizes: tuple[tuple[int, int], ...]
    scale_range: ScaleRange
    limits: SizeLimits
    convention: Convention = Convention.HF_5
    num_shares: int = 1

    def native(self, index: Int[Array, "*B K"]) -> NativeSizes:
        """The native sizes of units that say which of all they have."""
        return NativeSizes(index=index, sizes=self.native_sizes, limits=self.limits)

    def pictures(self, batch: PromptBatch) -> Pictures:
        """What the allocator's encoder sees of a batch."""
        return Pictures(
            frames=batch.frames,
            mask=batch.frame_mask,
            segment_ids=batch.segment_ids,
            native=self.native(batch.native_index.repeat(2, axis=1)),
        )

    @property
    def levels(self) -> list[SizeLevels]:
        """The legal sizes of a pair, for each native size."""
        return [size_levels(*size, self.scale_range, self.limits) for size in self.native_sizes]

    @property
    def least_tokens(self) -> int:
        """Of a pair at the smallest legal size of any native size, the largest of these."""
        sizes = [scaled_size(*size, 0.0, self.limits) for size in self.native_sizes]
        return max(height * width for height, width in sizes) // self.limits.factor**2

    @property
    def most_pixels(self) -> tuple[int, int]:
        """Height and width that no legal size exceeds."""
        sides = [(levels.rows.max(), levels.cols.max()) for levels in self.levels]
        return tuple(int(max(side)) * self.limits.factor for side in zip(*sides, strict=True))


class Setting(NamedTuple):
    """What is static about the backbone's part of a step; hashable.

    Attributes:
        config: the architecture.
        dtype: what its parameters are cast to before they are used.
        geometry: of clips and their sizes.
        rollouts: how many answers there are, and how they are drawn.
        remat: what the forward pass of an update keeps of each layer.
    """

    config: ModelConfig
    dtype: str
    geometry: Geometry
    rollouts: RolloutConfig
    remat: Remat = Remat.NONE

    def of_updates(self) -> "Setting":
        """The architecture as it is differentiated."""
        compute = replace(self.config.text.compute, remat=self.remat)
        return self._replace(config=with_compute(self.config, compute))

    def levels(self, num_pairs: int, num_allocations: int | None = None) -> SizeLevels | None:
        """The legal sizes of a pair, if encoding each once is less work than each allocation.

        None too where frames differ in native size.

        Args:
            num_pairs: of a prompt.
            num_allocations: of a prompt that share what is encoded; by default all.
        """
        if len(self.geometry.native_sizes) > 1:
            return None
        (levels,) = self.geometry.levels
        num_allocations = num_allocations or self.rollouts.num_allocations
        capacity = self.rollouts.token_capacity
        return levels if worth_encoding(levels, num_pairs, num_allocations, capacity) else None
