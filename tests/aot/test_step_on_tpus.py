"""The paper's joint step at 7B compiled for TPUs; run by `make test-aot-tpu`."""

import meshes
from paper_steps import check_estimate, compiled, joint, most

from resadapt_jax.training.mesh import MeshConfig


def test_the_joint_step_fits_on_16_v5ps():
    config = joint(MeshConfig(data=1, fsdp=16), micro_batches=4)
    trainer, programs = compiled(config, meshes.tpus("v5p:2x2x4", (1, 16, 1)))
    assert most(programs) < meshes.V5P_BYTES
    check_estimate(trainer, programs, update_within=1.75)
