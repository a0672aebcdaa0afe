"""What a step needs of arithmetic: its backbone's FLOPs, from what was drawn and answered.

Neither padding counts nor what is computed anew: in every pass of a rollout, or to save memory. The
allocator and its frozen encoder are left out, so the utilisation that follows is a lower bound.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from resadapt_jax.generation.decode import Generation
from resadapt_jax.models.families import ModelConfig, family_of
from resadapt_jax.models.flops import decoder_flops, seen_by, vision_flops
from resadapt_jax.training.config import BackboneTrainingConfig
from resadapt_jax.training.mesh import own_rows
from resadapt_jax.training.rollout import Draw
from resadapt_jax.training.setting import Setting
from resadapt_jax.training.size_levels import SizeLevels
from resadapt_jax.typing import Int


class ForwardCounts(NamedTuple):
    """The forward passes over a step's clips and answers that all of its work is worth."""

    tower: float
    decoder: float


def own_flops(
    setting: Setting,
    joint: BackboneTrainingConfig | None,
    drawn: Draw,
    answers: Generation,
    records: Mapping[str, np.ndarray],
    *,
    in_process: bool = True,
) -> float:
    """Of this process's own prompts; waits for the rollouts.

    Args:
        joint: how the backbone is trained, None where it is not.
        records: this process's rows of the batch.
        in_process: whether the backbone answered here; what an external engine does is its own.
    """
    grid_thw, answered = own_rows((drawn.grid_thw, answers.mask))
    merge_size = setting.config.vision.spatial_merge_size
    tokens = grid_thw.prod(axis=-1).sum(axis=-1) // merge_size**2
    placeholders = np.sum(records["entry_index"] >= 0, axis=-1)
    prompt_tokens = (records["compact_length"] - placeholders)[:, None] + tokens
    passes = passes_of_step(setting.config, joint, in_process=in_process)
    clips = tower_flops(setting.config, grid_thw, setting.levels(grid_thw.shape[2]))
    texts = answer_flops(setting.config, prompt_tokens, answered.sum(axis=-1))
    flops = passes.tower * clips + passes.decoder * texts
    if in_process:
        flops -= shared_flops(setting.config, prompt_tokens, num_answers=answered.shape[2])
    return flops


def passes_of_step(
    config: ModelConfig, joint: BackboneTrainingConfig | None, *, in_process: bool = True
) -> ForwardCounts:
    """One to answer in process, one to score by older parameters if so asked, and every epoch's.

    An epoch is worth three of what it trains, a backward pass being two. It is worth one of a tower
    that is frozen, and two of a decoder that is, which the tower's gradient passes. A part counts
    as trained if any of its matrices is; a tower's merger, a percent of it, is not looked at. The
    prompts that are learnt from, where not all are, count as the average of those drawn.
    """
    if joint is None:
        return ForwardCounts(tower=int(in_process), decoder=int(in_process))
    trained = {
        seen_by(key, shape)
        for key, shape in family_of(config).model.param_shapes(config).items()
        if not any(fnmatchcase(key, pattern) for pattern in joint.frozen)
    }
    scored = (joint.old_log_probs == "recomputed") + (joint.loss.kl_weight > 0)
    tower = scored + joint.update.epochs * (3 if "patch" in trained else 1)
    decoder = scored + joint.update.epochs * (3 if "decoder" in trained else 2)
    return ForwardCounts(
        tower=in_process + tower / joint.oversampling,
        decoder=in_process + decoder / joint.oversampling,
    )


def tower_flops(
    config: ModelConfig, grid_thw: Int[np.ndarray, "B M E 3"], levels: SizeLevels | None
) -> int:
    """One pass: every pair at every level; without levels, the pairs of every allocation."""
    if levels is None:
        grids, counts = np.unique(grid_thw[..., 1:].reshape(-1, 2), axis=0, return_counts=True)
        return sum(
            int(count) * vision_flops(config, [tuple(grid)])
            for grid, count in zip(grids.tolist(), counts, strict=True)
        )
    sides = config.vision.spatial_merge_size * np.stack([levels.rows, levels.cols], axis=1)
    pairs = np.any(grid_thw[..., 0] > 0, axis=1).sum()
    return int(pairs) * vision_flops(config, map(tuple, sides.tolist()))


def answer_flops(
    config: ModelConfig,
    prompt_tokens: Int[np.ndarray, "B M"],
    answer_tokens: Int[np.ndarray, "B M N"],
) -> float:
    """One pass: prefill and decoding of every answer, or what scores it; both need the same.

    The last token of an answer is not run: nothing follows it.
    """
    prompts, answers = np.broadcast_arrays(prompt_tokens[..., None], answer_tokens)
    run = (prompts + answers - 1).astype(np.float64)
    return float(np.sum(decoder_flops(config, run, logits=answers.astype(np.float64))))


def shared_flops(
    config: ModelConfig, prompt_tokens: Int[np.ndarray, "B M"], num_answers: int
) -> float:
    """What a rollout saves of `answer_flops`: but for the first answer to an allocation, a prompt
    up to its last token is not run again (`RolloutConfig.shared_prefix`)."""
    prefixes = (prompt_tokens - 1).astype(np.float64)
    return (num_answers - 1) * float(np.sum(decoder_flops(config, prefixes, logits=0)))
