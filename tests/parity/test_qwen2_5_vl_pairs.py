"""HF runs exactly the ids and grids that this library builds from pairs as entries of their own."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with HF transformers needs torch")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from hf_qwen2_5_vl import END, IMAGE, START, VIDEO, random_hf_model  # noqa: E402
from tokenizers import Tokenizer, pre_tokenizers  # noqa: E402
from tokenizers.models import BPE  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

from resadapt_jax.models.prompt_builder import build_prompt  # noqa: E402
from resadapt_jax.models.prompt_layout import expand_prompt  # noqa: E402
from resadapt_jax.models.qwen2_5_vl import model, text  # noqa: E402
from resadapt_jax.models.qwen2_5_vl.checkpoint import load_hf  # noqa: E402
from resadapt_jax.models.vision_plan import plan_vision  # noqa: E402

# The pairs of one clip at sizes of their own: what an allocator asks for.
GRIDS = np.array([[1, 8, 8], [1, 2, 2], [1, 4, 6], [1, 18, 10], [1, 2, 4]], np.int32)
SECONDS = [0.25, 1.2, 2.2, 3.3, 4.2]
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
    assert tokenizer.token_to_id("<|image_pad|>") == IMAGE
    assert [tokenizer.token_to_id(name) for name in special[1:]] == [VIDEO, START, END]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The HF model, and our prompt, plan and logits."""
    directory = tmp_path_factory.mktemp("checkpoint")
    hf_model = random_hf_model(seed=5)
    hf_model.save_pretrained(directory)
    config, params = load_hf(directory)
    compact = build_prompt(build_tokenizer(), "Which one is it?", SECONDS)
    plan = plan_vision(jnp.asarray(GRIDS), capacity=96)
    layout = expand_prompt(
        jnp.asarray(compact.token_ids),
        jnp.int32(len(compact.token_ids)),
        jnp.asarray(compact.entry_index),
        jnp.asarray(GRIDS),
        jnp.ones(len(GRIDS)),
        capacity=320,
        tokens_per_second=config.vision.tokens_per_second,
    )
    assert not plan.overflow and not layout.overflow
    patches = np.zeros((96 * 4, config.vision.patch_features), np.float32)
    count = int(plan.num_tokens) * 4
    patches[:count] = np.random.default_rng(0).normal(size=(count, patches.shape[1]))

    @jax.jit
    def run(patches, plan, layout):
        batch = jax.tree.map(lambda x: jnp.asarray(x)[None], (patches, plan, layout))
        hidden = model.forward(params, config, *batch)
        return text.logits(params, config, hidden)[0]

    return hf_model, layout, patches[:count], run(patches, plan, layout)


def hf_inputs(layout, patches):
    ids = torch.tensor(np.asarray(layout.token_ids)[None, : int(layout.length)]).long()
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": 2 * (ids == VIDEO).int(),
        "pixel_values_videos": torch.tensor(patches),
        "video_grid_thw": torch.tensor(GRIDS).long(),
    }


def test_positions_are_those_of_hf(built):
    hf_model, layout, patches, _ = built
    inputs = hf_inputs(layout, patches)
    positions, _ = hf_model.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], video_grid_thw=inputs["video_grid_thw"]
    )
    n = int(layout.length)
    np.testing.assert_array_equal(layout.position_ids[:, :n], positions[:, 0].numpy())


def test_hf_gives_equal_logits_for_our_ids_and_grids(built):
    hf_model, layout, patches, logits = built
    with torch.no_grad():
        expected = hf_model(**hf_inputs(layout, patches)).logits[0].numpy()
    np.testing.assert_allclose(logits[: len(expected)], expected, atol=1e-4, rtol=0)
