"""The allocator network against a plain float64 statement of the architecture.

The statement below works on one prompt at a time and on valid frames and tokens only, so equality
also shows that nothing padded is used.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, softmax

from resadapt_jax.allocator import (
    AllocatorConfig,
    AllocatorNetwork,
    EncoderFeatures,
    HardClamp,
    LogisticNormalBounds,
    ProjectedBounds,
    SoftBounds,
    allocate,
    count_params,
    init_params,
)
from resadapt_jax.allocator.units import places

TINY = AllocatorConfig(
    frame_width=6, text_width=5, width=12, num_heads=2, head_dim=8, ff_mult=2,
    pool_width=7, pool_temperature=0.7, head_width=9, rope_theta=50.0, num_space_time_layers=1,
    bounds=SoftBounds(),  # random parameters reach far, and a clip would hide what they do
)  # fmt: skip
FRAMES, TOKENS, WORDS = 5, 4, 3
CLIP_LENGTHS, TEXT_LENGTHS = (5, 3, 1), (3, 1, 2)
run = jax.jit(allocate, static_argnums=1)


def layer_norm(p, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0.0)


def rotate(x, dims, theta):
    """x [S, d]: the pair (i, i + dims/2) turns by position · θ^(−2i/dims)."""
    out = x.copy()
    for position in range(x.shape[0]):
        for i in range(dims // 2):
            angle = position * theta ** (-2 * i / dims)
            a, b = x[position, i], x[position, i + dims // 2]
            out[position, i] = a * np.cos(angle) - b * np.sin(angle)
            out[position, i + dims // 2] = a * np.sin(angle) + b * np.cos(angle)
    return out


def attend(q, k, v):
    return softmax(q @ k.T / np.sqrt(q.shape[1]), axis=-1) @ v


def heads(x, count):
    return np.split(x, count, axis=-1)


def feed_forward(p, x):
    return dense(p["down"], gelu(dense(p["up"], layer_norm(p["norm"], x))))


def cross_attention(p, x, text, count):
    flat = layer_norm(p["norm"], x).reshape(-1, x.shape[-1])
    k, v = np.split(dense(p["kv"], layer_norm(p["text_norm"], text)), 2, axis=-1)
    queries = heads(dense(p["q"], flat), count)
    out = [attend(*z) for z in zip(queries, heads(k, count), heads(v, count), strict=True)]
    return dense(p["out"], np.concatenate(out, -1)).reshape(x.shape)


def self_attention(p, x, count, dims, theta):
    """x [O, S, D]: attention over S for each of O."""
    qkv = dense(p["qkv"], layer_norm(p["norm"], x))
    rows = []
    for row in qkv:
        out = []
        for q, k, v in zip(*(heads(z, count) for z in np.split(row, 3, axis=-1)), strict=True):
            out.append(attend(rotate(q, dims, theta), rotate(k, dims, theta), v))
        rows.append(np.concatenate(out, -1))
    return dense(p["out"], np.stack(rows))


def cosine(x, y):
    return x @ y / (np.linalg.norm(x) * np.linalg.norm(y))


def statement(params, c, frames, text, *, time_rope=True, space_rope=True, text_last=False):
    """frames [f, L, Df], text [n, Dt] -> the policy's two parameters [k], features [k, D], in
    float64.
    """
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x, e = dense(p["frame_projection"], frames), dense(p["text_projection"], text)

    def with_text(x):
        layer = p["text_layer_0"]
        gates = [np.tanh(layer.get(f"{k}_gate", np.inf)) for k in ("attention", "feed_forward")]
        x = x + gates[0] * cross_attention(layer["attention"], x, e, c.num_heads)
        return x + gates[1] * feed_forward(layer["feed_forward"], x)

    x = x if text_last else with_text(x)
    for i in range(c.num_space_time_layers):
        layer = p[f"space_time_layer_{i}"]
        dims = c.head_dim if time_rope else 0
        swapped = x.swapaxes(0, 1)
        over_time = self_attention(layer["time"], swapped, c.num_heads // 2, dims, c.rope_theta)
        x = x + over_time.swapaxes(0, 1)
        dims = c.head_dim // 2 if space_rope else 0
        x = x + self_attention(layer["space"], x, c.num_heads, dims, c.rope_theta)
        x = x + feed_forward(layer["feed_forward"], x)
    x = with_text(x) if text_last else x

    pooled = []
    for h in x:
        centre = h.mean(0)
        summary = softmax(e @ centre / np.sqrt(c.width)) @ e
        both = np.concatenate([h, np.tile(summary, (len(h), 1))], -1)
        weights = softmax(
            dense(p["pool"]["logit"], gelu(dense(p["pool"]["gate"], both)))[:, 0]
            / c.pool_temperature
        )
        entropy = -(weights * np.log(weights)).sum()
        pooled.append([weights @ h, ((h - centre) ** 2).mean(), entropy, weights.max()])
    step = 2 if c.unit == "pair" else 1
    units = [pooled[i : i + step] for i in range(0, len(pooled), step)]
    units = [[sum(column) / len(unit) for column in zip(*unit, strict=True)] for unit in units]

    features = []
    for k, (z, *signals) in enumerate(units):
        before = cosine(z, units[k - 1][0]) if k else 0.0
        query = dense(p["unit"]["relevance_text"], e.mean(0))
        relevance = cosine(query, dense(p["unit"]["relevance_frame"], z))
        normed = layer_norm(p["unit"]["norm"], z)
        inputs = np.concatenate([normed, signals, [before, relevance]])
        features.append(dense(p["unit"]["feature"], inputs))
    features = np.stack(features)
    hidden = gelu(dense(p["head"]["hidden"], layer_norm(p["head"]["norm"], features)))
    y = dense(p["head"]["out"], hidden) + dense(p["head"]["skip"], features)
    if isinstance(c.bounds, LogisticNormalBounds):
        sigma = np.clip(np.log1p(np.exp(y[:, 1])) + 1e-6, c.bounds.lower, c.bounds.upper)
        return y[:, 0], sigma, features
    if isinstance(c.bounds, HardClamp):
        parameters = np.clip(np.log1p(np.exp(y / 2)) + 1e-6, c.bounds.lower, c.bounds.upper)
    elif isinstance(c.bounds, ProjectedBounds):
        parameters = np.clip(np.exp(y), c.bounds.lower, c.bounds.upper)
    else:
        reach = np.where(y < 0, -np.log(c.bounds.lower), np.log(c.bounds.upper))
        parameters = np.exp(reach * y / (reach + np.abs(y)))
    return parameters[:, 0], parameters[:, 1], features


def random_params(config):
    """No leaf at its initial zero or one, so that every parameter has an effect."""
    leaves, tree = jax.tree.flatten(jax.eval_shape(lambda: init_params(jax.random.key(0), config)))
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [np.float32(rng.normal(0.3, 0.5, x.shape)) for x in leaves])


def random_features(frames=FRAMES):
    rng = np.random.default_rng(1)
    batch = len(CLIP_LENGTHS)
    return EncoderFeatures(
        frames=np.float32(rng.normal(size=(batch, frames, TOKENS, TINY.frame_width))),
        frame_mask=np.arange(frames)[None, :] < np.array(CLIP_LENGTHS)[:, None],
        segment_ids=np.zeros((batch, frames), np.int32),
        text=np.float32(rng.normal(size=(batch, WORDS, TINY.text_width))),
        text_mask=np.arange(WORDS)[None, :] < np.array(TEXT_LENGTHS)[:, None],
    )


def errors(output, params, config, features, **ablation):
    """Largest error of any field over the batch's valid units."""
    worst = 0.0
    for b, (n, m) in enumerate(zip(CLIP_LENGTHS, TEXT_LENGTHS, strict=True)):
        frames, text = np.float64(features.frames[b, :n]), np.float64(features.text[b, :m])
        expected = statement(params, config, frames, text, **ablation)
        got = (*(x[b] for x in jax.tree.leaves(output.policy)), output.unit_features[b])
        for x, y in zip(got, expected, strict=True):
            worst = max(worst, np.abs(np.asarray(x)[: len(y)] - y).max())
    return worst


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"bounds": ProjectedBounds(lower=0.1, upper=9.0), "num_space_time_layers": 2},
        {"unit": "frame", "bounds": HardClamp(lower=0.3, upper=3.0)},
        {"text_gate": "paper", "bounds": LogisticNormalBounds(lower=0.5, upper=2.0)},
    ],
)
def test_network_matches_the_statement(choices):
    config = dataclasses.replace(TINY, **choices)
    params, features = random_params(config), random_features()
    output = run(params, config, features)
    assert errors(output, params, config, features) < 2e-4


