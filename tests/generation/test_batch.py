"""A batch of unequal rows: several videos and images, one, none; a row alone is the row in it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generation_parts import (
    CAPACITY,
    CONFIGS,
    GRIDS,
    NEW_TOKENS,
    PROMPTS,
    compact,
    frames,
    params_of,
)

from resadapt_jax.errors import UserError
from resadapt_jax.generation.answer import DecodingConfig, answer


def answer_rows(params, frames, grid_thw, prompts, config, capacity=CAPACITY, max_scale=1.0):
    return answer(
        params,
        config,
        frames,
        grid_thw,
        prompts,
        capacity=capacity,
        decoding=DecodingConfig(max_new_tokens=NEW_TOKENS),
        key=jax.random.key(0),
        max_scale=max_scale,
    )


run = jax.jit(answer_rows, static_argnums=(4, 5))


@pytest.fixture(scope="module", params=CONFIGS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def together(name):
    return run(params_of(name), frames(), jnp.asarray(GRIDS), compact(PROMPTS), CONFIGS[name])


def test_a_row_alone_is_the_row_in_the_batch(name, together):
    whole = compact(PROMPTS)
    for row in range(len(PROMPTS)):
        one = jax.tree.map(lambda x, row=row: x[row : row + 1], (frames(), GRIDS, whole))
        alone = run(params_of(name), one[0], jnp.asarray(one[1]), one[2], CONFIGS[name])
        for field in ("token_ids", "mask"):
            ours, batched = (getattr(x.generation, field) for x in (alone, together))
            np.testing.assert_array_equal(ours[0], batched[row])
        log_probs = together.generation.log_probs[row]
        np.testing.assert_allclose(alone.generation.log_probs[0], log_probs, atol=1e-5)
    assert together.num_tokens.tolist() == [2 + 2 + 1 + 4, 0, 4]
    assert not together.overflow.any()


def test_every_entry_is_seen_and_none_by_a_row_of_text(name, together):
    changes = np.asarray(frames()).copy()
    for pair in range(4):
        changed = changes.copy()
        changed[:, 2 * pair : 2 * pair + 2] = 255 - changed[:, 2 * pair : 2 * pair + 2]
        out = run(params_of(name), changed, jnp.asarray(GRIDS), compact(PROMPTS), CONFIGS[name])
        before, now = (x.generation.log_probs[:, 0] for x in (together, out))
        differs = np.abs(before - now) > 1e-4
        assert differs.tolist() == [True, False, pair == 2]


def test_without_any_padding_the_answer_is_the_same(name, together):
    """The longest row at the capacity of its own tokens: no padded patch or token."""
    grids = jnp.asarray(GRIDS[:1])
    alone = run(params_of(name), frames()[:1], grids, compact(PROMPTS[:1]), CONFIGS[name], 9)
    assert alone.num_tokens.tolist() == [9] and not alone.overflow.any()
    ours, padded = alone.generation, together.generation
    np.testing.assert_array_equal(ours.token_ids[0], padded.token_ids[0])
    np.testing.assert_allclose(ours.log_probs[0], padded.log_probs[0], atol=1e-5)


def test_the_order_in_which_pairs_are_packed_changes_nothing(name, together):
    order = np.array([2, 0, 3, 1])
    clips = np.asarray(frames()).reshape(len(PROMPTS), 4, 2, *frames().shape[2:])
    packed = clips[:, order].reshape(frames().shape)
    prompts = compact(PROMPTS)
    index = np.asarray(prompts.entry_index)
    prompts = prompts.replace(entry_index=jnp.where(index < 0, -1, np.argsort(order)[index]))
    grids = jnp.asarray(GRIDS[:, order])
    out = run(params_of(name), packed, grids, prompts, CONFIGS[name]).generation
    np.testing.assert_array_equal(out.token_ids, together.generation.token_ids)
    np.testing.assert_allclose(out.log_probs, together.generation.log_probs, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ([1, 3, 2], "entry 2 has a grid of 3 x 2 patches, its sides must be multiples of 2"),
        ([1, 4, -2], "entry 2 has a grid of 4 x -2 patches, .* multiples of 2"),
        ([2, 4, 2], "entry 2 has 2 temporal patches, a pair of frames is one"),
    ],
)
def test_grids_that_are_no_pairs_are_refused_before_the_model_runs(changed, message):
    grids = GRIDS.copy()
    grids[0, 2] = changed
    with pytest.raises(UserError, match=message):
        answer_rows(None, frames(), grids, compact(PROMPTS), CONFIGS["qwen2_5_vl"])


def test_frames_that_are_not_the_grids_are_refused_before_the_model_runs():
    with pytest.raises(UserError, match="grids of 4 pairs for 6 frames"):
        answer_rows(None, frames()[:, :6], GRIDS, compact(PROMPTS), CONFIGS["qwen2_5_vl"])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (PROMPTS[0][:-4], "5 visual positions for 9 visual tokens: it shows entry 3 0 times"),
        (PROMPTS[0] + PROMPTS[0][9:12], "10 .* for 9 visual tokens: it shows entry 2 2 times"),
        (PROMPTS[0] + [(21, 4)], "shows entry 4, it has 4 entries"),
    ],
)
def test_placeholders_that_are_not_the_plans_are_refused_before_the_model_runs(prompt, message):
    prompts = compact([PROMPTS[1], PROMPTS[1], prompt])
    grids = GRIDS[[1, 1, 0]]
    with pytest.raises(UserError, match=f"^prompt 2 .*{message}$"):
        answer_rows(None, frames(), grids, prompts, CONFIGS["qwen2_5_vl"])


def test_an_absent_pair_needs_no_placeholder_and_takes_no_room(name, together):
    """Third row: one pair of four is there, and only its own placeholder; 4 tokens are all."""
    grids, prompts = jnp.asarray(GRIDS[2:]), compact(PROMPTS[2:])
    alone = run(params_of(name), frames()[2:], grids, prompts, CONFIGS[name], 4)
    assert alone.num_tokens.tolist() == [4] and not alone.overflow.any()
    np.testing.assert_array_equal(alone.generation.token_ids[0], together.generation.token_ids[2])


def test_grids_beyond_the_bound_are_refused_or_marked(name, together):
    side = CONFIGS[name].vision.patch_size
    small = frames()[:, :, : 2 * side, : 2 * side]  # grids of 4 x 4 patches are twice as large
    arguments = (params_of(name), small, jnp.asarray(GRIDS), compact(PROMPTS), CONFIGS[name])
    with pytest.raises(
        UserError, match="exceeds 2 x 2 patches, the frames' own size times max_scale"
    ):
        answer_rows(*arguments)
    assert run(*arguments).overflow.tolist() == [True, False, True]
    grow = functools.partial(answer_rows, max_scale=2.0, config=CONFIGS[name])
    grown = jax.jit(grow)(*arguments[:4])
    assert not grown.overflow.any()
    np.testing.assert_array_equal(grown.num_tokens, together.num_tokens)
