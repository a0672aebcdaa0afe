"""Qwen2.5-VL as pure functions of a parameter tree (arXiv:2502.13923)."""
