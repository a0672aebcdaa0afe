"""Steps of the paper's configs at 7B compiled for TPUs; run by `make test-aot-tpu`."""

from dataclasses import replace

import meshes
from paper_steps import check_estimate, compiled, joint, load, most

from resadapt_jax.training.mesh import MeshConfig


def test_the_joint_step_fits_on_16_v5ps():
    config = joint(MeshConfig(data=1, fsdp=16), micro_batches=4)
    trainer, programs = compiled(config, meshes.tpus("v5p:2x2x4", (1, 16, 1)))
    assert most(programs) < meshes.V5P_BYTES
    check_estimate(trainer, programs, update_within=1.75)


def test_the_allocators_step_fits_on_8_v5es():
    """Heads are split four ways, and with them the table of words: a whole one takes a gigabyte."""
    config = load("resadapt_qwen2_5_vl_7b_32f")
    config = replace(config, mesh=MeshConfig(data=1, fsdp=2, tensor=4), batch_size=16)
    _, programs = compiled(config, meshes.tpus("v5e:2x4", (1, 2, 4)))
    assert most(programs) < meshes.V5E_BYTES
