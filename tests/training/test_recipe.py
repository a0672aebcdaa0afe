"""Whole runs: what they record of the code they are given, and how a bad step is repeated."""

import json
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from resadapt_jax import advantages
from resadapt_jax.errors import UserError
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.models.qwen2_5_vl.checkpoint import save_hf
from resadapt_jax.training.config import TrainConfig
from resadapt_jax.training.export import export
from resadapt_jax.training.loop.run_config import RunConfig
from resadapt_jax.training.mesh import MeshConfig
from resadapt_jax.training.recipe import open_run, record_code, replay, train
from resadapt_jax.training.rollout_config import RolloutConfig
from tests.training.toy_parts import ALLOCATOR, WORLD, backbone


def nowhere(group):
    """Advantages that are no numbers."""
    return advantages.make_advantages(group, jnp.full_like(group.rewards, jnp.nan))


@pytest.fixture
def config(tmp_path):
    save_hf(tmp_path / "tiny", backbone().config, backbone().params)
    backbone().tokenizer.save_pretrained(tmp_path / "tiny")
    return TrainConfig(
        output_dir=str(tmp_path / "run"),
        mesh=MeshConfig(data=1),
        backbone=str(tmp_path / "tiny"),
        data=replace(WORLD, size=56),
        num_steps=2,
        batch_size=2,
        allocator=ALLOCATOR,
        rollouts=RolloutConfig(
            num_allocations=2, token_capacity=9, decoding=DecodingConfig(max_new_tokens=2)
        ),
    )


def test_a_step_that_was_not_finite_is_repeated_alone(config, tmp_path):
    with pytest.raises(UserError, match="step 1: loss is nan.*recipe.replay"):
        train(config, estimator=nowhere)
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert saved["estimator"] == f"{__name__}.nowhere" and saved["engine"] == ""
    result = replay(config, estimator=nowhere)
    assert math.isnan(result.metrics["loss"]) and math.isfinite(result.metrics["reward"])


def test_an_earlier_checkpoint_can_be_exported(config):
    def weights(**run):
        (directory,) = train(replace(config, run=RunConfig(checkpoint_every=1, **run)))
        return load_file(directory / "model.safetensors")

    last, first = weights(), weights(export_step=1)
    key = "network.frame_projection.kernel"
    # The learning rate warms up from 0: the first step changes nothing that the second does.
    assert not np.array_equal(first[key], last[key])
    assert np.array_equal(weights()[key], last[key])
    with pytest.raises(UserError, match="export_step is 7, but the run has 2 steps"):
        weights(export_step=7)


def test_an_allocator_to_start_from_keeps_its_own_words(config, tmp_path):
    first = open_run(config)
    (directory,) = export(
        first.trainer, first.state, first.frozen, first.encoder, first.query_tokenizer
    )
    params = jax.tree.map(lambda x: 2 * x, backbone().params)
    save_hf(tmp_path / "tiny", backbone().config, params)
    words = np.asarray(first.encoder.text_table)
    assert np.array_equal(open_run(config).encoder.text_table, 2 * words)
    second = open_run(replace(config, start_allocator=str(directory)))
    np.testing.assert_array_equal(second.encoder.text_table, words)
    loaded, saved = (jax.tree.leaves(one.state.allocator.params) for one in (second, first))
    assert all(map(np.array_equal, loaded, saved))
    with jax.set_mesh(second.trainer.mesh):
        result = second.step(second.state, next(second.batches))
    assert math.isfinite(result.metrics["loss"])


def test_the_code_of_a_run_is_named(config):
    ours = record_code(config, estimator=nowhere, engine=None)
    assert record_code(ours, estimator=nowhere, engine=None) == ours
    with pytest.raises(UserError, match="estimator is .*nowhere, but train was given ''"):
        record_code(ours, estimator=None, engine=None)
    engine = record_code(config, estimator=None, engine=DecodingConfig()).engine
    assert engine == "resadapt_jax.generation.answer.DecodingConfig"
