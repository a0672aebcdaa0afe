"""Layers shared by the ports: functions of a parameter subtree in the checkpoint's orientation."""

import jax
import jax.numpy as jnp

from resadapt_jax.models.partition import BATCH, constrain
from resadapt_jax.typing import Array, Float, Int, Params


def linear(params: Params, x: Float[Array, "*N I"]) -> Float[Array, "*N O"]:
    """``x Wᵀ + b`` with ``weight [O, I]`` and, where the checkpoint has one, ``bias [O]``."""
    y = _product(x, params["weight"])
    if "bias" in params:
        y = y + params["bias"].reshape((1,) * (y.ndim - 1) + (-1,))
    return y


def head_logits(params: Params, hidden: Float[Array, "*N D"]) -> Float[Array, "*N V"]:
    """``x Wᵀ`` with ``weight [V, D]``, summed and returned in float32 whatever the two are in.

    Rounded to bfloat16, likely tokens would tie, and log-probs differ from program to program.
    Gradients are products in the dtype of ``hidden``: float32 would have the head as a copy.
    """
    return _product_in_float32(hidden, params["weight"])


def _product(x: Float[Array, "*N I"], weight: Float[Array, "O I"]) -> Float[Array, "*N O"]:
    return jnp.einsum("...i,oi->...o", x, weight)


@jax.custom_vjp
def _product_in_float32(
    x: Float[Array, "*N I"], weight: Float[Array, "O I"]
) -> Float[Array, "*N O"]:
    return jnp.einsum("...i,oi->...o", x, weight, preferred_element_type=jnp.float32)


def _forward(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product_in_float32(x, weight), (x, weight)


def _backward(inputs: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    _, pull = jax.vjp(_product, *inputs)
    return pull(cotangent.astype(inputs[0].dtype))


_product_in_float32.defvjp(_forward, _backward)


def embed(params: Params, ids: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Rows of ``weight [V, D]``, for a batch that a mesh may split."""
    table = constrain(params["weight"], "tensor", None)
    return constrain(table[ids], BATCH)


def joint_heads(
    params: Params, x: Float[Array, "N I"], head_dim: int
) -> tuple[Float[Array, "N H D"], Float[Array, "N H D"], Float[Array, "N H D"]]:
    """``x Wᵀ + b`` in heads: queries, keys and values, whose weights are thirds of one."""
    # A mesh splits the rows of the whole; attention needs a part of the heads of each third.
    weight = params["weight"].reshape(3, -1, head_dim, x.shape[-1])
    weight = constrain(weight, None, "tensor")
    y = jnp.einsum("ni,phdi->nphd", x, weight) + params["bias"].reshape(1, *weight.shape[:3])
    return y[:, 0], y[:, 1], y[:, 2]


def rms_norm(params: Params, x: Float[Array, "*N D"], eps: float) -> Float[Array, "*N D"]:
    """``weight · x / √(mean(x²) + eps)``, normalised in float32 and cast before the weight."""
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    weight = params["weight"].reshape((1,) * (x.ndim - 1) + (-1,))
    return weight * (x32 * scale).astype(x.dtype)


def layer_norm(params: Params, x: Float[Array, "*N D"], eps: float) -> Float[Array, "*N D"]:
    """``weight · (x - mean(x)) / √(var(x) + eps) + bias``, all of it in float32."""
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps)
    ones = (1,) * (x.ndim - 1)
    weight, bias = (params[name].reshape(*ones, -1) for name in ("weight", "bias"))
    return (centred * scale * weight + bias).astype(x.dtype)


def swiglu(params: Params, x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
    """``down(silu(gate(x)) · up(x))``."""
    gate = jax.nn.silu(linear(params["gate_proj"], x))
    return linear(params["down_proj"], gate * linear(params["up_proj"], x))
