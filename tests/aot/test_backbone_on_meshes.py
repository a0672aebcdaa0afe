"""A 7B backbone's log-probs and gradients compiled for meshes; run by `make test-aot`."""

from functools import partial

import jax
import jax.numpy as jnp
import meshes
import pytest
from backbones import QWEN2_5_VL_7B, abstract_batch, abstract_params, for_training
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from resadapt_jax.generation.teacher_forcing import answer_log_probs
from resadapt_jax.models.families import family_of
from resadapt_jax.models.partition import BATCH
from resadapt_jax.training.memory import Load, estimate_memory

ROWS, TEXT, VISUAL, ANSWER = 64, 128, 3968, 256


def with_tower(config, params, batch):
    encode = partial(family_of(config).model.encode_visual, params, config)
    return decoder(config, params, batch, jax.vmap(encode)(batch.patches, batch.plan))


def decoder(config, params, batch, visual):
    log_probs = answer_log_probs(params, config, batch.layout, visual, batch.token_ids, batch.mask)
    return (batch.weights * log_probs).sum()


def compiled(mesh, config, loss, *more):
    """Loss and gradients of a 7B, and the bytes of a device."""
    params = abstract_params(config, mesh)
    batch = abstract_batch(config, mesh, rows=ROWS, text=TEXT, visual=VISUAL, answer=ANSWER)
    places = jax.tree.map(lambda x: x.sharding, params)
    program = meshes.compile_on(
        mesh,
        jax.value_and_grad(partial(loss, config)),
        params,
        batch,
        *more,
        out_shardings=(NamedSharding(mesh, P()), places),
    )
    used, gathered = meshes.bytes_per_device(program), meshes.largest_all_gather(program)
    print(
        f"\n{mesh.shape}: {used / 1e9:.1f} GB a device, all-gathers up to {gathered / 1e9:.2f} GB"
    )
    # The embedding and the head are the largest weights; of the rest, no more than a layer.
    table = 2 * config.text.vocab_size * config.text.hidden_size
    assert 0 < gathered < 1.1 * table
    return used


@pytest.mark.parametrize("shape", [(1, 32, 1), (4, 4, 2)])
def test_h100s_gather_a_layer_at_a_time(shape):
    mesh, config = meshes.h100s(shape), for_training(QWEN2_5_VL_7B)
    used = compiled(mesh, config, with_tower)
    assert used < meshes.H100_BYTES
    load = Load(rows=ROWS, positions=TEXT + VISUAL + ANSWER, visual_tokens=VISUAL)
    types = {"param_dtype": jnp.bfloat16, "moment_bytes": 0}
    estimate = estimate_memory(config, mesh.shape, load, **types)
    expected = estimate.total - estimate.answering  # what is trained computes as it is
    assert expected / 1.25 < used < expected * 1.25


def test_v5ps_gather_a_layer_at_a_time():
    """The decoder alone: the tower takes libtpu longer than all the rest."""
    mesh, config = meshes.tpus("v5p:2x2x4", (1, 16, 1)), for_training(QWEN2_5_VL_7B)
    visual = jax.ShapeDtypeStruct(
        (ROWS, VISUAL, config.text.hidden_size),
        jnp.bfloat16,
        sharding=NamedSharding(mesh, P(BATCH)),
    )
    assert compiled(mesh, config, decoder, visual) < meshes.V5P_BYTES
