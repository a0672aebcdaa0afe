"""Set before jax and libtpu are loaded: this machine's devices are never asked for."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # libtpu locks a file, in vain without a TPU
os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # nor is there a metadata server
