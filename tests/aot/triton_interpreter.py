"""Adds the Triton kernel, in Triton's interpreter, to the backends that tests/kernels runs.

A plugin of pytest (-p triton_interpreter), for a process of its own with TRITON_INTERPRET=1: the
variable holds for all of Triton from its import on.
"""

import jax
import numpy as np
from resize_parts import IMPLEMENTATIONS

from kernels.resize_patchify import triton
from kernels.resize_patchify.gpu_tiles import block_table
from kernels.resize_patchify.triton_kernel import kernel


class Memory:
    """As much of torch.Tensor as the interpreter asks for; nothing is ever moved."""

    def __init__(self, array):
        self.array = array
        self.dtype = array.dtype.name

    def data_ptr(self):
        return self.array.ctypes.data

    def untyped_storage(self):
        return self

    cpu = untyped_storage

    def new_empty(self, size, device):
        return self

    def set_(self, *_):
        pass

    copy_ = set_

    def storage_offset(self):
        return 0

    def size(self):
        return self.array.shape

    def stride(self):
        return self.array.strides


def resize_patchify(frames, layout, spec):
    table = block_table(layout)
    tokens = len(table) * spec.merge_size**2
    out = jax.ShapeDtypeStruct((tokens, spec.features), spec.output_dtype)
    constants = triton.constants(frames.shape, frames.dtype, spec, layout.sources is not None)

    def on_host(table, frames):
        patches = np.full(out.shape, np.nan, out.dtype)
        memory = [Memory(np.ascontiguousarray(x)) for x in (table, frames)]
        grid = (len(table) * spec.temporal_patch_size,)
        kernel[grid](*memory, Memory(patches), **constants)
        return patches

    patches = jax.pure_callback(on_host, out, table, frames)
    return patches.reshape(frames.shape[0], -1, spec.features)


IMPLEMENTATIONS["triton"] = resize_patchify
