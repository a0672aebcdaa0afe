"""Adaptive frame resolution for vision-language models, in JAX (ResAdapt)."""
