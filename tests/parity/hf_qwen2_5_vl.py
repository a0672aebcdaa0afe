"""Tiny random HF models, and one prompt in the forms that HF and this library take."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from resadapt_jax.models.prompt_layout import expand_prompt
from resadapt_jax.models.vision_plan import plan_vision

IMAGE, VIDEO, START, END = 120, 121, 122, 123
# Larger than 1, so that a time that is not scaled shows.
TOKENS_PER_SECOND = 3


def random_hf_model(
    seed: int = 0, text: dict | None = None, vision: dict | None = None
) -> Qwen2_5_VLForConditionalGeneration:
    """A tiny fp32 model in which every weight matters: HF's own 0.02 would hide most errors."""
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 128,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 3, 3],
            },
        }
        | (text or {}),
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 44,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
            "tokens_per_second": TOKENS_PER_SECOND,
        }
        | (vision or {}),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_q" in name:
                parameter.add_(1.0)
    return model


@dataclass
class Case:
    """A prompt of text ids and visual entries ``("image" | "video", (t, h, w))``, in order."""

    parts: list
    seconds: tuple = ()
    seed: int = 0

    def __post_init__(self):
        self.entries = [part for part in self.parts if isinstance(part, tuple)]
        self.grids = np.array([grid for _, grid in self.entries], np.int32).reshape(-1, 3)
        self.pads = [{"image": IMAGE, "video": VIDEO}[kind] for kind, _ in self.entries]
        rng = np.random.default_rng(self.seed)
        self.patches = [rng.normal(size=(t * h * w, 1176)).astype("f4") for t, h, w in self.grids]
        # One number per entry here; HF takes them for the videos only.
        self.second_per_grid = np.array(self.seconds or [1.0] * len(self.entries), np.float32)

    @property
    def num_tokens(self) -> int:
        return int(self.grids.prod(axis=1).sum()) // 4

    def compact(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids with one placeholder per entry, and the entry behind each."""
        ids, index, entry = [], [], 0
        for part in self.parts:
            visual = isinstance(part, tuple)
            ids.append(self.pads[entry] if visual else part)
            index.append(entry if visual else -1)
            entry += visual
        return np.array(ids, np.int32), np.array(index, np.int32)

    def hf_inputs(self) -> dict:
        """What an HF processor would give; text and pads written out here, without our code."""
        ids, entry = [], 0
        for part in self.parts:
            if isinstance(part, tuple):
                t, h, w = part[1]
                ids += [self.pads[entry]] * (t * h * w // 4)
                entry += 1
            else:
                ids.append(part)
        ids = torch.tensor([ids])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int(),
        }
        for kind, pixels, grid in [
            ("image", "pixel_values", "image_grid_thw"),
            ("video", "pixel_values_videos", "video_grid_thw"),
        ]:
            chosen = [i for i, (name, _) in enumerate(self.entries) if name == kind]
            if chosen:
                inputs[pixels] = torch.tensor(np.concatenate([self.patches[i] for i in chosen]))
                inputs[grid] = torch.tensor(self.grids[chosen]).long()
                if kind == "video":
                    inputs["second_per_grid_ts"] = torch.tensor(self.second_per_grid[chosen])
        return inputs

    def padded_patches(self, capacity: int, fill: float = 0.0) -> np.ndarray:
        """All entries' patches in prompt order, then ``fill`` up to the capacity."""
        patches = np.concatenate([np.zeros((0, 1176), np.float32), *self.patches])
        padding = np.full((capacity * 4 - len(patches), patches.shape[1]), fill, np.float32)
        return np.concatenate([patches, padding])


def inputs_of(cases: list[Case], *, capacity: int, length: int, fill=0.0):
    """Patches, plans and layouts of a batch, all padded to one capacity and length."""
    entries = max(len(case.entries) for case in cases)
    size = max(len(case.parts) for case in cases)
    rows = []
    for case in cases:
        ids, index = case.compact()
        grids = np.pad(case.grids, [(0, entries - len(case.grids)), (0, 0)])
        seconds = np.pad(case.second_per_grid, (0, entries - len(case.grids)))
        plan = plan_vision(jnp.asarray(grids), capacity=capacity)
        layout = expand_prompt(
            jnp.asarray(np.pad(ids, (0, size - len(ids)))),
            jnp.int32(len(ids)),
            jnp.asarray(np.pad(index, (0, size - len(index)), constant_values=-1)),
            jnp.asarray(grids),
            jnp.asarray(seconds),
            capacity=length,
            tokens_per_second=TOKENS_PER_SECOND,
        )
        assert not plan.overflow and not layout.overflow
        rows.append((jnp.asarray(case.padded_patches(capacity, fill)), plan, layout))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


VIDEOS = Case(
    # T > 1, several grids, non-square; sides of exactly one and two windows (8, 16) and left-overs.
    [5, START, ("video", (3, 10, 6)), END, 7, 8, START, ("video", (2, 8, 16)), END, 9, 10]
    + [START, ("video", (1, 18, 20)), END, START, ("video", (1, 2, 4)), END, 11, 12, 13],
    seconds=(1.0, 0.7, 1.0, 2.0),
)
MIXED = Case(
    [5, START, ("image", (1, 6, 14)), END, 7, START, ("video", (4, 4, 10)), END, 8, 9]
    + [START, ("image", (1, 16, 8)), END, START, ("video", (2, 12, 2)), END, 14],
    seconds=(1.0, 0.4, 1.0, 1.6),
    seed=1,
)
SHORT = Case([6, START, ("video", (2, 4, 6)), END, 20, 21], seconds=(1.5,), seed=2)
TEXT = Case([6, 20, 21, 9, 30])
