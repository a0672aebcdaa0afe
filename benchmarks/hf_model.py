"""The benchmarks' models in Hugging Face transformers: the same weights, the same inputs."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mid_model import VIDEO, Clip

from resadapt_jax.models.families import ModelConfig, family_of
from resadapt_jax.models.prompt_layout import PromptLayout
from resadapt_jax.typing import Params


def hf_model(params: Params, config: ModelConfig, dtype: torch.dtype = torch.float32):
    """The same weights in transformers, cast to ``dtype``."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import tests.parity.cpu_torchvision  # noqa: F401, I001  (before transformers looks for it)
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as directory:
        family_of(config).checkpoint.save_hf(directory, config, params)
        model = AutoModelForImageTextToText.from_pretrained(directory, dtype=dtype)
    return model.eval()


def hf_inputs(
    hf: Any, clip: Clip, layout: PromptLayout, patches: np.ndarray
) -> tuple[Callable[[], Any], dict[str, Any]]:
    """HF's tower over ``patches``, to be called, and what its decoder takes of the whole prompt."""
    ids = torch.tensor(np.asarray(layout.token_ids)).long()
    grid = torch.tensor(clip.grid_thw).long()
    pixels = torch.tensor(patches)

    def tower():
        return hf.model.visual(pixels, grid_thw=grid)

    with torch.no_grad():
        visual = tower()
        embeds = hf.get_input_embeddings()(ids).clone()
        embeds[ids == VIDEO] = visual.pooler_output
    inputs = {
        "inputs_embeds": embeds,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.tensor(np.asarray(layout.position_ids)).long().transpose(0, 1),
    }
    if "deepstack_features" in visual:
        inputs["visual_pos_masks"] = ids == VIDEO
        inputs["deepstack_visual_embeds"] = visual.deepstack_features
    return tower, inputs
