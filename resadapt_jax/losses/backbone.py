"""The backbone's objective over answer tokens: GRPO and its descendants, and a KL penalty."""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from resadapt_jax.losses.aggregate import (
    Aggregation,
    Sums,
    WeightedSum,
    aggregate,
    mean_per_sequence,
)
from resadapt_jax.losses.kl import KlEstimator, kl_penalty
from resadapt_jax.losses.policy_gradient import clean, clipped_surrogate, surrogate_metrics
from resadapt_jax.typing import Array, Bool, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneLossConfig:
    """Coefficients of the backbone's objective; by default those of ResAdapt's released code.

    ``grpo``, ``dr_grpo``, ``dapo`` and ``gspo`` give those of the papers. What such a method does
    to advantages is in ``advantages`` (``GroupNorm``, ``informative``), and DAPO's penalty for long
    answers is ``rewards.overlong_penalty``.

    Attributes:
      clip_low: see ``clipped_surrogate``.
      clip_high: see ``clipped_surrogate``.
      dual_clip: see ``clipped_surrogate``.
      ratio: ``"token"`` weighs and clips each token by its own importance ratio, eq. (25);
        ``"sequence"`` by the geometric mean of its answer's.
      aggregation: see ``aggregate``.
      max_length: the constant of ``"sequence-mean-token-sum"``, in tokens.
      kl_estimator: see ``kl_penalty``.
      kl_weight: coefficient of the divergence from the reference policy.
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = 10.0
    ratio: Literal["token", "sequence"] = "token"
    aggregation: Aggregation = "sequence-mean-token-mean"
    max_length: int | None = None
    kl_estimator: KlEstimator = "k3"
    kl_weight: float = 0.0

    def __post_init__(self):
        choices = {
            "ratio": ("token", "sequence"),
            "aggregation": get_args(Aggregation),
            "kl_estimator": get_args(KlEstimator),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if (self.aggregation == "sequence-mean-token-sum") != (self.max_length is not None):
            raise ValueError(
                "max_length belongs to the aggregation sequence-mean-token-sum, got "
                f"{self.max_length} with {self.aggregation}"
            )
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {self.max_length}")
        if not self.kl_weight >= 0.0:
            raise ValueError(f"kl_weight must not be negative, got {self.kl_weight}")

    @classmethod
    def grpo(cls) -> "BackboneLossConfig":
        """GRPO, arXiv 2402.03300: one clip range, mean per answer, KL with k3 and 0.04."""
        return cls(clip_high=0.2, dual_clip=None, kl_weight=0.04)

    @classmethod
    def dr_grpo(cls, max_length: int) -> "BackboneLossConfig":
        """Dr.GRPO, arXiv 2503.20783: tokens over a constant. With ``GroupNorm`` that only centres.

        Args:
          max_length: the longest answer that may be generated, in tokens.
        """
        aggregation = "sequence-mean-token-sum"
        return cls(clip_high=0.2, dual_clip=None, aggregation=aggregation, max_length=max_length)

    @classmethod
    def dapo(cls) -> "BackboneLossConfig":
        """DAPO, arXiv 2503.14476: clip-higher, and every token weighs the same."""
        return cls(dual_clip=None, aggregation="token-mean")

    @classmethod
    def gspo(cls) -> "BackboneLossConfig":
        """GSPO, arXiv 2507.18071: one ratio per answer, so a far narrower range."""
        return cls(clip_low=3e-4, clip_high=4e-4, dual_clip=None, ratio="sequence")


def backbone_loss(
    log_probs: Float[Array, "B M N T"],
    old_log_probs: Float[Array, "B M N T"],
    advantages: Float[Array, "B M N"],
    mask: Bool[Array, "B M N T"],
    config: BackboneLossConfig = BackboneLossConfig(),
    *,
    ref_log_probs: Float[Array, "B M N T"] | None = None,
) -> tuple[WeightedSum, Sums]:
    """L_φ = aggregate of -min(r·A, clip(r)·A) + β·KL over the tokens of the answers, eq. (24).

    With one ratio per answer, s = exp(mean_t [log π - log π_old]), every token of it holds s. The
    gradient of an answer's mean is then -A·s·mean_t ∇log π while s is inside the range: GSPO's.
    Micro-batches add up to the whole batch exactly. Only ``log_probs`` is differentiated.

    Args:
      log_probs: of each answer token under the policy being trained.
      old_log_probs: under the policy that drew it.
      advantages: one per answer.
      mask: tokens that count. The others may hold anything, NaN included; so may the advantage of
        an answer without any. Leave out a whole prompt to have DAPO's dynamic sampling.
      config: coefficients.
      ref_log_probs: under the reference policy; without them there is no divergence.

    Returns:
      The loss, whose weight is the number of answers (of tokens for ``"token-mean"``), and the
      metrics: its terms before their coefficients, aggregated alike, and those of the surrogate's
      record over tokens (``surrogate_metrics``).

    Raises:
      ValueError: shapes that do not agree, or a ``kl_weight`` without ``ref_log_probs``.
    """
    if config.kl_weight and ref_log_probs is None:
        raise ValueError(f"kl_weight is {config.kl_weight}, but there are no ref_log_probs")
    if advantages.shape != mask.shape[:-1]:
        raise ValueError(f"advantages {advantages.shape} are not one per answer of {mask.shape}")
    new, old = clean(mask, log_probs=log_probs, old_log_probs=old_log_probs)
    log_ratio = new - jax.lax.stop_gradient(old)
    if config.ratio == "sequence":
        mean, _ = mean_per_sequence(log_ratio, mask)
        log_ratio = jnp.broadcast_to(mean[..., None], mask.shape)
    surrogate, aux = clipped_surrogate(
        log_ratio,
        jnp.zeros_like(log_ratio),
        jnp.broadcast_to(advantages[..., None], mask.shape),
        mask,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
    )
    terms = {"loss": surrogate, "surrogate": surrogate}
    if ref_log_probs is not None:
        terms["kl"] = kl_penalty(new, ref_log_probs, mask, estimator=config.kl_estimator)
        terms["loss"] = surrogate + config.kl_weight * terms["kl"]
    metrics = {
        name: aggregate(term, mask, mode=config.aggregation, length=config.max_length)
        for name, term in terms.items()
    }
    return metrics["loss"], metrics | surrogate_metrics(aux, mask)
