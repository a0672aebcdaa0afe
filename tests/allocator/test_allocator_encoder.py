"""The thumbnail encoder: area averages, cells, standardisation, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.allocator import (
    FrozenEncoder,
    Pictures,
    ThumbnailConfig,
    ThumbnailEncoder,
    standardise,
)
from resadapt_jax.allocator.encoder import area_weights, cell_tokens, normalise, thumbnails
from resadapt_jax.operators import NativeSizes, SizeLimits

SMALL = ThumbnailConfig(size=8, grid=2, cell_pixels=2)


@jax.jit
def encode(frames, frame_mask):
    batch = frames.shape[0]
    table = jnp.float32([[1, 2, 3], [0, 0, 6]])
    encoder: FrozenEncoder = ThumbnailEncoder(text_table=table, config=SMALL)
    ids = jnp.tile(jnp.array([[0, 1, 0]]), (batch, 1))
    pictures = Pictures.of_videos(frames).replace(mask=frame_mask)
    return encoder.encode(pictures, ids, jnp.tile(jnp.array([[True, True, False]]), (batch, 1)))


def random_frames(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def test_area_weights_by_hand():
    # 5 pixels into 2: each output covers 2.5 of them.
    expected = np.array([[1, 1, 0.5, 0, 0], [0, 0, 0.5, 1, 1]]) / 2.5
    np.testing.assert_allclose(area_weights(jnp.int32(5), 5, 2), expected, rtol=1e-6)
    both = area_weights(jnp.array([2, 3]), 4, 4)
    np.testing.assert_allclose(both[0], np.eye(4)[[0, 0, 1, 1]])
    # 3 pixels into 4: an output covers .75 of one; the fourth pixel is beyond them.
    thirds = [[1, 0, 0, 0], [1 / 3, 2 / 3, 0, 0], [0, 2 / 3, 1 / 3, 0], [0, 0, 1, 0]]
    np.testing.assert_allclose(both[1], thirds, rtol=1e-6)


@pytest.mark.parametrize("height, width", [(24, 12), (37, 90), (7, 5)])
def test_thumbnails_average_areas(height, width):
    frames = random_frames(0, 1, 2, height, width, 3)
    # Each pixel repeated 12 times per side: blocks of (height, width) are then the exact areas.
    fine = np.asarray(frames[0], np.float64).repeat(12, axis=1).repeat(12, axis=2) / 255
    expected = fine.reshape(2, 12, height, 12, width, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(thumbnails(Pictures.of_videos(frames), 12)[0], expected, atol=1e-6)


def test_one_native_size_serves_all_thumbnails():
    pictures = Pictures.of_videos(random_frames(0, 2, 3, 8, 6, 3))
    alike = pictures.replace(native=NativeSizes.alike(8, 6, pictures.native.limits))
    np.testing.assert_array_equal(thumbnails(alike, 4), thumbnails(pictures, 4))


def test_cell_tokens_by_hand():
    # A grey frame (.5) whose upper right cell holds one pure red pixel of its 16.
    image = np.full((8, 8, 3), 0.5, np.float32)
    image[1, 4] = [1.0, 0.0, 0.0]
    tokens = np.asarray(cell_tokens(jnp.asarray(image)[None, None], SMALL))[0, 0]
    assert tokens.shape == (SMALL.num_tokens, SMALL.width) == (4, 15)
    np.testing.assert_allclose(tokens[[0, 2, 3]], 0.5, rtol=1e-6)
    # Its quarter has mean (3·.5 + 1)/4 = .625 in red and .375 in green and blue.
    np.testing.assert_allclose(tokens[1, :3], [0.625, 0.375, 0.375], rtol=1e-6)
    np.testing.assert_allclose(tokens[1, 3:12], 0.5, rtol=1e-6)
    # Softmax over saturations at temperature .1: e^10 against fifteen e^0, so .99932 red.
    weight = np.exp(10) / (np.exp(10) + 15)
    red, green = weight + 0.5 * (1 - weight), 0.5 * (1 - weight)
    np.testing.assert_allclose(tokens[1, 12:], [red, green, green], rtol=1e-4)


def test_standardised_features_have_zero_mean_and_unit_variance_over_the_clip():
    tokens = 3.0 + 2.0 * jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    mask = jnp.arange(5)[None, :] < jnp.array([[5], [2]])
    whole = jnp.zeros((2, 5), jnp.int32)
    got = np.asarray(standardise(tokens.at[1, 2:].set(jnp.nan), mask, whole))
    for b, n in enumerate((5, 2)):
        np.testing.assert_allclose(got[b, :n].mean(axis=(0, 1)), 0.0, atol=1e-5)
        np.testing.assert_allclose(got[b, :n].std(axis=(0, 1)), 1.0, atol=1e-3)
    np.testing.assert_array_equal(got[1, 2:], 0.0)
    np.testing.assert_array_equal(
        standardise(jnp.ones((1, 2, 2, 3)), mask[:1, :2], whole[:1, :2]), 0.0
    )


def test_segments_are_standardised_by_themselves():
    tokens = (
        jax.random.normal(jax.random.key(0), (1, 5, 4, 3)) * jnp.arange(1, 6)[None, :, None, None]
    )
    mask, segments = jnp.ones((1, 5), bool), jnp.array([[0, 1, 1, 0, 2]])
    got = standardise(tokens, mask, segments)
    for segment in range(3):
        own = np.flatnonzero(segments[0] == segment)
        alone = standardise(tokens[:, own], mask[:, own], jnp.zeros((1, len(own)), jnp.int32))
        np.testing.assert_allclose(got[:, own], alone, atol=1e-5)


def test_pictures_smaller_than_their_canvas_are_as_alone():
    frames = random_frames(3, 1, 4, 20, 24, 3)
    sizes = ((20, 24), (13, 9))
    native = NativeSizes(index=jnp.array([[1, 0, 1, 0]]), sizes=sizes, limits=SizeLimits())
    got = thumbnails(Pictures.of_videos(frames).replace(native=native), 8)
    for place, (height, width) in enumerate([sizes[1], sizes[0]] * 2):
        alone = Pictures.of_videos(frames[:, place : place + 1, :height, :width])
        np.testing.assert_allclose(got[:, place], thumbnails(alone, 8)[:, 0], atol=1e-6)


def test_encoded_shapes_and_text():
    features = encode(random_frames(0, 2, 3, 30, 20, 3), jnp.ones((2, 3), bool))
    assert features.frames.shape == (2, 3, 4, 15) and features.frames.dtype == jnp.float32
    # (1, 2, 3) has mean 2 and variance 2/3; (0, 0, 6) has mean 2 and variance 8.
    first, second = np.array([-1, 0, 1]) * np.sqrt(1.5), np.array([-2, -2, 4]) / np.sqrt(8)
    np.testing.assert_allclose(features.text[0], [first, second, [0, 0, 0]], atol=1e-5)


def test_padded_frames_change_nothing():
    frames = random_frames(1, 2, 4, 16, 16, 3)
    mask = jnp.arange(4)[None, :] < jnp.array([[4], [2]])
    got = encode(frames, mask).frames
    other = encode(frames.at[1, 2:].set(255), mask).frames
    np.testing.assert_array_equal(got, other)
    np.testing.assert_allclose(got[1:, :2], encode(frames[1:, :2], mask[1:, :2]).frames, atol=1e-5)


def test_jit_equals_eager():
    frames, mask = random_frames(2, 1, 2, 16, 16, 3), jnp.ones((1, 2), bool)
    eager = encode.__wrapped__(frames, mask)
    np.testing.assert_allclose(encode(frames, mask).frames, eager.frames, atol=1e-5)


def test_normalise():
    got = normalise(jnp.float32([[1, 3], [5, 5]]))
    np.testing.assert_allclose(got, [[-1, 1], [0, 0]], atol=1e-6)


def test_a_thumbnail_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="divide"):
        ThumbnailConfig(size=56, grid=3)
