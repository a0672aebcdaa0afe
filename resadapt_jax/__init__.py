"""Adaptive frame resolution for vision-language models, in JAX (ResAdapt)."""

import os

# On every start transformers would advise to install torch, which nothing here uses.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
