"""The paper's joint step at 7B compiled for H100s; run by `make test-aot`."""

import meshes
from paper_steps import check_estimate, compiled, joint, load, most

from resadapt_jax.training.mesh import MeshConfig


def test_the_joint_step_fits_on_32_h100s():
    config = load("resadapt_rl_qwen2_5_vl_7b")
    shape = config.mesh.data, config.mesh.fsdp, config.mesh.tensor
    trainer, programs = compiled(config, meshes.h100s(shape))
    assert most(programs) < meshes.H100_BYTES
    check_estimate(trainer, programs, update_within=1.25)


def test_a_tensor_axis_splits_what_is_learnt():
    config = joint(MeshConfig(data=4, fsdp=4, tensor=2), micro_batches=4)
    only = ("backbone_step.gradients_of_pass",)
    trainer, programs = compiled(config, meshes.h100s((4, 4, 2)), only)
    assert most(programs) < meshes.H100_BYTES
    check_estimate(trainer, programs, update_within=1.25)
