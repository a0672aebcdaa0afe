"""A batch of unequal rows: several videos and images, one, none; a row alone is the row in it."""

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


def answer_rows(params, frames, grid_thw, prompts, config):
    return answer(
        params,
        config,
        frames,
        grid_thw,
        prompts,
        capacity=CAPACITY,
        decoding=DecodingConfig(max_new_tokens=NEW_TOKENS),
        key=jax.random.key(0),
    )


run = jax.jit(answer_rows, static_argnums=4)


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
