"""Qwen3-VL (dense) as pure functions of a parameter tree (arXiv:2511.21631)."""
