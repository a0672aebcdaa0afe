"""Integer planning runs on the host in numpy or on the device in jax, from one piece of code."""

from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np


def on_host(*values: Any) -> bool:
    """Whether all of them are numpy's or Python's own, so that nothing is traced or on a device."""
    return all(isinstance(value, (np.ndarray, np.generic, int, float)) for value in values)


def namespace_of(*values: Any) -> ModuleType:
    """``numpy`` for values `on_host`, else ``jax.numpy``."""
    return np if on_host(*values) else jnp