@pytest.mark.parametrize("unit", ["pair", "frame"])
def test_segments_are_as_prompts_of_their_own(unit):
    """A video of 3 frames, an image, 2 further frames of the video, another image: one row.

    The statement is asked about each by itself. Frames 3, 5 and 9 are empty: segments begin at
    whole pairs. A lone last frame stands for its pair, so the video is 3 frames, then 2.
    """
    config = dataclasses.replace(TINY, unit=unit)
    params, rng = random_params(config), np.random.default_rng(2)
    lengths = np.array([3, 1, 2, 1]) if unit == "pair" else np.array([4, 1, 2, 1])
    segments = np.array([0, 1, 0, 2]).repeat([4, 2, 2, 2])
    starts = np.array([0, 4, 6, 8])
    mask = np.zeros(10, bool)
    for start, length in zip(starts, lengths, strict=True):
        mask[start : start + length] = True
    features = EncoderFeatures(
        frames=rng.normal(size=(1, 10, TOKENS, config.frame_width)).astype(np.float32),
        frame_mask=mask[None],
        segment_ids=segments[None].astype(np.int32),
        text=rng.normal(size=(1, WORDS, config.text_width)).astype(np.float32),
        text_mask=np.ones((1, WORDS), bool),
    )
    output = run(params, config, features)
    step = 2 if unit == "pair" else 1
    got = [np.asarray(x[0]) for x in (*jax.tree.leaves(output.policy), output.unit_features)]
    images = [4, 8]
    for place in images:
        alone = np.float64(features.frames[0, place : place + 1]), np.float64(features.text[0])
        for x, y in zip(got, statement(params, config, *alone), strict=True):
            np.testing.assert_allclose(x[place // step : place // step + 1], y, atol=2e-4)
    if unit == "frame":  # no gap in the video, so that the statement can have it whole
        video = np.float64(features.frames[0, [0, 1, 2, 3, 6, 7]]), np.float64(features.text[0])
        for x, y in zip(got, statement(params, config, *video), strict=True):
            # Frame 6 comes after an image, which is nothing to compare it with.
            np.testing.assert_allclose(x[[0, 1, 2, 3, 7]], y[[0, 1, 2, 3, 5]], atol=2e-4)
    # It would show if all were one segment.
    joined = run(params, config, features.replace(segment_ids=np.zeros((1, 10), np.int32)))
    assert np.abs(joined.policy.alpha - output.policy.alpha).max() > 1e-2


def test_places_count_the_frames_that_are_there():
    """A video of 3 frames whose fourth only fills a pair, an image, 2 further frames."""
    segments = jnp.array([[0, 0, 0, 0, 1, 1, 0, 0]])
    mask = jnp.array([[1, 1, 1, 0, 1, 0, 1, 1]], bool)
    assert places(segments, mask)[mask].tolist() == [0, 1, 2, 0, 3, 4]


def test_the_statement_would_notice_a_changed_architecture():
    params, features = random_params(TINY), random_features()
    output = run(params, TINY, features)
    for ablation in ({"time_rope": False}, {"space_rope": False}, {"text_last": True}):
        assert errors(output, params, TINY, features, **ablation) > 1e-2, ablation


@pytest.mark.parametrize("frames, unit, units", [(5, "pair", 3), (6, "pair", 3), (5, "frame", 5)])
def test_shapes_and_masks(frames, unit, units):
    config = dataclasses.replace(TINY, unit=unit)
    output = jax.eval_shape(
        lambda: allocate(random_params(config), config, random_features(frames=frames))
    )
    assert output.policy.alpha.shape == output.policy.beta.shape == (3, units)
    assert output.unit_mask.shape == (3, units)
    assert output.unit_features.shape == (3, units, config.width)


def test_units_without_a_frame_are_neutral():
    output = run(random_params(TINY), TINY, random_features())
    # Clips of 5, 3 and 1 frames fill 3, 2 and 1 pairs.
    expected = [[True, True, True], [True, True, False], [True, False, False]]
    np.testing.assert_array_equal(output.unit_mask, expected)
    for parameter in (output.policy.alpha, output.policy.beta):
        np.testing.assert_array_equal(parameter[~output.unit_mask], 1.0)
        assert (parameter[output.unit_mask] != 1.0).all()
    np.testing.assert_array_equal(output.unit_features[~output.unit_mask], 0.0)


@pytest.mark.parametrize("unit", ["pair", "frame"])
def test_nan_in_padding_changes_nothing(unit):
    config = dataclasses.replace(TINY, unit=unit)
    params, features = random_params(config), random_features()
    poisoned = features.replace(
        frames=np.where(features.frame_mask[:, :, None, None], features.frames, np.nan),
        text=np.where(features.text_mask[:, :, None], features.text, np.nan),
    )

    def loss(params, features):
        output = allocate(params, config, features)
        weight = output.unit_mask[:, :, None] * output.unit_features
        return (jnp.log(output.policy.alpha * output.policy.beta)).sum() + weight.sum(), output

    grad = jax.jit(jax.grad(loss, has_aux=True))
    clean, dirty = grad(params, features), grad(params, poisoned)
    for x, y in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        assert np.isfinite(x).all()
        np.testing.assert_array_equal(x, y)


def test_where_the_text_padding_sits_changes_nothing():
    params, features = random_params(TINY), random_features()
    moved = features.replace(text=features.text[:, ::-1], text_mask=features.text_mask[:, ::-1])
    got, expected = run(params, TINY, moved), run(params, TINY, features)
    np.testing.assert_allclose(got.policy.alpha, expected.policy.alpha, rtol=1e-4)


def test_the_query_changes_the_policy():
    params, features = random_params(TINY), random_features()
    other = features.replace(text=features.text[::-1], text_mask=features.text_mask[::-1])
    change = run(params, TINY, other).policy.alpha - run(params, TINY, features).policy.alpha
    # The middle clip keeps its own text.
    np.testing.assert_array_equal(change[1], 0.0)
    assert np.abs(change[0]).max() > 1e-2


def test_an_empty_batch_row_stays_finite():
    params, features = random_params(TINY), random_features()
    empty = features.replace(
        frame_mask=np.zeros_like(features.frame_mask), text_mask=np.zeros_like(features.text_mask)
    )
    no_text = features.replace(text_mask=np.zeros_like(features.text_mask))
    gradient = jax.jit(jax.grad(lambda p, f: allocate(p, TINY, f).policy.alpha.sum()))
    for case in (empty, no_text):
        grads = gradient(params, case)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_default_start_is_uniform_and_can_move():
    features = random_features()
    params = init_params(jax.random.key(0), TINY)
    output = run(params, TINY, features)
    np.testing.assert_allclose(output.policy.alpha, 1.0, atol=1e-6)
    np.testing.assert_allclose(output.policy.beta, 1.0, atol=1e-6)
    alphas = jax.jit(jax.grad(lambda p: allocate(p, TINY, features).policy.alpha.sum()))
    grads = alphas(params)["head"]
    for branch in (grads["out"]["kernel"], grads["out"]["bias"], grads["skip"]["kernel"]):
        assert (np.abs(branch[..., 0]) > 1e-3).any()  # column 0 is α
        np.testing.assert_array_equal(branch[..., 1], 0.0)


def test_released_start_depends_on_the_input():
    config = dataclasses.replace(TINY, start="released", bounds=HardClamp())
    output = run(init_params(jax.random.key(0), config), config, random_features())
    spread = output.policy.alpha[output.unit_mask]
    assert spread.std() > 1e-2 and np.abs(spread - 1.0).max() < 1.0


def test_jit_equals_eager():
    params, features = random_params(TINY), random_features()
    eager, jitted = allocate(params, TINY, features), run(params, TINY, features)
    for x, y in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5)


def test_bfloat16_layers_give_a_float32_policy():
    config = dataclasses.replace(TINY, dtype="bfloat16")
    params, features = init_params(jax.random.key(0), TINY), random_features()
    half, full = run(params, config, features), run(params, TINY, features)
    dtypes = {x.dtype for x in jax.tree.leaves((half.policy, half.unit_features))}
    assert dtypes == {jnp.dtype("float32")}
    # bfloat16 keeps 8 bits: the features agree to a few per cent of their size, and differ.
    error = np.abs(half.unit_features - full.unit_features).max()
    assert 1e-4 < error / np.abs(full.unit_features).max() < 0.05


def test_released_shape_has_the_hand_counted_parameters():
    d, ff = 1024, 1024 * 4096 * 2 + 2 * 1024  # two matrices and a layer norm
    projections = 2 * 576 * d
    text = 2 * 2 * d + d * d + d * 2 * d + d * d + ff  # two norms, q, kv, out
    time = 2 * d + (d * 1536 + 1536) + 512 * d  # norm, qkv of 8 heads with bias, out
    space = 2 * d + (d * 3072 + 3072) + d * d
    pool = (2 * d * 512 + 512) + 512
    unit = 2 * d + 2 * (d * d + d) + ((d + 5) * d + d)  # norm, relevance, coarse feature
    head = 2 * d + (d * 512 + 512) + (512 * 2 + 2) + d * 2  # norm, hidden, out, skip
    total = projections + text + 2 * (time + space + ff) + pool + unit + head
    assert total == 47_885_826  # "47.9 M"
    assert count_params(AllocatorConfig()) == total
    # The paper's gate adds its two scalars.
    assert count_params(AllocatorConfig(text_gate="paper")) == total + 2


def test_parameters_do_not_depend_on_the_batch():
    shapes = jax.tree.map(jnp.shape, random_params(TINY))
    module = AllocatorNetwork(TINY)
    fresh = jax.eval_shape(lambda: module.init(jax.random.key(0), random_features())["params"])
    assert shapes == jax.tree.map(jnp.shape, fresh)


def test_features_of_another_width_are_refused():
    features = random_features()
    features = features.replace(frames=features.frames[..., :-1])
    with pytest.raises(ValueError, match=r"\(5, 5\) wide, the config expects \(6, 5\)"):
        allocate(random_params(TINY), TINY, features)


@pytest.mark.parametrize("change", [{"num_heads": 3}, {"head_dim": 6}])
def test_a_shape_without_halves_is_refused(change):
    with pytest.raises(ValueError, match="num_heads must be even"):
        dataclasses.replace(TINY, **change)
