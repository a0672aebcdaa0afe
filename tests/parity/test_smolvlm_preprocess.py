"""Frames to pixels, against HF's own processors on PIL images and on torchvision tensors.

All work on bytes: both resizes round to whole levels after each of their two passes. HF's kernels
hold the taps in fixed point, ours in float32, so a value within ε of a half may be rounded the
other way, which is one level; later passes spread it by taps below 1.1, and only where two such
roundings meet may it become two. With K taps of b fractional bits ε ≤ 255 K 2^-(b+1), and at most
2ε of the values are so near a half. Over four passes the mean difference is below 8ε:

* PIL has b = 22; at K ≤ 20 ε is 6e-4 level and the mean below 0.005;
* torchvision has taps of 16 bits, b = 14 for the 6 taps of an enlarging Lanczos, and more bits for
  more, smaller taps: ε is 0.047 at worst, a fifth of it on average (errors of 6 taps of either
  sign), and the mean below 0.08.
"""

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with HF transformers needs torch")

from hf_smolvlm import picture_frames  # noqa: E402
from transformers.models.smolvlm import image_processing_pil_smolvlm as hf_pil  # noqa: E402
from transformers.models.smolvlm import image_processing_smolvlm as hf_image  # noqa: E402
from transformers.models.smolvlm import video_processing_smolvlm as hf_video  # noqa: E402

from resadapt_jax.models.smolvlm import preprocess as ours  # noqa: E402
from resadapt_jax.models.smolvlm.checkpoint import load_preprocess  # noqa: E402
from resadapt_jax.models.smolvlm.config import SmolVLMConfig, TextConfig, VisionConfig  # noqa: E402

PATCH = 16
RESAMPLE = {"lanczos": 1, "bicubic": 3}
# Native size, longest edge, square: shrunk, enlarged, both; landscape, portrait, square.
LANDSCAPE = [((90, 160), 64, 64), ((37, 53), 96, 64), ((48, 48), 64, 64), ((61, 200), 128, 64)]
PORTRAIT = [((160, 90), 64, 48), ((53, 37), 96, 64)]


def settings(filter, longest_edge, size):
    return {
        "size": {"longest_edge": longest_edge},
        "max_image_size": {"longest_edge": size},
        "resample": RESAMPLE[filter],
    }


def channels_last(pixels):
    return np.moveaxis(np.asarray(pixels), 1, -1)


def pil_pixels(frames, **how):
    processor = hf_pil.SmolVLMImageProcessorPil(do_image_splitting=False, **how)
    images = [list(np.moveaxis(frames, -1, 1))]
    return channels_last(processor(images=images, return_tensors="np")["pixel_values"][0])


def video_pixels(frames, **how):
    processor = hf_video.SmolVLMVideoProcessor(**how)
    video = torch.tensor(frames).permute(0, 3, 1, 2)
    out = processor(videos=[video], do_sample_frames=False, return_tensors="pt")
    return channels_last(out["pixel_values"][0])


def image_pixels(frames, **how):
    processor = hf_image.SmolVLMImageProcessor(do_image_splitting=False, **how)
    images = [list(torch.tensor(frames).permute(0, 3, 1, 2))]
    return channels_last(processor(images=images, return_tensors="pt")["pixel_values"][0])


def our_pixels(frames, filter, longest_edge, size):
    config = ours.PreprocessConfig(size=size, longest_edge=longest_edge, filter=filter)
    # On a larger canvas, among noise, beside a frame of another size, which must all leave no
    # trace. Not cached across tests: an ablation changes what is traced.
    count, height, width, _ = frames.shape
    shape = count + 1, height + 7, width + 11, 3
    canvas = np.random.default_rng(9).integers(0, 256, shape, np.uint8)
    canvas[1:, :height, :width] = frames
    sizes = ((height, width), (height + 7, width + 11))
    index = np.array([1] + [0] * count)
    patches = jax.jit(lambda x, i: ours.preprocess(x, i, sizes, config, PATCH))(canvas, index)[1:]
    return einops.rearrange(
        np.asarray(patches), "b r c (d y x) -> b (r y) (c x) d", y=PATCH, x=PATCH
    )


def levels_apart(x, y):
    """Mean and largest difference in grey levels: deviation 0.5 of 255 is 127.5 levels."""
    apart = np.abs(x - y) * 127.5
    return apart.mean(), apart.max()


def frames_of(size):
    return picture_frames(np.random.default_rng(0), 2, *size)


