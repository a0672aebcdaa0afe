"""Temporal similarity: neighbouring units that look alike should not both be large."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from resadapt_jax.typing import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimilarityConfig:
    """Coefficients of the temporal similarity loss; values of the released code.

    Attributes:
      form: ``"paper"`` is eq. (18); ``"released"`` asks each scale to lie below the one before it.
      threshold: τ_sim, cosine at which the gate is half open.
      temperature: γ_sim, width of the gate.
      margin: η_sim of the paper's hinge; of the released one, the log-scale descent at an open
        gate.
      feature_gradient: whether the loss may also fall by making features dissimilar, as in the
        released code.
    """

    form: Literal["paper", "released"] = "paper"
    threshold: float = 0.6
    temperature: float = 0.15
    margin: float = 0.05
    feature_gradient: bool = True

    def __post_init__(self):
        if self.form not in ("paper", "released"):
            raise ValueError(f'form must be "paper" or "released", got {self.form!r}')
        if not self.temperature > 0.0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")


@struct.dataclass
class SimilarityAux:
    """What the loss saw of each pair of neighbours (float32 but for the mask)."""

    mask: Bool[Array, "*B K-1"]  # both units exist, in one segment
    cosine: Float[Array, "*B K-1"]  # similarity of their features
    gate: Float[Array, "*B K-1"]  # w of eq. (19)


def temporal_similarity(
    scales: Float[Array, "*B K"],
    features: Float[Array, "*B K D"],
    mask: Bool[Array, "*B K"] | None = None,
    config: SimilarityConfig = SimilarityConfig(),
    segment_ids: Int[Array, "*B K"] | None = None,
) -> tuple[Float[Array, "*B K-1"], SimilarityAux]:
    """Per pair of neighbours, with w = σ((cos(f_t, f_t+1) - τ_sim)/γ_sim), eq. (19):

    paper, eq. (18): w·max(0, log s_t + log s_t+1 + η);
    released:        w·max(0, log s_t+1 - log s_t + η·w).

    Differentiated with respect to ``scales`` and, by config, ``features``.

    Args:
      scales: the policy's mean scales, positive.
      features: the feature of each unit.
      mask: units that exist. The others may hold anything; their pairs give 0.
      config: form and coefficients.
      segment_ids: units are neighbours only within a segment; one segment when None.

    Returns:
      The loss of each pair, and a record whose ``mask`` is the one to reduce with.
    """
    scales = jnp.asarray(scales, jnp.float32)
    features = jnp.asarray(features, jnp.float32)
    mask = jnp.ones(scales.shape, bool) if mask is None else mask
    log_scales = jnp.log(jnp.where(mask, scales, 1.0))
    cosine = _neighbour_cosine(jnp.where(mask[..., None], features, 0.0))
    cosine = cosine if config.feature_gradient else jax.lax.stop_gradient(cosine)
    gate = jax.nn.sigmoid((cosine - config.threshold) / config.temperature)
    first, second = log_scales[..., :-1], log_scales[..., 1:]
    if config.form == "paper":
        hinge = jax.nn.relu(first + second + config.margin)
    else:
        hinge = jax.nn.relu(second - first + config.margin * gate)
    pairs = mask[..., :-1] & mask[..., 1:]
    if segment_ids is not None:
        pairs &= segment_ids[..., :-1] == segment_ids[..., 1:]
    aux = jax.lax.stop_gradient(SimilarityAux(mask=pairs, cosine=cosine, gate=gate))
    return jnp.where(pairs, gate * hinge, 0.0), aux


def _neighbour_cosine(features: Float[Array, "*B K D"]) -> Float[Array, "*B K-1"]:
    # The floor sits inside the root: the gradient of a norm is NaN at a zero vector.
    norm = jnp.sqrt(jnp.maximum(jnp.sum(features**2, -1, keepdims=True), 1e-12))
    unit = features / norm
    return jnp.sum(unit[..., :-1, :] * unit[..., 1:, :], -1)
