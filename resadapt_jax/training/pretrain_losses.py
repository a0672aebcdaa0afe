"""The losses of pre-training: what a pair shows, and the answers to several questions per clip."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from resadapt_jax.generation.prompts import Prompts, lay_out
from resadapt_jax.models.families import ModelConfig, family_of
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.models.vision_plan import VisionPlan
from resadapt_jax.typing import Array, Bool, Float, Int, Params, UInt8


@struct.dataclass
class DialogueBatch:
    """Clips with questions and answers; A answer tokens."""

    frames: UInt8[Array, "B F height width 3"]
    labels: Int[Array, "B K parts"]
    prompts: Prompts
    answer_index: Int[Array, "B A"]  # compact position of each answer token, -1 padding

    @classmethod
    def from_records(cls, records: dict[str, np.ndarray]) -> "DialogueBatch":
        return cls(
            frames=records["frames"],
            labels=records["labels"],
            prompts=Prompts.from_records(records),
            answer_index=records["answer_index"],
        )


def pair_grids(levels: Int[Array, "B K"], merge_size: int) -> Int[Array, "E 3"]:
    """Square grids in patches of all pairs of a batch, one after another."""
    sides = merge_size * levels.reshape(-1)
    return jnp.stack([jnp.ones_like(sides), sides, sides], axis=-1)


def decoder_of(backbone: Params) -> Params:
    """The decoder's parameters; a Qwen3-VL keeps its tower beside them."""
    return backbone["model"].get("language_model", backbone["model"])


def label_loss(
    params: Params,
    word_ids: tuple[tuple[int, ...], ...],
    tokens: Float[Array, "U W"],
    plan: VisionPlan,
    labels: Int[Array, "E parts"],
    counted: Bool[Array, " E"],
) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy of the words for what a pair shows, read from its pooled tokens.

    A word's score is the inner product with its text embedding, which is also the decoder's output
    head. So a visual token comes to speak the decoder's language: it matches the question's colour
    word, and to attend to it is nearly to say its letter.
    """
    num_entries = len(labels)
    readout, table = params["readout"], decoder_of(params["backbone"])["embed_tokens"]["weight"]
    tokens = tokens[:, : table.shape[1]]  # what else a row holds is for deeper layers
    entry = jnp.where(plan.token_entry >= 0, plan.token_entry, num_entries)
    weight = jax.nn.sigmoid(tokens @ readout["pool"]) + 1e-3
    pooled = jax.ops.segment_sum(weight * tokens, entry, num_entries + 1)[:-1]
    total = jax.ops.segment_sum(weight, entry, num_entries + 1)[:-1]
    pooled = pooled / jnp.maximum(total, 1e-3)
    losses, right = [], []
    for part, ids in enumerate(word_ids):
        words = pooled @ table[jnp.array(ids)].T
        nothing = jnp.broadcast_to(readout["nothing"][part], (num_entries, 1))
        logits = jnp.concatenate([nothing, words], axis=-1)
        target = labels[:, part]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, target)
        losses.append(jnp.sum(jnp.where(counted, loss, 0.0)) / jnp.maximum(jnp.sum(counted), 1))
        right.append(jnp.argmax(logits, axis=-1) == target)
    seen = (labels[:, 0] > 0) & counted
    right = jnp.stack(right, axis=-1) & seen[:, None]
    accuracy = jnp.sum(right) / jnp.maximum(jnp.sum(seen) * len(word_ids), 1)
    return sum(losses), {"label_accuracy": accuracy}


def answer_loss(
    params: Params,
    config: ModelConfig,
    tokens: Float[Array, "U W"],
    plan: VisionPlan,
    batch: DialogueBatch,
    fits: Bool[Array, " B"],
    full: int,
    convention: Convention,
) -> tuple[Array, Array]:
    """Mean cross-entropy of the answer tokens, and the fraction predicted right.

    Args:
        full: side in merged tokens of a frame at full size.
    """
    batch_size, num_pairs = batch.labels.shape[:2]
    grids = plan.grid_thw.reshape(batch_size, num_pairs, 3)
    most = num_pairs * full**2
    native = pair_grids(jnp.full((batch_size, num_pairs), full), config.vision.spatial_merge_size)
    prompts = batch.prompts.replace(native_thw=native.reshape(grids.shape))
    layout = lay_out(prompts, grids, config, most, convention)
    counts = plan.token_count.reshape(batch_size, num_pairs).sum(axis=1)
    # The batch is one packed sequence; a clip's tokens are the `counts` rows from its first on.
    rows = (jnp.cumsum(counts) - counts)[:, None] + jnp.arange(most)[None, :]
    visual = tokens[jnp.minimum(rows, len(tokens) - 1)]
    model, text = family_of(config).model, family_of(config).text
    embeds = model.embed_prompt(params, config, layout, visual)
    hidden, _ = model.run_decoder(params, config, embeds, layout.position_ids, layout.mask)
    # Answers stand behind all visual entries, so expansion shifts them by a constant per clip.
    valid: Bool[Array, "B A"] = (batch.answer_index >= 0) & fits[:, None]
    before = jnp.where(valid, batch.answer_index + (counts - num_pairs)[:, None] - 1, 0)
    logits = text.logits(params, config, jnp.take_along_axis(hidden, before[:, :, None], axis=1))
    targets = jnp.take_along_axis(
        batch.prompts.compact_ids, jnp.maximum(batch.answer_index, 0), axis=1
    )
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    right = (jnp.argmax(logits, axis=-1) == targets) & valid
    count = jnp.maximum(jnp.sum(valid), 1)
    return jnp.sum(jnp.where(valid, loss, 0.0)) / count, jnp.sum(right) / count