@pytest.mark.parametrize("filter", RESAMPLE)
@pytest.mark.parametrize("native, longest_edge, size", LANDSCAPE + PORTRAIT)
@pytest.mark.parametrize("reference", [video_pixels, image_pixels])
def test_pixels_are_those_of_torchvision(reference, native, longest_edge, size, filter):
    frames = frames_of(native)
    expected = reference(frames, **settings(filter, longest_edge, size))
    got = our_pixels(frames, filter, longest_edge, size)
    assert got.shape == expected.shape == (2, size, size, 3)
    mean, largest = levels_apart(got, expected)
    assert mean < 0.08 and largest < 2.01


@pytest.mark.parametrize("filter", RESAMPLE)
@pytest.mark.parametrize("native, longest_edge, size", LANDSCAPE)
def test_pixels_are_those_of_pil(native, longest_edge, size, filter):
    frames = frames_of(native)
    expected = pil_pixels(frames, **settings(filter, longest_edge, size))
    mean, largest = levels_apart(our_pixels(frames, filter, longest_edge, size), expected)
    assert mean < 0.005 and largest < 2.01


@pytest.mark.parametrize("native, longest_edge, size", PORTRAIT)
def test_portraits_are_near_those_of_pil(native, longest_edge, size):
    # Pillow 13 takes the vertical pass first where that is cheaper; torchvision and earlier ones
    # never do. Two orders share no rounding between the passes: each has a deviation of 0.29 level,
    # so their difference has 0.41 and a mean size of 0.33, before the last pass rounds it.
    frames = frames_of(native)
    expected = pil_pixels(frames, **settings("lanczos", longest_edge, size))
    mean, _ = levels_apart(our_pixels(frames, "lanczos", longest_edge, size), expected)
    assert mean < 0.4


def test_scaled_size_is_hfs():
    rng = np.random.default_rng(1)
    for height, width, edge in rng.integers(2, 2500, (3000, 3)).tolist():
        frame = torch.empty(height, width, device="meta")
        want = hf_video.get_resize_output_image_size(frame, edge)
        assert ours.scaled_size(height, width, edge) == tuple(want)


def misses_torchvision(native=(61, 200), longest_edge=128, size=64, filter="lanczos"):
    frames = frames_of(native)
    expected = video_pixels(frames, **settings(filter, longest_edge, size))
    return levels_apart(our_pixels(frames, filter, longest_edge, size), expected)[0]


def test_ablation_no_rounding(monkeypatch):
    monkeypatch.setattr(ours, "_whole", lambda levels: levels)
    assert misses_torchvision() > 0.3


def test_ablation_one_resize(monkeypatch):
    monkeypatch.setattr(ours, "scaled_size", lambda height, width, edge: (height, width))
    assert misses_torchvision() > 0.3


def test_ablation_no_antialias(monkeypatch):
    right = ours.resize_weights

    def plain(*sizes, filter):
        return right(*sizes, filter=filter, antialias=False)

    monkeypatch.setattr(ours, "resize_weights", plain)
    assert misses_torchvision(native=(90, 160), longest_edge=64, filter="bicubic") > 1


def test_ablation_other_filter():
    frames = frames_of((61, 200))
    expected = video_pixels(frames, **settings("lanczos", 128, 64))
    assert levels_apart(our_pixels(frames, "bicubic", 128, 64), expected)[0] > 0.3


@pytest.mark.parametrize("kind", ["video", "image"])
def test_settings_are_read_from_what_hf_saves(tmp_path, kind):
    processor = {
        "video": hf_video.SmolVLMVideoProcessor,
        "image": hf_image.SmolVLMImageProcessor,
    }[kind](**settings("lanczos", 96, 64))
    processor.save_pretrained(tmp_path)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = SmolVLMConfig(
        vision=VisionConfig(num_attention_heads=1, image_size=128, patch_size=16, **size),
        text=TextConfig(
            vocab_size=8, num_attention_heads=1, num_key_value_heads=1, head_dim=8, **size
        ),
        scale_factor=4,
        image_token_id=0,
    )
    want = ours.PreprocessConfig(size=64, longest_edge=96, filter="bicubic")
    assert load_preprocess(tmp_path, config, "bicubic") == want


def test_frames_stay_bytes_under_jit():
    # The levels before normalisation are whole, whatever the sizes.
    config = ours.PreprocessConfig(size=64, longest_edge=96)
    levels = jax.jit(lambda x: ours.preprocess(x, np.zeros(2, int), ((37, 53),), config, PATCH))(
        frames_of((37, 53))
    )
    levels = levels * 127.5 + 127.5
    np.testing.assert_allclose(levels, jnp.round(levels), atol=1e-3)
