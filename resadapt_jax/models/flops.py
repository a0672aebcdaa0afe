"""Arithmetic of a model's forward pass, counted from its shapes: 2 per multiply-add.

Matrix products and attention count; norms, activations and rotations (well below a percent) do
not. A backward pass costs twice its forward pass, so training costs three forward passes, whatever
is computed anew to save memory.
"""

import math
from collections.abc import Iterable
from functools import cache

import numpy as np

from resadapt_jax.models.families import ModelConfig, family_of
from resadapt_jax.typing import Float

Count = int | Float[np.ndarray, "*B"]
"""A number, or one for each of many sequences; float64, as 32 bits would overflow."""


def decoder_flops(
    config: ModelConfig, tokens: Count, *, past: Count = 0, logits: Count = 1
) -> Count:
    """2·W·n + 4·L·Hq·d·Σᵢ(past + i) + 2·V·D·logits, i = 1..n, of one sequence.

    W are the entries of the layers' matrices. A prefill of a prompt has no past and one row of
    logits; decoding n tokens after it has the prompt as past and n rows.

    Args:
        tokens: n, positions computed; each attends to itself and to all before it.
        past: positions in the KV cache before them.
        logits: positions whose logits are computed.
    """
    text = config.text
    keys = tokens * past + tokens * (tokens + 1) // 2
    attention = 4 * text.num_hidden_layers * text.num_attention_heads * text.head_dim * keys
    head = 2 * text.vocab_size * text.hidden_size * logits
    return 2 * _matrix_entries(config, "decoder") * tokens + attention + head


def vision_flops(config: ModelConfig, grids: Iterable[tuple[int, int]]) -> int:
    """Σ over grids of 2·W·P + 4·D·Σ_blocks Σ_windows p² + 2·W_merge·U.

    W and W_merge are the entries of the matrices that see patches and merged tokens; a window of p
    patches is the whole grid where a block has none.

    Args:
        grids: rows and columns in patches of each temporal patch.
    """
    vision = config.vision
    per_patch = 2 * _matrix_entries(config, "patch")
    per_token = 2 * _matrix_entries(config, "merged")
    total = 0
    for rows, cols in grids:
        patches = rows * cols
        pairs = sum(
            _sum_of_squares(rows, window) * _sum_of_squares(cols, window)
            for window in _windows(config)
        )
        tokens = patches // vision.spatial_merge_size**2
        total += per_patch * patches + 4 * vision.hidden_size * pairs + per_token * tokens
    return total


@cache
def _matrix_entries(config: ModelConfig, seen: str) -> int:
    shapes = family_of(config).model.param_shapes(config)
    return sum(math.prod(shape) for key, shape in shapes.items() if seen_by(key, shape) == seen)


def seen_by(key: str, shape: tuple[int, ...]) -> str:
    """What a tensor is multiplied with: patches, merged tokens, decoder positions, or nothing."""
    if len(shape) < 2 or "embed_tokens" in key or "pos_embed" in key or "lm_head" in key:
        return "nothing"
    if "visual." not in key:
        return "decoder"
    return "merged" if "merger" in key else "patch"


def _windows(config: ModelConfig) -> list[int | None]:
    """The side of each vision block's windows in patches; None: the block sees whole grids."""
    vision = config.vision
    if vision.window_patches is None:
        return [None] * vision.depth
    full = vision.fullatt_block_indexes
    return [None if block in full else vision.window_patches for block in range(vision.depth)]


def _sum_of_squares(side: int, window: int | None) -> int:
    """Σ of the squared lengths of the pieces that windows cut a side into."""
    if window is None:
        return side**2
    return side // window * window**2 + (side % window) ** 2
