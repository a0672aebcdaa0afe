"""resize_patchify against torch and Hugging Face's video processor: one clip, a size per pair.

    python benchmarks/resize_patchify.py [--small] [--torch-device cuda]

From uint8 frames [F, 3, H, W] on the device to normalised patches in the packed layout.

* ours: every backend that can serve this device, one launch for all sizes;
* hf: transformers' Qwen2-VL processor, pairs of one size resized together, floats as in ResAdapt;
* torch grouped: interpolate for the pairs of one size together, normalised and permuted;
* torch loop: the same pair by pair, as ResAdapt's operator does; with .cpu() each pair is brought
  to the host as there.

Sizes: one scale for all pairs, or scales drawn log-uniform from 0.2 to 1.8, under the budget of 768
merge blocks a pair. First the patches are compared, then the times, in turns; the frames of
successive calls are different copies, so that no cache holds them. A call's time is that of a
burst over its length: on a GPU the host's dispatch is hidden where it is shorter than the kernels.

Prints microseconds a call, GB/s of what must at least be moved (frames in, patches out), and
that as a share of the rate at which this device copies. Writes ``results/resize_patchify.json``.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from mid_model import device
from timing import interleaved, median, save

from kernels.resize_patchify import Backend, PatchSpec, resize_patchify
from resadapt_jax.operators import SizeLimits, smart_resize

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import tests.parity.cpu_torchvision  # noqa: E402, F401, I001  (before transformers looks for it)
from transformers.image_utils import SizeDict  # noqa: E402
from transformers.models.qwen2_vl.video_processing_qwen2_vl import (  # noqa: E402
    Qwen2VLVideoProcessor,
)

LIMITS = SizeLimits()
SCALES = ("0.25", "0.5", "0.75", "1", "drawn 0", "drawn 1", "drawn 2")
CACHE_BYTES = 1 << 27  # more than any cache: so many bytes of frames are taken in turns
Arms = dict[str, Callable[[], Any]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One row of the matrix: copies of a clip, and the size of each of its pairs."""

    frames: list[np.ndarray]
    sizes: list[tuple[int, int]]
    spec: PatchSpec

    @property
    def minimal_bytes(self) -> int:
        item = jnp.dtype(self.spec.dtype).itemsize
        return self.frames[0].nbytes + item * self.spec.capacity * 4 * self.spec.features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frame", nargs="*", help="sizes such as 448x448")
    parser.add_argument("--frames", nargs="*", type=int, help="how many of a clip")
    parser.add_argument("--scales", nargs="*", choices=SCALES)
    parser.add_argument("--filters", nargs="*", default=["bicubic", "bilinear"])
    parser.add_argument("--dtypes", nargs="*", help="of the patches")
    parser.add_argument("--repeats", type=int, help="bursts of every arm")
    parser.add_argument("--burst", type=int, help="calls of a burst")
    parser.add_argument("--torch-device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="a quick look: little of everything")
    args = fill(parser.parse_args(), on_cpu=jax.default_backend() == "cpu")
    torch.set_num_threads(os.cpu_count() or 1)
    copy = copy_rate(args)
    print(f"{device()} copies {copy:.1f} GB/s; torch on {args.torch_device}")
    print(
        f"{'frames':16} {'scale':8} {'filter':9} {'patches':9} arm {'us':>21} {'GB/s':>8}  of copy"
    )
    rows = [
        measured(frame, frames, scale, filter, dtype, args, copy)
        for frame in args.frame
        for frames in args.frames
        for scale in args.scales
        for filter in args.filters
        for dtype in args.dtypes
    ]
    result = {"device": device(), "torch": torch.__version__, "copy_gb_s": copy, "rows": rows}
    print("wrote", save("resize_patchify", vars(args) | result))


def fill(args: argparse.Namespace, *, on_cpu: bool) -> argparse.Namespace:
    """Defaults: the whole matrix on an accelerator, a part that ends in minutes on a CPU."""
    whole = {"frame": ["448x448", "720x1280"], "frames": [16, 32, 64, 128], "scales": SCALES,
             "dtypes": ["bfloat16", "float32"], "repeats": 50, "burst": 10}  # fmt: skip
    cpu = {"frame": ["448x448"], "frames": [16], "scales": ("0.25", "0.5", "1", "drawn 0"),
           "dtypes": ["float32"], "repeats": 5, "burst": 1}  # fmt: skip
    small = {"frame": ["112x140"], "frames": [5], "scales": ("0.5", "drawn 0"),
             "dtypes": ["float32"], "repeats": 2, "burst": 1}  # fmt: skip
    for name, value in (small if args.small else cpu if on_cpu else whole).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def measured(frame, frames, scale, filter, dtype, args, copy) -> dict[str, Any]:
    """One row: the patches held against each other, then the times."""
    height, width = map(int, frame.split("x"))
    work = make_work(height, width, frames, scale, filter, dtype)
    arms = our_arms(work) | torch_arms(work, args.torch_device)
    check(work, arms)
    bursts = {name: partial(burst, arm, args) for name, arm in arms.items()}
    seconds = interleaved(bursts, warmup=1, repeats=args.repeats)
    row = {"frame": frame, "frames": frames, "scale": scale, "filter": filter, "dtype": dtype}
    row |= {"blocks": work.spec.capacity, "minimal_bytes": work.minimal_bytes, "arms": {}}
    for name, taken in seconds.items():
        each = [1e6 * t / args.burst for t in taken]
        us = median(each)
        p90 = statistics.quantiles(each, n=10)[-1] if len(each) > 1 else us
        rate = work.minimal_bytes / us / 1e3
        row["arms"][name] = {"us": us, "p90_us": p90, "gb_s": rate, "of_copy": rate / copy}
        label = f"{frames:3} x {frame:10} {scale:8} {filter:9} {dtype:9}"
        print(f"{label} {name:17} {us:9.0f} {rate:8.2f} {rate / copy:8.3f}", flush=True)
    return row


def make_work(height, width, frames, scale, filter, dtype) -> Work:
    rng = np.random.default_rng(0)
    copies = 1 + CACHE_BYTES // (3 * frames * height * width)
    clip = rng.integers(0, 256, (min(copies, 8), frames, 3, height, width), dtype=np.uint8)
    units = -(-frames // 2)
    scales = np.full(units, float(scale)) if "drawn" not in scale else None
    if scales is None:
        drawn = np.random.default_rng(int(scale.split()[1]))
        scales = np.exp(drawn.uniform(np.log(0.2), np.log(1.8), units))
    sizes = [smart_resize(int(height * s), int(width * s), LIMITS) for s in scales]
    blocks = sum(h // LIMITS.factor * (w // LIMITS.factor) for h, w in sizes)
    most = (max(side) for side in zip(*sizes, strict=True))
    bounds = dict(zip(("max_height", "max_width"), most, strict=True))
    spec = PatchSpec(capacity=blocks, filter=filter, dtype=dtype, **bounds)
    return Work(frames=list(clip), sizes=sizes, spec=spec)


def our_arms(work: Work) -> Arms:
    """Every backend that can serve the call; each compiled once, sizes traced."""
    clips = [jax.device_put(clip) for clip in work.frames]
    heights, widths = (jnp.array(side) for side in zip(*work.sizes, strict=True))

    arms = {}
    for backend in able():
        run = jax.jit(partial(resize_patchify, spec=work.spec, backend=backend))
        try:
            run.trace(clips[0], heights, widths)
        except ValueError as error:
            print(f"without {error}")
            continue
        turn = partial(next, cycle(clips))
        arms[f"ours {backend.value}"] = lambda run=run, turn=turn: (
            run(turn(), heights, widths).patches
        )
    return arms


def able() -> list[Backend]:
    kernels = {"gpu": [Backend.PALLAS_GPU, Backend.TRITON], "tpu": [Backend.PALLAS_TPU]}
    return [Backend.REFERENCE, *kernels.get(jax.default_backend(), [])]


def torch_arms(work: Work, where: str) -> Arms:
    """Without gradients, on the device; patches of a pair, or of all pairs of a size, at a time."""
    clips = [torch.from_numpy(clip).to(where) for clip in work.frames]
    order: dict[tuple[int, int], list[int]] = {}
    for pair, size in enumerate(work.sizes):
        order.setdefault(size, []).append(pair)
    processor = Qwen2VLVideoProcessor()
    dtype = getattr(torch, work.spec.dtype)

    def packed(clip, patches_of):
        """Patches of the pairs of each size together, then in the order of the pairs."""
        frames = clip if len(clip) % 2 == 0 else torch.cat([clip, clip[-1:]])
        pairs = frames.unflatten(0, (-1, 2))
        parts: list[Any] = [None] * len(pairs)
        for size, members in order.items():
            for pair, part in zip(members, patches_of(pairs[members], size), strict=True):
                parts[pair] = part
        return torch.cat(parts).to(dtype)

    def hf(pairs, size):
        resize = super(Qwen2VLVideoProcessor, processor).resize
        size = SizeDict(height=size[0], width=size[1])
        resample = {"bicubic": 3, "bilinear": 2}[work.spec.filter]
        videos = list(resize(pairs.float(), size, resample, antialias=True))
        done = processor(
            videos=videos, do_resize=False, cap_pixels_per_frame=False, return_tensors="pt"
        )
        return done["pixel_values_videos"].chunk(len(videos))

    def loop(clip, *, to_host):
        parts = [grouped(clip[[2 * p, min(2 * p + 1, len(clip) - 1)]][None], size, work.spec)
                 for p, size in enumerate(work.sizes)]  # fmt: skip
        parts = [part[0].cpu() if to_host else part[0] for part in parts]
        return torch.cat(parts).to(dtype)

    runs = {
        "hf": partial(packed, patches_of=hf),
        "torch grouped": partial(packed, patches_of=partial(grouped, spec=work.spec)),
        "torch loop": partial(loop, to_host=False),
        "torch loop .cpu()": partial(loop, to_host=True),
    }

    def arm(run):
        turn = partial(next, cycle(clips))
        return torch.no_grad()(lambda: run(turn()))

    return {name: arm(run) for name, run in runs.items()}


def grouped(pairs: torch.Tensor, size: tuple[int, int], spec: PatchSpec) -> torch.Tensor:
    """[N, 2, 3, H, W] to [N, patches, features]."""
    (height, width), p, m = size, spec.patch_size, spec.merge_size
    out = torch.nn.functional.interpolate(
        pairs.flatten(0, 1).float(), size=size, mode=spec.filter, antialias=True
    )
    mean, std = (255 * torch.tensor(v, device=out.device)[:, None, None]
                 for v in (spec.mean, spec.std))  # fmt: skip
    out = ((out - mean) / std).reshape(
        len(pairs), 2, 3, height // p // m, m, p, width // p // m, m, p
    )
    return out.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(len(pairs), -1, spec.features)


def check(work: Work, arms: Arms) -> None:
    """The first call of every arm sees the same copy."""
    got = {name: arm() for name, arm in arms.items()}
    got = {
        name: np.asarray(x.astype(jnp.float32)) if isinstance(x, jax.Array) else x.float().cpu()
        for name, x in got.items()
    }
    want = got["torch grouped"].numpy()
    # 0.3 grey level over the smallest deviation; bfloat16 rounds at most 2⁻⁸ of some 4.
    atol = 0.3 / 255 / min(work.spec.std) + (0.02 if work.spec.dtype == "bfloat16" else 0.0)
    for name, patches in got.items():
        np.testing.assert_allclose(patches, want, atol=atol, err_msg=name)


def burst(arm: Callable[[], Any], args: argparse.Namespace) -> None:
    for _ in range(args.burst):
        out = arm()
    if isinstance(out, jax.Array):
        jax.block_until_ready(out)
    elif args.torch_device != "cpu":
        torch.cuda.synchronize()


def copy_rate(args: argparse.Namespace) -> float:
    """GB/s, reads and writes counted, of a copy far larger than a cache."""
    source = jnp.zeros(1 << 28, jnp.uint8)
    run = jax.jit(lambda x: x ^ 1)  # XLA would not copy for nothing
    seconds = interleaved({"copy": partial(burst, partial(run, source), args)}, warmup=2, repeats=9)
    return 2 * source.nbytes * args.burst / median(seconds["copy"]) / 1e9


if __name__ == "__main__":
    main()
