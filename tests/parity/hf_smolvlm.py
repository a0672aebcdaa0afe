"""Tiny random SmolVLM models of HF, and frames that look like pictures."""

import numpy as np
import torch
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

TEXT = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 48,
    "patch_size": 8,
}


def random_hf_model(
    seed: int = 0, *, scale_factor: int = 3, text: dict | None = None, vision: dict | None = None
) -> SmolVLMForConditionalGeneration:
    """A tiny fp32 model in which every weight matters: HF's own 0.02 would hide most errors."""
    config = SmolVLMConfig(
        text_config=TEXT | (text or {}),
        vision_config=VISION | (vision or {}),
        scale_factor=scale_factor,
        image_token_id=127,
        pad_token_id=0,
    )
    model = SmolVLMForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.3 * noise + (1.0 if "norm" in name and "bias" not in name else 0))
            elif "embed" in name and "patch" not in name:
                parameter.copy_(noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return model


def picture_frames(rng, count: int, height: int, width: int) -> np.ndarray:
    """Shading, a hard edge, fine texture and noise, with levels clipped at both ends; uint8."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    frames = []
    for _ in range(count):
        phase = rng.uniform(0, 6, 3)
        shading = 120 + 100 * np.sin(y / 37 + phase[0]) * np.cos(x / 23 + phase[1])
        texture = 40 * np.sin((x * phase[1] + y * phase[2]) / 2)
        image = (shading + texture)[..., None] + rng.uniform(-40, 40, 3)
        image[height // 4 : height // 2, width // 3 : width // 2] = rng.choice([0, 255], 3)
        frames.append(image + rng.normal(0, 6, (height, width, 3)))
    return np.clip(frames, 0, 255).astype(np.uint8)
