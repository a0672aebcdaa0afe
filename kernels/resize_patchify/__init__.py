"""Resize frames to per-unit sizes and write them as normalised patches, packed."""

from kernels.resize_patchify.api import (
    PackedPatches,
    patchify,
    resize_patchify,
    shard_resize_patchify,
)
from kernels.resize_patchify.backends import Backend
from kernels.resize_patchify.layout import Layout
from kernels.resize_patchify.spec import PatchSpec

__all__ = [
    "Backend",
    "Layout",
    "PackedPatches",
    "PatchSpec",
    "patchify",
    "resize_patchify",
    "shard_resize_patchify",
]
