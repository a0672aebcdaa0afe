"""How fast a run is: tokens a second, and the share of the devices' arithmetic that it uses."""

from collections.abc import Mapping

import jax

PEAK_FLOPS = {
    # Data sheets of NVIDIA; where they give figures with sparsity (H100, H200), half of those.
    "NVIDIA H200": 989.4e12,
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    # System architecture pages of Cloud TPU, per chip: v5e, v5p (two names), v6e.
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}
"""Dense bfloat16 operations per second of a device, by jax's ``device_kind``."""


def mfu(flops: float, seconds: float, num_devices: int, device_kind: str) -> float | None:
    """Model FLOPs utilisation: FLOPs / (seconds · devices · peak); arXiv 2204.02311, appendix B.

    Args:
        flops: that the model needs, of all devices together, recomputation not counted.

    Returns:
        None for a device whose peak is unknown.
    """
    peak = PEAK_FLOPS.get(device_kind)
    return None if peak is None else flops / (seconds * num_devices * peak)


def rates(values: Mapping[str, float]) -> dict[str, float]:
    """What a step's ``seconds`` say of the rest of its metrics, of those that it has.

    Returns:
        ``visual_tokens_per_second`` and ``answer_tokens_per_second``; ``mfu`` from its ``flops`` on
        so many ``devices``, where their peak is known.
    """
    seconds = values.get("seconds", 0.0)
    if not seconds > 0:
        return {}
    counted = [name for name in ("visual_tokens", "answer_tokens") if name in values]
    derived = {f"{name}_per_second": values[name] / seconds for name in counted}
    if "flops" in values and "devices" in values:
        kind = jax.devices()[0].device_kind
        utilisation = mfu(values["flops"], seconds, int(values["devices"]), kind)
        if utilisation is not None:
            derived["mfu"] = utilisation
    return derived
