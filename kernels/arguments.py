"""What a caller gives as an array, whatever it comes as."""

import jax
import numpy as np
from jaxtyping import Array, Num


def as_array(name: str, value: object) -> Num[Array | np.ndarray, "..."]:
    """An array of JAX's or numpy's as it is; lists and other libraries' tensors as numpy has them.

    Raises:
        ValueError: it is no array of numbers. Names the argument.
    """
    if isinstance(value, jax.Array | np.ndarray):
        return value
    try:
        array = np.asarray(value)
    except Exception as error:  # whatever another library's tensor has against it
        raise ValueError(f"{name} is no array: {error}") from error
    if array.dtype == object:
        raise ValueError(f"{name} must be an array of numbers, got {type(value).__name__}")
    return array
