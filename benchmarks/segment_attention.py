"""Attention over packed frames of mixed sizes against a padded batch, and against torch.

    python benchmarks/segment_attention.py [--small]

One layer's attention, forward and with the gradients of queries, keys and values. The frames have
the sizes of a drawn allocation; then the same number of patches is cut into more and more equal
frames, so that the sum of their squared lengths falls while everything else stays.

* ours: the packed sequence, by the backend that AUTO takes, and by those named;
* padded: a batch padded to the longest frame, dense in JAX;
* torch padded: the same by scaled_dot_product_attention with a mask;
* torch masked: the packed sequence with a mask of blocks, where memory allows;
* torch loop: frame by frame.

Padding and unpadding are not timed. First the results are compared, then the times, in turns.
Prints medians in milliseconds and the ratio best of torch / ours (above 1: ours is faster), and
writes ``results/segment_attention.json``. On a GPU torch needs a CUDA build, or runs on the CPU.
"""

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from timing import interleaved, median, save

from kernels.segment_attention import Backend, Places, attend_in_places, attend_within_segments
from kernels.segment_attention.backends import resolve

MASK_BYTES = 4e9  # what the scores of a packed mask may take in torch
Arm = Callable[[], tuple[Any, ...]]


class Work(NamedTuple):
    """One packed sequence: queries, keys, values and the cotangent ``[P, H, D]``, and its cuts."""

    arrays: list[np.ndarray]
    lengths: np.ndarray

    @property
    def ids(self) -> np.ndarray:
        return np.repeat(np.arange(1, len(self.lengths) + 1), self.lengths)

    @property
    def present(self) -> np.ndarray:
        """[N, longest] of the padded batch."""
        return np.arange(self.lengths.max())[None, :] < self.lengths[:, None]

    def padded(self, packed: np.ndarray) -> np.ndarray:
        """[N, H, longest, D], zeros at the end of each."""
        out = np.zeros((*self.present.shape, *packed.shape[1:]), packed.dtype)
        out[self.present] = packed
        return out.swapaxes(1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--total", type=int, default=4096, help="patches, a multiple of 64")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-size", type=int, default=80)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--backends", nargs="*", default=["auto"], help="of ours, by name")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--small", action="store_true", help="a quick look: few patches and heads")
    args = parser.parse_args()
    if args.small:
        args.total, args.heads, args.repeats = 512, 2, 3
    torch.set_num_threads(os.cpu_count() or 1)
    cuts = {"drawn": drawn_lengths(args.total)}
    for frames in (1, 4, 16, 64):
        cuts[f"{frames} equal"] = np.full(frames, args.total // frames)
    print(f"{args.total} patches, {args.heads} heads of {args.head_size}, {args.dtype}; {where()}")
    rows = []
    for name, lengths in cuts.items():
        for gradients in (False, True):
            rows.append(compare(name, work(lengths, args), args, gradients))
            show(rows[-1], header=len(rows) == 1)
    chosen = resolve(Backend.AUTO, *[jnp.zeros((1, args.heads, args.total, args.head_size))] * 2)
    result = {"device": where(), "torch": torch.__version__, "auto": chosen.value, "rows": rows}
    print("wrote", save("segment_attention", vars(args) | result))


def drawn_lengths(total: int) -> np.ndarray:
    """Sides of frames log-uniform over a factor of six, in merged tokens, that fill ``total``."""
    rng = np.random.default_rng(0)
    left, lengths = total // 4, []
    while left:
        rows, cols = np.exp(rng.uniform(np.log(2), np.log(12), 2)).astype(int)
        lengths.append(4 * min(left, rows * cols))
        left -= lengths[-1] // 4
    return np.array(lengths)


def work(lengths: np.ndarray, args: argparse.Namespace) -> Work:
    rng = np.random.default_rng(1)
    shape = 4, args.total, args.heads, args.head_size
    return Work(list(rng.normal(size=shape).astype(np.float32)), lengths)


def compare(name: str, work: Work, args: argparse.Namespace, gradients: bool) -> dict[str, Any]:
    """Results held against each other, then the times."""
    arms = our_arms(work, args, gradients) | torch_arms(work, args, gradients)
    check(work, arms, args.dtype)
    seconds = interleaved(arms, warmup=1, repeats=args.repeats)
    times = {arm: 1e3 * median(seconds[arm]) for arm in arms}
    ours = times[next(iter(arms))]
    return {
        "frames": name,
        "lengths": work.lengths.tolist(),
        "squares_over_total_squared": float((work.lengths**2).sum() / work.lengths.sum() ** 2),
        "gradients": gradients,
        "ms": times,
        "torch_over_ours": min(times[arm] for arm in arms if arm.startswith("torch")) / ours,
    }


def show(row: dict[str, Any], *, header: bool) -> None:
    if header:
        arms = " ".join(f"{arm:>12}" for arm in row["ms"])
        print(f"frames     Σ l² / total²           {arms}  torch / ours")
    print(
        f"{row['frames']:10} {row['squares_over_total_squared']:13.3f}",
        f"{'gradients' if row['gradients'] else 'forward':9}",
        *(f"{time:12.2f}" for time in row["ms"].values()),
        f"{row['torch_over_ours']:13.2f}",
        flush=True,
    )


def our_arms(work: Work, args: argparse.Namespace, gradients: bool) -> dict[str, Arm]:
    dtype = jnp.dtype(args.dtype)
    packed = [jnp.asarray(x, dtype) for x in work.arrays]
    padded = [jnp.asarray(work.padded(x), dtype) for x in work.arrays]

    def arm(attend, *inputs):
        @jax.jit
        def run(query, key, value, cotangent):
            if not gradients:
                return (attend(query, key, value),)
            return jax.vjp(attend, query, key, value)[1](cotangent)

        return lambda: jax.block_until_ready(run(*inputs))

    ids = jnp.asarray(work.ids)
    places = Places.of_segments(jnp.asarray(work.present, jnp.int32))
    arms = {
        f"ours {name}": arm(
            partial(attend_within_segments, segment_ids=ids, backend=Backend(name)), *packed
        )
        for name in args.backends
    }
    dense = partial(attend_in_places, places=places, backend=Backend.DENSE)
    return arms | {"padded": arm(dense, *padded)}


def torch_arms(work: Work, args: argparse.Namespace, gradients: bool) -> dict[str, Arm]:
    on = partial(torch.as_tensor, device=torch_device())
    dtype = getattr(torch, args.dtype)
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def arm(attend, arrays):
        *heads, cotangent = (on(x).to(dtype).contiguous() for x in arrays)
        for x in heads:
            x.requires_grad_(gradients)

        def run():
            out = attend(*heads)
            results = torch.autograd.grad(out, heads, cotangent) if gradients else (out,)
            if torch_device() == "cuda":
                torch.cuda.synchronize()
            return results

        return run

    heads_first = [x.swapaxes(0, 1)[None] for x in work.arrays]
    present = on(work.present)[:, None, None, :]
    padded = [work.padded(x) for x in work.arrays]
    arms = {"torch padded": arm(partial(sdpa, attn_mask=present), padded)}
    ids = on(work.ids)
    if 4 * args.heads * len(ids) ** 2 <= MASK_BYTES:
        blocks = (ids[:, None] == ids[None, :])[None, None]
        arms["torch masked"] = arm(partial(sdpa, attn_mask=blocks), heads_first)

    def frame_by_frame(query, key, value):
        cuts = (x.split(work.lengths.tolist(), dim=2) for x in (query, key, value))
        return torch.cat([sdpa(*frame) for frame in zip(*cuts, strict=True)], dim=2)

    return arms | {"torch loop": arm(frame_by_frame, heads_first)}


def check(work: Work, arms: dict[str, Arm], dtype: str) -> None:
    """All arms give what the first gives, where there is no padding."""

    def packed(result):
        x = result.astype(jnp.float32) if isinstance(result, jax.Array) else result.detach().float()
        x = np.asarray(x) if isinstance(x, jax.Array) else x.cpu().numpy()
        if x.ndim == 3:
            return x
        x = x.swapaxes(1, 2)
        return x[0] if len(x) == 1 else x[work.present]

    ours, *others = ([packed(x) for x in arm()] for arm in arms.values())
    for theirs in others:
        for x, y in zip(ours, theirs, strict=True):
            atol = (1e-4 if dtype == "float32" else 2**-5) * max(1.0, float(np.abs(y).max()))
            np.testing.assert_allclose(x, y, atol=atol)


def torch_device() -> str:
    return "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"


def where() -> str:
    return f"JAX on {jax.devices()[0].device_kind}, torch on {torch_device()}"


if __name__ == "__main__":
    main()
