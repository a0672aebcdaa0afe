"""Attention over packed sequences: each query sees the keys of its own segment, none after it."""

from kernels.segment_attention.api import attend_in_places, attend_within_segments
from kernels.segment_attention.backends import Backend
from kernels.segment_attention.places import Places

__all__ = ["Backend", "Places", "attend_in_places", "attend_within_segments"]
