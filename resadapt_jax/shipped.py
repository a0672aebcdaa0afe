"""Where the models that come with the package are."""

from pathlib import Path

_ASSETS = Path(__file__).parent / "assets"

TOY_BACKBONE = _ASSETS / "toy_backbone"
"""The tiny Qwen2.5-VL of the embedded world, a Hugging Face directory (configs/toy_pretrain.py)."""

TOY_ALLOCATOR = _ASSETS / "toy_allocator"
"""An allocator trained on the embedded world (configs/toy.py)."""
