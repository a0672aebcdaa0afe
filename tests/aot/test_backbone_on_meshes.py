"""A 7B backbone's log-probs and gradients compiled for meshes; run by `make test-aot`."""

from functools import partial

import jax
import meshes
import pytest
from backbones import QWEN2_5_VL_7B, abstract_batch, abstract_params, for_training
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from resadapt_jax.generation.teacher_forcing import answer_log_probs
from resadapt_jax.models.families import family_of
from resadapt_jax.training.memory import Load, estimate_memory

H100S = meshes.h100s, meshes.H100_BYTES
V5PS = partial(meshes.tpus, "v5p:2x2x4"), meshes.V5P_BYTES


def loss(config, params, batch):
    encode = partial(family_of(config).model.encode_visual, params, config)
    visual = jax.vmap(encode)(batch.patches, batch.plan)
    log_probs = answer_log_probs(params, config, batch.layout, visual, batch.token_ids, batch.mask)
    return (batch.weights * log_probs).sum()


@pytest.mark.parametrize(
    "make_mesh, memory, shape",
    [(*H100S, (1, 32, 1)), (*H100S, (4, 4, 2)), (*V5PS, (1, 16, 1))],
    ids=["h100-1x32x1", "h100-4x4x2", "v5p-1x16x1"],
)
def test_weights_are_gathered_a_layer_at_a_time(make_mesh, memory, shape):
    mesh, config = make_mesh(shape), for_training(QWEN2_5_VL_7B)
    params = abstract_params(config, mesh)
    batch = abstract_batch(config, mesh, rows=64, text=128, visual=3968, answer=256)
    places = jax.tree.map(lambda x: x.sharding, params)
    program = meshes.compile_on(
        mesh,
        jax.value_and_grad(partial(loss, config)),
        params,
        batch,
        out_shardings=(NamedSharding(mesh, P()), places),
    )
    used, gathered = meshes.bytes_per_device(program), meshes.largest_all_gather(program)
    print(f"\n{shape}: {used / 1e9:.1f} GB a device, largest all-gather {gathered / 1e9:.2f} GB")
    assert used < memory
    load = Load(rows=64, positions=128 + 3968 + 256, visual_tokens=3968)
    expected = estimate_memory(
        config, dict(zip(meshes.AXES, shape, strict=True)), load, moment_bytes=0
    )
    assert expected.total / 1.25 < used < expected.total * 1.25
    # The embedding and the head are the largest weights; of the rest, no more than a layer.
    table = 2 * config.text.vocab_size * config.text.hidden_size
    assert 0 < gathered < 1.1 * table
