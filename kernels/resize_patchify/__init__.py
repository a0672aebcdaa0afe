"""Resize frames to per-unit sizes and write them as normalised patches, packed."""

from kernels.resize_patchify.api import resize_patchify

__all__ = ["resize_patchify"]
