"""From frames to answers with Qwen3-VL: HF runs exactly the ids, grids and patches built here."""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with HF transformers needs torch")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from hf_qwen3_vl import END, IMAGE, START, VIDEO, random_hf_model  # noqa: E402
from tokenizers import Tokenizer, pre_tokenizers  # noqa: E402
from tokenizers.models import BPE  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402
from transformers.models.qwen2_vl.image_processing_qwen2_vl import (  # noqa: E402
    Qwen2VLImageProcessor,
)
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor  # noqa: E402
from transformers.models.qwen3_vl.video_processing_qwen3_vl import (  # noqa: E402
    Qwen3VLVideoProcessor,
)
from transformers.video_utils import VideoMetadata  # noqa: E402

from resadapt_jax.generation.answer import DecodingConfig, answer  # noqa: E402
from resadapt_jax.generation.backbone import load_backbone  # noqa: E402
from resadapt_jax.generation.prompts import Prompts, lay_out  # noqa: E402
from resadapt_jax.generation.visual import pack_pairs  # noqa: E402
from resadapt_jax.models.prompt_builder import VIDEO_PAD, build_prompt  # noqa: E402

# The pairs of one clip at sizes of their own: what an allocator asks for.
SIZES = np.array([[64, 96], [32, 32], [96, 64], [32, 64]])
GRIDS = np.concatenate([np.ones((4, 1), int), SIZES // 16], axis=1)
CAPACITY = 20  # 6 + 1 + 6 + 2 tokens, and padding
FPS = 2.0
SECONDS = [0.25, 1.25, 2.25, 3.25]
QUESTION = "Which one is it?"
NEW_TOKENS = 6
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def build_tokenizer():
    """One token per ASCII character, at most 120, then the model's special ids."""
    characters = sorted(c for c in pre_tokenizers.ByteLevel.alphabet() if c.isascii())
    characters += ["Ġ", "Ċ"]
    vocabulary = {character: index for index, character in enumerate(characters)}
    vocabulary |= {f"<unused{i}>": i for i in range(len(characters), IMAGE)}
    tokenizer = Tokenizer(BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    special = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    tokenizer.add_special_tokens(special)
    assert [tokenizer.token_to_id(name) for name in special] == [IMAGE, VIDEO, START, END]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def hf_model():
    return random_hf_model(seed=5)


@pytest.fixture(scope="module")
def backbone(hf_model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint")
    hf_model.save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    return load_backbone(directory)


@pytest.fixture(scope="module")
def frames():
    """Eight frames that are not at the sizes asked for, and change."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 6, 6, 3)).astype(np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)


@pytest.fixture(scope="module")
def prompts(backbone):
    compact = build_prompt(backbone.tokenizer, QUESTION, SECONDS)
    return Prompts(
        compact_ids=jnp.asarray(compact.token_ids)[None],
        compact_length=jnp.array([len(compact.token_ids)]),
        entry_index=jnp.asarray(compact.entry_index)[None],
    )


@pytest.fixture(scope="module")
def packed(backbone, frames):
    """The patches that the planned path gives the tower."""
    bounds = {"capacity": CAPACITY, "max_height": 96, "max_width": 96}
    pack = jax.jit(functools.partial(pack_pairs, backbone.config, **bounds))
    patches, plan = pack(jnp.asarray(frames), jnp.asarray(GRIDS))
    return np.asarray(patches)[np.asarray(plan.patch_entry) >= 0]


@pytest.fixture(scope="module")
def processed(frames):
    """HF's processor on the same pairs as videos of their own, each already resized.

    Since transformers 5.12 it replaces the bare placeholder, so each video stands bare.
    """
    tokenizer = build_tokenizer()
    processor = Qwen3VLProcessor(Qwen2VLImageProcessor(), tokenizer, Qwen3VLVideoProcessor())
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": VIDEO_PAD * len(SIZES) + QUESTION}],
        tokenize=False,
        add_generation_prompt=True,
    )
    return processor(
        text=[text],
        videos=[resized(frames[2 * k : 2 * k + 2], *size) for k, size in enumerate(SIZES)],
        videos_kwargs={
            "do_sample_frames": False,
            "do_resize": False,
            "video_metadata": [
                VideoMetadata(total_num_frames=8, fps=FPS, frames_indices=[2 * k, 2 * k + 1])
                for k in range(len(SIZES))
            ],
        },
        return_tensors="pt",
    )


def resized(pair, height, width):
    """The resize of the planned path, written with torch; whole grey levels as a processor has."""
    pixels = torch.tensor(pair).permute(0, 3, 1, 2).double()
    out = torch.nn.functional.interpolate(
        pixels, (int(height), int(width)), mode="bicubic", antialias=True, align_corners=False
    )
    return out.round().clamp(0, 255).to(torch.uint8)


def test_ids_grids_and_positions_are_those_of_hfs_processor(hf_model, backbone, prompts, processed):
    layout = lay_out(prompts, jnp.asarray(GRIDS)[None], backbone.config, CAPACITY)
    n = int(layout.length[0])
    np.testing.assert_array_equal(layout.token_ids[0, :n], processed["input_ids"][0].numpy())
    np.testing.assert_array_equal(processed["video_grid_thw"].numpy(), GRIDS)
    positions, _ = hf_model.model.get_rope_index(
        processed["input_ids"],
        processed["mm_token_type_ids"],
        video_grid_thw=processed["video_grid_thw"],
    )
    np.testing.assert_array_equal(layout.position_ids[0, :, :n], positions[:, 0].numpy())


def test_patches_are_those_of_hfs_processor(packed, processed):
    """Within the rounding to grey levels that the processor does and the planned path does not."""
    theirs = processed["pixel_values_videos"].numpy()
    assert packed.shape == theirs.shape and np.abs(theirs).max() == 1.0
    inside = np.abs(theirs) < 1.0  # cubic overshoot, which only the processor clips
    grey_level = (1 / 255) / 0.5
    assert np.abs(packed - theirs)[inside].max() < 0.52 * grey_level


def test_answers_are_those_of_hf(hf_model, backbone, frames, prompts, packed, processed):
    run = functools.partial(
        answer,
        config=backbone.config,
        capacity=CAPACITY,
        decoding=DecodingConfig(max_new_tokens=NEW_TOKENS),
        key=jax.random.key(0),
    )
    ours = jax.jit(run)(
        backbone.params,
        frames=jnp.asarray(frames)[None],
        grid_thw=jnp.asarray(GRIDS)[None],
        prompts=prompts,
    )
    with torch.no_grad():
        theirs = hf_model.generate(
            **{key: value for key, value in processed.items() if key != "pixel_values_videos"},
            pixel_values_videos=torch.tensor(packed),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
        )
    theirs = theirs[0, processed["input_ids"].shape[1] :].tolist()
    mask = np.asarray(ours.generation.mask[0])
    assert np.asarray(ours.generation.token_ids[0])[mask].tolist() == theirs
    assert len(set(theirs)) > 1 and not ours.overflow.any()
    assert ours.num_tokens.tolist() == [SIZES.prod(axis=1).sum() // 32**2]
