"""Trees of parameters: the shapes of recurring layers, and random values for any of them."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.typing import DTypeLike

from resadapt_jax.typing import Array, Key, Params

Shapes = dict[str, tuple[int, ...]]
"""Key of a checkpoint -> shape."""

# Tables that are looked up have no fan-in.
_EMBEDDINGS = ("embed_tokens.weight", "pos_embed.weight", "position_embedding.weight")


def linear_shapes(name: str, inputs: int, outputs: int, *, bias: bool) -> Shapes:
    """What `layers.linear` takes."""
    shapes = {f"{name}.weight": (outputs, inputs)}
    return shapes | {f"{name}.bias": (outputs,)} if bias else shapes


def layer_norm_shapes(name: str, width: int) -> Shapes:
    """What `layers.layer_norm` takes."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def swiglu_shapes(name: str, width: int, hidden: int, *, bias: bool) -> Shapes:
    """What `layers.swiglu` takes."""
    return (
        linear_shapes(f"{name}.gate_proj", width, hidden, bias=bias)
        | linear_shapes(f"{name}.up_proj", width, hidden, bias=bias)
        | linear_shapes(f"{name}.down_proj", hidden, width, bias=bias)
    )


def init_params(
    key: Key[Array, ""], shapes: Mapping[str, tuple[int, ...]], dtype: DTypeLike = jnp.float32
) -> Params:
    """Random parameters for training from scratch.

    Matrices are normal with variance 1 / fan-in, embeddings normal with standard deviation 0.02,
    norms 1, biases 0.
    """
    params = {}
    for index, (name, shape) in enumerate(sorted(shapes.items())):
        noise = jax.random.fold_in(key, index)
        if name.endswith("bias"):
            params[name] = jnp.zeros(shape, dtype)
        elif len(shape) == 1:
            params[name] = jnp.ones(shape, dtype)
        else:
            scale = 0.02 if name.endswith(_EMBEDDINGS) else math.prod(shape[1:]) ** -0.5
            params[name] = (scale * jax.random.normal(noise, shape)).astype(dtype)
    return traverse_util.unflatten_dict(params, sep=".")
