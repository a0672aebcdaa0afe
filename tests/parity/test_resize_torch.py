"""The resize against torch, the patch order and the sizes against HF's Qwen2-VL processors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with HF transformers needs torch")

from transformers.models.qwen2_vl import image_processing_qwen2_vl as hf_image  # noqa: E402
from transformers.models.qwen2_vl import video_processing_qwen2_vl as hf_video  # noqa: E402

from kernels.resize_patchify import PatchSpec, resize_patchify  # noqa: E402
from resadapt_jax.operators import SizeLimits, smart_resize  # noqa: E402

LEVELS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}


def natural_frames(rng, count, height, width):
    """Smooth shading, hard edges, fine texture and a little noise; uint8 [F, H, W, 3]."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    frames = []
    for _ in range(count):
        phase = rng.uniform(0, 6, 3)
        shading = 120 + 60 * np.sin(y / 37 + phase[0]) * np.cos(x / 23 + phase[1])
        texture = 30 * np.sin((x * phase[1] + y * phase[2]) / 2)
        image = (shading + texture)[..., None] + rng.uniform(-20, 20, 3)
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        image[top : top + height // 3, left : left + width // 3] = rng.uniform(0, 255, 3)
        frames.append(image + rng.normal(0, 6, (height, width, 3)))
    return np.clip(frames, 0, 255).astype(np.uint8)


def resized(frames, height, width, **kwargs):
    """The op, its patches put back into a picture: [F, 3, height, width] grey levels."""
    bounds = {"max_height": height, "max_width": width}
    rows, cols = height // 28, width // 28
    spec = PatchSpec(**{**bounds, "capacity": rows * cols, **LEVELS, **kwargs})
    patches = jax.jit(partial(resize_patchify, spec=spec))(
        frames, jnp.array([height]), jnp.array([width])
    ).patches
    grid = np.asarray(patches[: 4 * rows * cols]).reshape(rows, cols, 2, 2, 3, 2, 14, 14)
    return grid.transpose(5, 4, 0, 2, 6, 1, 3, 7).reshape(2, 3, height, width)


def torch_resized(frames, height, width, filter, antialias):
    return torch.nn.functional.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2).float(),
        size=(height, width),
        mode=filter,
        antialias=antialias,
        align_corners=False,
    ).numpy()


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    "native, size",
    [
        ((240, 427), (56, 84)),  # 0.2
        ((240, 427), (140, 224)),
        ((240, 427), (252, 420)),  # up in one direction, down in the other
        ((112, 112), (196, 196)),
        ((61, 45), (112, 84)),  # 1.8
        ((448, 448), (28, 28)),  # 1/16
    ],
)
def test_antialiased_resize_equals_torch(native, size, filter):
    frames = natural_frames(np.random.default_rng(0), 2, *native)
    want = torch_resized(frames, *size, filter, antialias=True)
    got = resized(frames, *size, filter=filter)
    assert np.abs(got - want).max() <= 0.02
    assert want.std() > 10


def test_a_larger_canvas_changes_nothing():
    frames = natural_frames(np.random.default_rng(1), 2, 100, 150)
    want = torch_resized(frames, 56, 84, "bicubic", antialias=True)
    got = resized(frames, 56, 84, max_height=196, max_width=140, capacity=12)
    assert np.abs(got - want).max() <= 0.02


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(56, 84), (196, 280)])
def test_plain_resize_equals_torch(size, filter):
    frames = natural_frames(np.random.default_rng(2), 2, 120, 150)
    want = torch_resized(frames, *size, filter, antialias=False)
    assert np.abs(resized(frames, *size, filter=filter, antialias=False) - want).max() <= 0.02


def test_antialias_off_misses_torch():
    # The ablation: a shrunk frame without antialias is nowhere near, so the tests above can fail.
    frames = natural_frames(np.random.default_rng(3), 2, 240, 427)
    want = torch_resized(frames, 56, 84, "bicubic", antialias=True)
    assert np.abs(resized(frames, 56, 84, antialias=False) - want).max() > 5
    # Enlarged, only the cubic's parameter and the border differ, and that shows as well.
    want = torch_resized(frames, 252, 448, "bicubic", antialias=True)
    assert np.abs(resized(frames, 252, 448, antialias=False) - want).max() > 0.5


@pytest.mark.parametrize("num_frames", [4, 3, 1])
def test_patch_order_is_exactly_that_of_the_video_processor(num_frames):
    height, width = 56, 84
    frames = np.random.default_rng(4).integers(0, 256, (num_frames, height, width, 3), np.uint8)
    processor = hf_video.Qwen2VLVideoProcessor()
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float()
    want, *grid = processor.patchify(video, 14, 2, 2)
    assert grid == [-(-num_frames // 2), 4, 6]
    sizes = (jnp.full(grid[0], side) for side in (height, width))
    spec = PatchSpec(
        capacity=6 * grid[0],
        max_height=height,
        max_width=width,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )
    got = 255 * resize_patchify(jnp.asarray(frames), *sizes, spec).patches
    np.testing.assert_array_equal(np.rint(got), want[0].numpy())


def test_whole_video_processor_on_float_frames():
    # ResAdapt's path: float frames, so the processor neither clamps nor rounds.
    frames = natural_frames(np.random.default_rng(5), 3, 100, 150)
    limits = SizeLimits(min_pixels=56 * 56, max_pixels=84 * 112)
    processor = hf_video.Qwen2VLVideoProcessor(
        size={"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels}
    )
    video = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    out = processor(videos=[video], do_sample_frames=False, return_tensors="pt")
    height, width = smart_resize(100, 150, limits)
    assert out["video_grid_thw"].tolist() == [[2, height // 14, width // 14]]
    sizes = jnp.full(2, height), jnp.full(2, width)
    blocks = 2 * (height // 28) * (width // 28)
    spec = PatchSpec(capacity=blocks, max_height=112, max_width=112)
    got = resize_patchify(jnp.asarray(frames), *sizes, spec)
    # 0.02 grey level after normalisation by the smallest deviation, .2613.
    np.testing.assert_allclose(
        got.patches, out["pixel_values_videos"].numpy(), atol=0.02 / 255 / 0.26
    )


def test_image_processor_at_native_size():
    image = natural_frames(np.random.default_rng(6), 1, 84, 56)
    processor = hf_image.Qwen2VLImageProcessor()
    out = processor(images=[torch.from_numpy(image[0]).permute(2, 0, 1)], return_tensors="pt")
    assert out["image_grid_thw"].tolist() == [[1, 6, 4]]
    spec = PatchSpec(capacity=6, max_height=84, max_width=56)
    got = resize_patchify(jnp.asarray(image), jnp.array([84]), jnp.array([56]), spec)
    np.testing.assert_allclose(got.patches, out["pixel_values"].numpy(), atol=1e-5)


def test_smart_resize_is_hf():
    rng = np.random.default_rng(7)
    for limits in (SizeLimits(), SizeLimits(patch_size=16, max_pixels=200_000)):
        for height, width in rng.integers(14, 2500, (3000, 2)).tolist():
            want = hf_video.smart_resize(
                height, width, limits.factor, limits.min_pixels, limits.max_pixels
            )
            assert smart_resize(height, width, limits) == tuple(want)
