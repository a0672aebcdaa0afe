"""The parity tests run transformers beside a CPU torch."""

import tests.parity.cpu_torchvision  # noqa: F401
