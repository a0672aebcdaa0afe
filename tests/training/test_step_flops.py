"""FLOPs of a step against sums over prompts and answers one by one."""

import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.allocator import ScaleRange
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.generation.decode import Generation
from resadapt_jax.losses import BackboneLossConfig
from resadapt_jax.models.flops import decoder_flops, vision_flops
from resadapt_jax.models.prompt_layout import expand_prompt
from resadapt_jax.operators import SizeLimits
from resadapt_jax.training.config import BackboneTrainingConfig
from resadapt_jax.training.rollout import Draw
from resadapt_jax.training.rollout_config import RolloutConfig
from resadapt_jax.training.setting import Geometry, Setting
from resadapt_jax.training.size_levels import SizeLevels
from resadapt_jax.training.step_flops import (
    answer_flops,
    own_flops,
    passes_of_step,
    shared_flops,
    tower_flops,
)
from resadapt_jax.training.update import UpdateConfig
from tests.training.toy_parts import backbone

CONFIG = backbone().config
# Rows and columns of patches; the second prompt has no third pair.
GRIDS = np.array(
    [
        [[[1, 4, 4], [1, 2, 2], [1, 2, 4]], [[1, 2, 2], [1, 2, 2], [1, 2, 2]]],
        [[[1, 4, 4], [1, 4, 2], [0, 0, 0]], [[1, 2, 4], [1, 2, 2], [0, 0, 0]]],
    ]
)


def test_answers_prefill_and_decode():
    # A token comes out of the prefill; two more are decoded, at 5 and 6 keys in front of them.
    longer = decoder_flops(CONFIG, 5) + decoder_flops(CONFIG, 2, past=5, logits=2)
    alone = decoder_flops(CONFIG, 9)
    got = answer_flops(CONFIG, np.array([[5, 9]]), np.array([[[3, 1], [1, 1]]]))
    assert got == longer + decoder_flops(CONFIG, 5) + 2 * alone


def test_many_long_answers_do_not_overflow():
    many = answer_flops(CONFIG, np.full((64, 16), 30_000, np.int32), np.full((64, 16, 4), 1000))
    assert many == 4096 * decoder_flops(CONFIG, 30_999, logits=1000) > 2**48


def test_the_tower_sees_each_allocation_or_each_level_once():
    one_by_one = [tuple(grid) for grid in GRIDS.reshape(-1, 3)[:, 1:].tolist()]
    assert tower_flops(CONFIG, GRIDS, None) == vision_flops(CONFIG, one_by_one)
    levels = SizeLevels(rows=np.array([1, 1, 2]), cols=np.array([1, 2, 2]))
    # Five pairs exist, whatever M.
    expected = 5 * vision_flops(CONFIG, [(2, 2), (2, 4), (4, 4)])
    assert tower_flops(CONFIG, GRIDS, levels) == expected
    assert tower_flops(CONFIG, GRIDS[:, :1], levels) == expected


@pytest.mark.parametrize(
    ("joint", "tower", "decoder"),
    [
        (None, 1, 1),
        (BackboneTrainingConfig(), 4, 4),
        (BackboneTrainingConfig(update=UpdateConfig(epochs=2, mini_batches=4)), 7, 7),
        (BackboneTrainingConfig(frozen=("visual.*",)), 2, 4),
        (BackboneTrainingConfig(frozen=("visual.blocks.*", "visual.patch_embed.*")), 2, 4),
        (BackboneTrainingConfig(frozen=("visual.blocks.0.*",)), 4, 4),
        (BackboneTrainingConfig(frozen=("model.*", "lm_head.*")), 4, 3),
        (BackboneTrainingConfig(oversampling=2), 2.5, 2.5),  # half of what is answered is learnt
        (BackboneTrainingConfig(old_log_probs="recomputed"), 5, 5),
        (BackboneTrainingConfig(loss=BackboneLossConfig(kl_weight=0.1)), 5, 5),
    ],
)
def test_passes(joint, tower, decoder):
    assert passes_of_step(CONFIG, joint) == (tower, decoder)
    assert passes_of_step(CONFIG, joint, in_process=False) == (tower - 1, decoder - 1)


def test_a_step_counts_prompts_as_they_are_laid_out():
    rollouts = RolloutConfig(
        num_allocations=2, token_capacity=5, decoding=DecodingConfig(max_new_tokens=3)
    )
    limits = SizeLimits(min_pixels=28 * 28)
    geometry = Geometry(((56, 56),), ScaleRange(s_min=0.2, s_max=1.0), limits)
    setting = Setting(CONFIG, "float32", geometry, rollouts)
    assert setting.levels(3) is None
    unused = jnp.zeros((2, 2))
    drawn = Draw(unused, unused, unused, unused, unused, unused, jnp.asarray(GRIDS), None)
    mask = np.array([[[[1, 1, 1]], [[1, 0, 0]]], [[[1, 1, 0]], [[1, 1, 1]]]], bool)
    answers = Generation(jnp.zeros(mask.shape), jnp.zeros(mask.shape), jnp.asarray(mask))
    entries = np.array([[-1, 0, -1, 1, -1, 2, -1, -1], [-1, 0, -1, 1, -1, -1, -1, -1]])
    records = {"entry_index": entries, "compact_length": np.array([8, 5], np.int32)}

    expected = 0
    for b, m in np.ndindex(2, 2):
        layout = expand_prompt(
            np.full(8, 7),
            records["compact_length"][b],
            entries[b],
            GRIDS[b, m],
            np.ones(3),
            capacity=32,
        )
        expected += decoder_flops(CONFIG, int(layout.length), logits=1)
        decoded = int(mask[b, m].sum()) - 1
        past = {"past": int(layout.length), "logits": decoded}
        expected += decoder_flops(CONFIG, decoded, **past)
        shown = [tuple(grid[1:]) for grid in GRIDS[b, m].tolist()]
        expected += vision_flops(CONFIG, shown)
    assert own_flops(setting, None, drawn, answers, records) == expected
    joint = BackboneTrainingConfig(update=UpdateConfig(epochs=2))
    assert own_flops(setting, joint, drawn, answers, records) == 7 * expected


def test_a_rollout_runs_a_prompt_once_for_all_answers_to_an_allocation():
    """Seven tokens of eight once; for each answer the eighth, then its own but the last."""
    first, second = np.array([[[3, 1]]]), np.array([[[3]]])
    prompt = np.array([[8]])
    eighth = decoder_flops(CONFIG, 1, past=7)
    once = decoder_flops(CONFIG, 7, logits=0) + 2 * eighth
    once += decoder_flops(CONFIG, 2, past=8, logits=2)
    assert answer_flops(CONFIG, prompt, first) - shared_flops(CONFIG, prompt, 2) == once
    assert shared_flops(CONFIG, prompt, second.shape[2]) == 0
