"""How a model is computed, which changes its speed and memory but not its results."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeVar

import jax

from kernels.segment_attention import Backend

ConfigT = TypeVar("ConfigT")


class Remat(Enum):
    """What the forward pass keeps for the backward pass of each layer.

    Attributes:
        NONE: everything.
        MATMULS: products with weights; the rest is computed again.
        LAYERS: the layer's input alone; the whole layer is computed again.
    """

    NONE = "none"
    MATMULS = "matmuls"
    LAYERS = "layers"


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Choices that a model's config carries, but no checkpoint."""

    attention: Backend = Backend.AUTO
    remat: Remat = Remat.NONE

    def wrap(self, layer: Callable[..., Any], *, scanned: bool = False) -> Callable[..., Any]:
        """A layer, called with arrays alone, that keeps what ``remat`` says.

        Args:
            layer: of a model.
            scanned: it is the body of a loop, where XLA cannot merge a layer's second computation
                with its first, and need not be kept from it.
        """
        if self.remat is Remat.NONE:
            return layer
        policies = jax.checkpoint_policies
        keep = {
            Remat.MATMULS: policies.dots_with_no_batch_dims_saveable,
            Remat.LAYERS: policies.nothing_saveable,
        }
        return jax.checkpoint(layer, policy=keep[self.remat], prevent_cse=not scanned)


def with_compute(config: ConfigT, compute: Compute) -> ConfigT:
    """A whole model's config whose tower and decoder are computed as said."""
    return replace(
        config,
        text=replace(config.text, compute=compute),
        vision=replace(config.vision, compute=compute),
    )
