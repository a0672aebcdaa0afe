"""The dimension letters that recur in signatures, and the array types they annotate.

=======  ==========================================================================
letter   meaning
=======  ==========================================================================
``B``    prompts in a batch
``M``    allocations drawn per prompt
``N``    answers generated per allocation; in text features, text tokens
``F``    frames of a clip
``K``    units that receive one scale each: temporal pairs (default) or frames
``E``    visual entries of a prompt, one ``(t, h, w)`` grid each
``P``    vision patches of a packed layout (static capacity)
``U``    merged visual tokens of a packed layout (static capacity)
``C``    compact prompt positions: text tokens plus one placeholder per entry
``T``    query positions of the decoder
``S``    key positions of the decoder
``L``    encoder tokens of one frame
``D``    network width
``W``    features of a merged visual token, all that the decoder takes of it
``I``    inputs of a linear layer
``O``    its outputs
``A``    angles of a rotary embedding
``H``    attention heads
``V``    vocabulary
``Hq``   query heads
``Hk``   key-value heads
=======  ==========================================================================

Height and width are spelled out. Pixels are ``height``/``width``; patches are ``rows``/``cols``.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Bool, Float, Int, Key, Num, PyTree, Shaped, UInt8

Params = Mapping[str, Any]
"""A nested mapping of arrays whose path, joined by dots, is the checkpoint's key."""

__all__ = ["Array", "Bool", "Float", "Int", "Key", "Num", "Params", "PyTree", "Shaped", "UInt8"]
