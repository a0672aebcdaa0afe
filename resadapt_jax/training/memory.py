"""What an update and a rollout of a backbone need of each device's memory, before compiling."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jax.typing import DTypeLike

from resadapt_jax.errors import UserError
from resadapt_jax.models.compute import Remat
from resadapt_jax.models.families import ModelConfig, family_of
from resadapt_jax.models.kv_cache import cache_bytes
from resadapt_jax.models.partition import BATCH, shardings


@dataclass(frozen=True, kw_only=True)
class Load:
    """What goes through a backbone at once, over the whole mesh.

    Attributes:
        rows: prompts with an answer in a micro-batch of the update.
        positions: of a prompt and its answer, at most.
        visual_tokens: merged tokens of a prompt, at most.
        head_chunk: as `teacher_forcing.answer_log_probs` takes it.
        rollout_rows: answers generated at once.
        cache_slots: `prefill.cache_slots` of each.
        rollout_clips: clips that go through the tower at once.
        prefilled: positions of a prompt that go through the decoder at once.
    """

    rows: int
    positions: int
    visual_tokens: int
    head_chunk: int = 256
    rollout_rows: int = 0
    cache_slots: int = 0
    rollout_clips: int = 0
    prefilled: int = 0


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes of one device.

    Attributes:
        params: its part of the parameters.
        moments: of the optimiser.
        gradients: its part of them, of a micro-batch and summed.
        answering: its part of the copy that a trained backbone computes with.
        reference: its part of the one that a KL penalty refers to.
        kept: what the forward pass keeps of all layers for the backward pass.
        working: the one layer, or head, that is being computed, with its weights gathered.
        cache: keys and values of a rollout.
        showing: the layer of a rollout that is being computed, in the tower or the decoder.
    """

    params: int
    moments: int
    gradients: int
    answering: int
    reference: int
    kept: int
    working: int
    cache: int
    showing: int

    @property
    def update(self) -> int:
        return self.gradients + self.kept + self.working

    @property
    def rollout(self) -> int:
        return self.cache + self.showing

    @property
    def total(self) -> int:
        """Updates and rollouts take turns."""
        held = self.params + self.moments + self.answering + self.reference
        return held + max(self.update, self.rollout)


