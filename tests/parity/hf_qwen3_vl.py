"""Tiny random HF Qwen3-VL models, and one prompt in the forms that HF and this library take."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from resadapt_jax.models.prompt_layout import expand_prompt
from resadapt_jax.models.vision_plan import plan_vision

IMAGE, VIDEO, START, END = 120, 121, 122, 123
PATCH_FEATURES = 3 * 2 * 16 * 16


def random_hf_model(
    seed: int = 0, text: dict | None = None, vision: dict | None = None
) -> Qwen3VLForConditionalGeneration:
    """A tiny fp32 model in which every weight matters: HF's own 0.02 would hide most errors."""
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 128,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            # Not hidden_size / num_attention_heads.
            "head_dim": 24,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [6, 3, 3],
            },
        }
        | (text or {}),
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 44,
            "num_heads": 2,
            "out_hidden_size": 64,
            "deepstack_visual_indexes": [0, 2],
            # A table of 6 x 6: frames are smaller and larger than it.
            "num_position_embeddings": 36,
        }
        | (vision or {}),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    model = Qwen3VLForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.3 * noise)
            elif "pos_embed" in name:
                parameter.copy_(noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    return model


@dataclass
class Case:
    """A prompt of text ids, ``("image", (1, h, w))`` and ``("video", (t, h, w))``, in order.

    A video is written as its temporal patches, each between vision start and end and behind an id
    that stands for its time. For HF it is one grid, here one entry per temporal patch.
    """

    parts: list
    seed: int = 0

    def __post_init__(self):
        self.visuals = [part for part in self.parts if isinstance(part, tuple)]
        rng = np.random.default_rng(self.seed)
        self.patches = [
            rng.normal(size=(np.prod(grid), PATCH_FEATURES)).astype("f4")
            for _, grid in self.visuals
        ]
        grids = [(1, h, w) for _, (t, h, w) in self.visuals for _ in range(t)]
        self.grids = np.array(grids, np.int32).reshape(-1, 3)

    @property
    def num_tokens(self) -> int:
        return int(self.grids.prod(axis=1).sum()) // 4

    def _written_out(self, pads_of) -> list[int]:
        ids = []
        for part in self.parts:
            if not isinstance(part, tuple):
                ids.append(part)
                continue
            kind, (t, h, w) = part
            for k in range(t):
                ids += [40 + k] if kind == "video" else []
                pad = {"image": IMAGE, "video": VIDEO}[kind]
                ids += [START] + [pad] * pads_of(h, w) + [END]
        return ids

    def compact(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids with one placeholder per entry, and the entry behind each."""
        ids = np.array(self._written_out(lambda h, w: 1), np.int32)
        visual = (ids == IMAGE) | (ids == VIDEO)
        return ids, np.where(visual, np.cumsum(visual) - 1, -1).astype(np.int32)

    def hf_inputs(self) -> dict:
        """What an HF processor would give."""
        ids = torch.tensor([self._written_out(lambda h, w: h * w // 4)])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int(),
        }
        for kind, pixels, grid in [
            ("image", "pixel_values", "image_grid_thw"),
            ("video", "pixel_values_videos", "video_grid_thw"),
        ]:
            chosen = [i for i, (name, _) in enumerate(self.visuals) if name == kind]
            if chosen:
                inputs[pixels] = torch.tensor(np.concatenate([self.patches[i] for i in chosen]))
                inputs[grid] = torch.tensor([self.visuals[i][1] for i in chosen])
        return inputs

    def padded_patches(self, capacity: int, fill: float = 0.0) -> np.ndarray:
        """All patches in prompt order, then ``fill`` up to the capacity."""
        patches = np.concatenate([np.zeros((0, PATCH_FEATURES), np.float32), *self.patches])
        padding = np.full((capacity * 4 - len(patches), patches.shape[1]), fill, np.float32)
        return np.concatenate([patches, padding])


def inputs_of(cases: list[Case], *, capacity: int, length: int, fill=0.0):
    """Patches, plans and layouts of a batch, all padded to one capacity and length."""
    entries = max(len(case.grids) for case in cases)
    size = max(len(case.compact()[0]) for case in cases)
    rows = []
    for case in cases:
        ids, index = case.compact()
        grids = np.pad(case.grids, [(0, entries - len(case.grids)), (0, 0)])
        plan = plan_vision(jnp.asarray(grids), capacity=capacity, window_patches=None)
        layout = expand_prompt(
            jnp.asarray(np.pad(ids, (0, size - len(ids)))),
            jnp.int32(len(ids)),
            jnp.asarray(np.pad(index, (0, size - len(index)), constant_values=-1)),
            jnp.asarray(grids),
            jnp.ones(entries),
            capacity=length,
        )
        assert not plan.overflow and not layout.overflow
        rows.append((jnp.asarray(case.padded_patches(capacity, fill)), plan, layout))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


VIDEOS = Case(
    # T > 1, several grids, non-square; sides smaller than, equal to and larger than the table's.
    [5, ("video", (3, 10, 6)), 7, 8, ("video", (2, 8, 16)), 9, 10]
    + [("video", (1, 18, 12)), ("video", (1, 2, 4)), 11, 12, 13],
)
MIXED = Case(
    [5, ("image", (1, 6, 14)), 7, ("video", (4, 4, 10)), 8, 9]
    + [("image", (1, 16, 8)), ("video", (2, 12, 2)), 14],
    seed=1,
)
SHORT = Case([6, ("video", (2, 4, 6)), 20, 21], seed=2)
TEXT = Case([6, 20, 21, 9, 30])
