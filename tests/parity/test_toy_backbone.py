"""The shipped tiny backbone: transformers loads the same directory and gives the same answers."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with HF transformers needs torch")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from transformers import Qwen2_5_VLForConditionalGeneration  # noqa: E402

from resadapt_jax.data.toy_pipeline import question_batches  # noqa: E402
from resadapt_jax.data.toy_source import ToyClips  # noqa: E402
from resadapt_jax.data.toy_world import ToyWorldConfig  # noqa: E402
from resadapt_jax.generation.answer import DecodingConfig, answer  # noqa: E402
from resadapt_jax.generation.backbone import load_backbone  # noqa: E402
from resadapt_jax.generation.prompts import Prompts, lay_out  # noqa: E402
from resadapt_jax.generation.visual import pack_pairs  # noqa: E402
from resadapt_jax.shipped import TOY_BACKBONE  # noqa: E402

CLIPS = 6


@pytest.fixture(scope="module")
def clips():
    backbone = load_backbone()
    records = next(
        question_batches(ToyClips(ToyWorldConfig(seed=77), CLIPS), backbone.tokenizer, CLIPS)
    )
    sides = jax.random.randint(jax.random.key(0), (CLIPS, 12), 1, 5)  # any of the four sizes
    grid_thw = jnp.stack([jnp.ones_like(sides), 2 * sides, 2 * sides], axis=-1)
    prompts = jax.tree.map(jnp.asarray, Prompts.from_records(records))
    return backbone, jnp.asarray(records["frames"]), grid_thw, prompts


def test_transformers_gives_the_same_answers(clips):
    backbone, frames, grid_thw, prompts = clips
    config = backbone.config
    ours = answer(
        backbone.params,
        config,
        frames,
        grid_thw,
        prompts,
        capacity=192,
        decoding=DecodingConfig(),
        key=jax.random.key(0),
    )
    layouts = lay_out(prompts, grid_thw, config, 192)
    hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(TOY_BACKBONE, dtype=torch.float32)
    hf = hf.eval()
    said = set()
    for row in range(CLIPS):
        patches, plan = pack_pairs(
            config, frames[row], grid_thw[row], capacity=192, max_height=112, max_width=112
        )
        ids = np.asarray(layouts.token_ids[row, : int(layouts.length[row])])[None]
        with torch.no_grad():
            generated = hf.generate(
                input_ids=torch.tensor(ids).long(),
                attention_mask=torch.ones(ids.shape, dtype=torch.long),
                mm_token_type_ids=2 * torch.tensor(ids == config.video_token_id).int(),
                pixel_values_videos=torch.tensor(np.asarray(patches[: 4 * int(plan.num_tokens)])),
                video_grid_thw=torch.tensor(np.asarray(grid_thw[row])).long(),
                second_per_grid_ts=torch.ones(12),
                max_new_tokens=5,
                do_sample=False,
            )
        theirs = generated[0, ids.shape[1] :].tolist()
        mask = np.asarray(ours.generation.mask[row])
        assert np.asarray(ours.generation.token_ids[row])[mask].tolist() == theirs
        said.add(backbone.decode(theirs))
    assert len(said) > 1  # it does look at the clip


def test_the_directory_is_small():
    assert sum(file.stat().st_size for file in TOY_BACKBONE.iterdir()) <= 8 * 2**20