def estimate_memory(
    config: ModelConfig,
    mesh_shape: Mapping[str, int],
    load: Load,
    *,
    trained: bool = True,
    reference: bool = False,
    dtype: DTypeLike = jnp.bfloat16,
    cache_dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    moment_bytes: int = 8,
) -> MemoryEstimate:
    """A backbone on a mesh, after what its partition table splits.

    With R = rows / (data · fsdp) and t = tensor, in features of ``dtype`` and of float32 (×4 B):
      * kept, ``Remat.LAYERS``: R T D of each decoder layer, R P D of each block of the tower;
        ``MATMULS`` adds the products with weights, ``NONE`` what working says of a layer;
      * working, the largest of: a decoder layer, R T (6 I / t) and float32 R T (6 Hq D_h / t + 4 D)
        with its weights and their gradients; a block of the tower alike; the head, R C V / t in
        10 B with the table and its gradient;
      * showing, of a rollout without gradients: half of a layer of either.
    Under ``LAYERS`` and attention in blocks, for a 7B on H100s an update is within 1.25 of what XLA
    reports, on TPUs within 1.75, as are rollouts on both (tests/aot). The other two are coarser,
    and attention that is dense is not counted.

    Args:
        config: with the ``compute`` that the update uses.
        mesh_shape: sizes of ``data``, ``fsdp`` and ``tensor``.
        load: what runs at once.
        trained: else only rollouts run.
        reference: whether another backbone is held, for a KL penalty.
        dtype: of activations and of the parameters as they compute.
        cache_dtype: of keys and values; None is the activations'.
        param_dtype: of trained parameters and their gradients.
        moment_bytes: of the optimiser for a parameter; two float32 by default, as Adam's.
    """
    size = jnp.dtype(dtype).itemsize
    batch = math.prod(mesh_shape.get(axis, 1) for axis in BATCH)
    tensor = mesh_shape.get("tensor", 1)
    held = _local_parameters(config, mesh_shape)
    params = held * (jnp.dtype(param_dtype).itemsize if trained else size)
    slots = -(-load.rollout_rows // batch), load.cache_slots
    cache = cache_bytes(config.text, *slots, cache_dtype or dtype)
    # Heads that do not divide are whole on every device.
    cache //= tensor if config.text.num_key_value_heads % tensor == 0 else 1
    decoder, tower = _networks(config, load)
    showing = max(
        -(-load.rollout_clips // batch) * tower.positions * tower.working(tensor, size),
        slots[0] * load.prefilled * decoder.working(tensor, size),
    )
    kept = working = 0
    if trained:
        kept, working = _activations(config, load, -(-load.rows // batch), tensor, size)
    return MemoryEstimate(
        params=params,
        moments=held * moment_bytes * trained,
        gradients=2 * params * trained,
        answering=held * size * trained,
        reference=held * size * reference,
        kept=kept,
        working=working,
        cache=cache,
        showing=showing // 2,
    )


def require_memory(estimate: MemoryEstimate, available: int) -> None:
    """Refuses what cannot fit.

    Raises:
        UserError: with what each part takes.
    """
    if estimate.total <= available:
        return
    parts = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in vars(estimate).items())
    raise UserError(
        f"a device would need about {estimate.total / 1e9:.1f} GB, it has {available / 1e9:.1f}:"
        f" {parts} GB; use a larger mesh, smaller micro-batches, or Remat.LAYERS"
    )


def _local_parameters(config: ModelConfig, mesh_shape: Mapping[str, int]) -> int:
    """Parameters that one device holds."""
    family = family_of(config)
    shapes = family.model.param_shapes(config)
    mesh = AbstractMesh(tuple(mesh_shape.values()), tuple(mesh_shape))
    places = shardings(shapes, family.partition, mesh)
    return sum(math.prod(places[key].shard_shape(shape)) for key, shape in shapes.items())


@dataclass(frozen=True, kw_only=True)
class _Layers:
    """Equal layers: how many, over how many positions of a row, and the sizes of one."""

    count: int
    positions: int
    width: int
    heads: int  # their number times their size
    kv_heads: int
    hidden: int

    @property
    def weights(self) -> int:
        attention = 2 * self.width * (self.heads + self.kv_heads)
        return attention + 3 * self.width * self.hidden

    def products(self, tensor: int) -> int:
        """Features of a position that products with weights give."""
        split = self.heads + 2 * self.kv_heads + 2 * self.hidden
        return split // tensor + 2 * self.width

    def working(self, tensor: int, size: int) -> int:
        """Bytes of a position while the layer is computed again and differentiated."""
        return 6 * self.hidden // tensor * size + 4 * (6 * self.heads // tensor + 4 * self.width)


def _networks(config: ModelConfig, load: Load) -> tuple[_Layers, _Layers]:
    """The decoder's layers and the tower's."""
    text, vision = config.text, config.vision
    decoder = _Layers(
        count=text.num_hidden_layers,
        positions=load.positions,
        width=text.hidden_size,
        heads=text.num_attention_heads * text.head_dim,
        kv_heads=text.num_key_value_heads * text.head_dim,
        hidden=text.intermediate_size,
    )
    tower = _Layers(
        count=vision.depth,
        positions=load.visual_tokens * vision.spatial_merge_size**2,
        width=vision.hidden_size,
        heads=vision.hidden_size,
        kv_heads=vision.hidden_size,
        hidden=vision.intermediate_size,
    )
    return decoder, tower


def _activations(
    config: ModelConfig, load: Load, rows: int, tensor: int, size: int
) -> tuple[int, int]:
    """Bytes kept and bytes working, of ``rows`` on a device."""
    text, vision = config.text, config.vision
    decoder, tower = _networks(config, load)
    kept, working = 0, []
    for layers, remat in ((decoder, text.compute.remat), (tower, vision.compute.remat)):
        per_position = size * layers.width
        if remat is Remat.MATMULS:
            per_position += size * layers.products(tensor)
        elif remat is Remat.NONE:
            per_position += layers.working(tensor, size)
        kept += layers.count * rows * layers.positions * per_position
        of_layer = rows * layers.positions * layers.working(tensor, size)
        working.append(of_layer + 2 * size * layers.weights // tensor)
    table = 2 * size * text.vocab_size * text.hidden_size // tensor
    working.append(rows * load.head_chunk * text.vocab_size // tensor * 10 + table)
    return kept, max(working)
