"""Runs that cannot be are refused before their first step."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from resadapt_jax import advantages
from resadapt_jax.allocator import ScaleRange
from resadapt_jax.errors import UserError
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.rewards import RewardConfig
from resadapt_jax.training import recipe
from resadapt_jax.training.checks import check_batches, check_geometry, check_memory, memory_of
from resadapt_jax.training.config import BackboneTrainingConfig
from resadapt_jax.training.mesh import MeshConfig, build_mesh, require_own_prompts
from resadapt_jax.training.recipe import make_trainer
from resadapt_jax.training.update import UpdateConfig
from tests.training.step_parts import CONFIG, JOINT, ONE_DEVICE, Run
from tests.training.toy_parts import backbone

FILTERED = replace(CONFIG.rollouts, decoding=DecodingConfig(temperature=1.0, top_p=0.9))


def test_both_optimizers_know_how_many_updates_come(monkeypatch):
    updates = []

    def make_optimizer(config, num_updates):
        updates.append(num_updates)
        return recipe_optimizer(config, num_updates)

    recipe_optimizer = recipe.make_optimizer
    monkeypatch.setattr(recipe, "make_optimizer", make_optimizer)
    joint = replace(JOINT.backbone_training, update=UpdateConfig(epochs=2, mini_batches=2))
    Run(replace(JOINT, update=UpdateConfig(epochs=3), backbone_training=joint))
    assert updates == [4 * 3, 4 * 2 * 2]


def test_what_the_backbone_cannot_take_is_refused():
    def check(config):
        trainer = make_trainer(config, build_mesh(ONE_DEVICE), backbone(), config.data.native_sizes)
        check_geometry(trainer, config.data.num_pairs)

    check(CONFIG)
    with pytest.raises(UserError, match="token_capacity is 2, but 3 pairs .* need 3"):
        check(replace(CONFIG, rollouts=replace(CONFIG.rollouts, token_capacity=2)))
    with pytest.raises(UserError, match="patches of 16 pixels .* the backbone has 14 and 2"):
        check(replace(CONFIG, limits=replace(CONFIG.limits, patch_size=16)))


def test_memory_is_refused_where_a_device_says_what_it_has(monkeypatch):
    trainer = make_trainer(JOINT, build_mesh(ONE_DEVICE), backbone(), JOINT.data.native_sizes)
    check_memory(trainer, prompt_tokens=30)  # a CPU does not say
    estimate = memory_of(trainer, prompt_tokens=30)
    # 2 prompts, 4 allocations, 30 + 9 positions and 2 tokens whose keys and values are kept, in 2
    # layers of 2 heads of 32, float32.
    assert estimate.cache == 2 * 4 * 2 * (39 + 2) * 2 * 2 * 32 * 4
    device = type(jax.local_devices()[0])
    limit = {"bytes_limit": estimate.total - 1}
    monkeypatch.setattr(device, "memory_stats", lambda self: limit)
    with pytest.raises(UserError, match="a device would need about"):
        check_memory(trainer, prompt_tokens=30)
    limit["bytes_limit"] += 1
    check_memory(trainer, prompt_tokens=30)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 3, "mesh": MeshConfig(data=2)},
            "batch_size 3 must be .* mesh.data x mesh.fsdp 2",
        ),
        ({"update": UpdateConfig(mini_batches=4)}, "update.mini_batches 4, update.micro_batches 1"),
        (
            {
                "rollouts": JOINT.rollouts,
                "backbone_training": BackboneTrainingConfig(oversampling=4),
            },
            "backbone_training.oversampling 4, backbone_training.update.mini_batches 1",
        ),
    ],
)
def test_batches_that_cannot_be_shared_out_are_refused(changes, message):
    config = replace(CONFIG, **changes)
    with pytest.raises(UserError, match=message):
        check_batches(config, build_mesh(config.mesh))


def test_prompts_are_of_one_process():
    def devices(*processes):
        return np.array([SimpleNamespace(process_index=p) for p in processes]).reshape(2, 1, 2)

    require_own_prompts(devices(0, 0, 1, 1))
    with pytest.raises(UserError, match="mesh.tensor 2 reaches over several processes"):
        require_own_prompts(devices(0, 1, 0, 1))


def test_a_mesh_of_more_devices_than_there_are_is_refused():
    with pytest.raises(UserError, match="4 x 2 x 2, more than the devices that there are: 8"):
        build_mesh(MeshConfig(data=4, fsdp=2, tensor=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"allocator": None}, "train_allocator needs an allocator"),
        ({"train_allocator": False}, "start_allocator"),
        ({"train_allocator": False, "start_allocator": "x"}, "nothing to train"),
        ({"rewards": RewardConfig(overlong_buffer=4)}, "at most 3 tokens"),
        ({"rollouts": FILTERED, "backbone_training": JOINT.backbone_training}, "top_p draw from"),
        (
            {
                "train_allocator": False,
                "start_allocator": "x",
                "rollouts": JOINT.rollouts,
                "backbone_training": BackboneTrainingConfig(ispred=True),
            },
            "ispred weighs by the allocator's update",
        ),
        ({"backbone_training": JOINT.backbone_training}, "temperature is 0"),
        (
            {"rollouts": replace(CONFIG.rollouts, num_allocations=1, num_answers=4)},
            "num_allocations is 1: an allocator learns from what differs",
        ),
        (
            {
                "advantage": advantages.GrpoConfig(compare="allocation"),
                "rollouts": replace(CONFIG.rollouts, num_answers=4),
            },
            "an allocator learns nothing from that",
        ),
        (
            {
                "advantage": advantages.GrpoConfig(compare="allocation"),
                "train_allocator": False,
                "allocator": None,
                "rollouts": JOINT.rollouts,
                "backbone_training": BackboneTrainingConfig(),
            },
            "advantage.compare is .*num_answers is 1",
        ),
        (
            {
                "rollouts": JOINT.rollouts,
                "backbone_training": BackboneTrainingConfig(
                    advantages="released", grpo=advantages.GrpoConfig(compare="allocation")
                ),
            },
            "backbone_training.grpo.compare is .*num_answers is 1",
        ),
        ({"scale_range": ScaleRange(s_min=0.2, s_max=4.5)}, "no frame is enlarged more than 4.0"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)
