"""Allocate a clip: decide what size each temporal pair deserves for a query, and show it.

    python -m resadapt_jax.allocate CLIP --query "when does it flip?" --budget 600 --out DIR

prints one row per temporal pair and writes ``allocation.json`` and ``contact_sheet.png``. In a
notebook, `allocate` and `build_inputs` do the same on arrays.
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from transformers import PreTrainedTokenizerBase

from kernels.resize_patchify import resize_patchify
from resadapt_jax.allocator import network, pair_scales, policy
from resadapt_jax.data import video
from resadapt_jax.data.toy_pipeline import VIDEO_PAD, entry_index, pair_headers
from resadapt_jax.errors import UserError, run_cli
from resadapt_jax.files import atomic_write
from resadapt_jax.models.prompt import PromptLayout, expand_prompt
from resadapt_jax.models.vision_plan import VisionPlan, check_fits, plan_vision
from resadapt_jax.operators import (
    SizeLimits,
    check_scales,
    fit_budget,
    grids,
    native_tokens,
    require_feasible,
)
from resadapt_jax.report.contact_sheet import Tile, contact_sheet
from resadapt_jax.training.trained_allocator import TrainedAllocator, load_allocator
from resadapt_jax.typing import Array, Float, Int, UInt8
from resadapt_jax.versions import versions

DEFAULT_ALLOCATOR = Path(__file__).parent / "assets" / "toy_allocator"


@dataclass(frozen=True, kw_only=True, eq=False)
class Allocation:
    """A size for each of a clip's K temporal pairs.

    Attributes:
        seconds: mean time of the pair's frames; a lone last frame's own.
        scales: linear scale of each pair; realised, not requested, where a budget changed it.
        heights, widths: in pixels.
        tokens: visual tokens each pair puts before the language model.
        native_tokens: tokens of all pairs at scale 1.
    """

    seconds: Float[np.ndarray, " K"]
    scales: Float[np.ndarray, " K"]
    heights: Int[np.ndarray, " K"]
    widths: Int[np.ndarray, " K"]
    tokens: Int[np.ndarray, " K"]
    native_tokens: int

    @property
    def total(self) -> int:
        return int(self.tokens.sum())

    @property
    def retention(self) -> float:
        """ρ = Σ n_t(s_t) / Σ n_t(1), ResAdapt (12), arXiv 2603.28610."""
        return self.total / self.native_tokens


@flax.struct.dataclass
class BackboneInputs:
    """What a Qwen2.5-VL backbone is given, packed without padding."""

    patches: Float[Array, "P C"]
    plan: VisionPlan
    layout: PromptLayout


def allocate(
    frames: UInt8[np.ndarray, "F height width 3"],
    times: Float[np.ndarray, " F"],
    query: str,
    allocator: TrainedAllocator,
    *,
    budget: int | None = None,
    limits: SizeLimits | None = None,
) -> Allocation:
    """The allocator's deterministic choice for a clip: s_k = s_min + E[a_k] (s_max - s_min).

    Args:
        frames: at native size; the very frames that the backbone will see. Every two make a pair.
        times: seconds.
        query: what is asked about the clip.
        budget: tokens that must not be exceeded; pairs are then shrunk, below s_min if need be.
        limits: legal sizes, by default Qwen2.5-VL's.

    Raises:
        UserError: an empty query, or a budget below the smallest legal grids.
    """
    scales = propose_scales(frames, query, allocator)
    return fit_scales(scales, frames, times, budget=budget, limits=limits)


def propose_scales(
    frames: UInt8[np.ndarray, "F height width 3"], query: str, allocator: TrainedAllocator
) -> Float[np.ndarray, " K"]:
    """The scale of each temporal pair, the mean of the policy, before any budget."""
    check_query(query, allocator.tokenizer)
    text_ids = allocator.tokenizer(query, add_special_tokens=False).input_ids
    scales = _mean_scales(
        allocator.encoder,
        allocator.params,
        jnp.asarray(frames)[None],
        jnp.asarray(text_ids, jnp.int32)[None],
        allocator.config.network,
        allocator.config.scale_range,
    )
    return np.asarray(scales)


def fit_scales(
    scales: Float[np.ndarray, " K"],
    frames: UInt8[np.ndarray, "F height width 3"],
    times: Float[np.ndarray, " F"],
    *,
    budget: int | None = None,
    limits: SizeLimits | None = None,
) -> Allocation:
    """Any scales, one per temporal pair, as legal sizes within a budget.

    Raises:
        UserError: the number of scales is not that of the pairs, or one is out of range; or a
            budget below the smallest legal grids, naming their sum.
    """
    limits = limits or SizeLimits()
    height, width = frames.shape[1:3]
    seconds = _pair_seconds(times)
    largest = len(seconds) * (limits.max_pixels // limits.factor**2)
    if budget is not None and budget < 1:
        raise UserError(f"the budget must be at least 1 token, got {budget}")
    budget = largest if budget is None else min(budget, largest)
    present = jnp.ones(len(seconds), bool)
    try:
        check_scales(scales, len(seconds))
        fitted = fit_budget(jnp.asarray(scales), present, height, width, budget, limits)
        require_feasible(fitted, budget)
    except ValueError as error:
        raise UserError(str(error)) from error
    return Allocation(
        seconds=seconds,
        scales=np.asarray(fitted.scales),
        heights=np.asarray(fitted.heights),
        widths=np.asarray(fitted.widths),
        tokens=np.asarray(fitted.tokens),
        native_tokens=len(seconds) * native_tokens(height, width, limits),
    )


def build_inputs(
    allocation: Allocation,
    frames: UInt8[np.ndarray, "F height width 3"],
    times: Float[np.ndarray, " F"],
    query: str,
    tokenizer: PreTrainedTokenizerBase,
    limits: SizeLimits | None = None,
) -> BackboneInputs:
    """Resize the frames and lay out the prompt, each pair an entry of its own (convention hf-5).

    Raises:
        UserError: the query contains a special token.
        RuntimeError: prompt and plan disagree on the number of visual tokens.
    """
    limits = limits or SizeLimits()
    check_query(query, tokenizer)
    present = jnp.ones(len(allocation.tokens), bool)
    heights, widths = jnp.asarray(allocation.heights), jnp.asarray(allocation.widths)
    grid_thw = grids(heights, widths, present, limits)
    plan = plan_vision(
        grid_thw,
        capacity=allocation.total,
        merge_size=limits.merge_size,
        max_frame_tokens=int(allocation.tokens.max()),
    )
    check_fits(plan)
    patches = resize_patchify(
        jnp.asarray(frames),
        heights,
        widths,
        plan.patch_entry,
        plan.patch_row,
        plan.patch_col,
        patch_size=limits.patch_size,
        max_height=int(allocation.heights.max()),
        max_width=int(allocation.widths.max()),
    )
    layout = _prompt(times, query, tokenizer, grid_thw, allocation.total, limits)
    pads = int(jnp.sum(layout.visual_index >= 0))
    if pads != int(plan.num_tokens) or bool(layout.overflow):
        raise RuntimeError(f"the prompt has {pads} visual tokens, the plan {plan.num_tokens}")
    return BackboneInputs(patches=patches, plan=plan, layout=layout)


def check_query(query: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `UserError` for a query that is empty or would be read as markup."""
    if not query.strip():
        raise UserError("the query is empty")
    for token in tokenizer.all_special_tokens:
        if token in query:
            raise UserError(f"the query contains the special token {token}")


@jax.jit(static_argnums=(4, 5))
def _mean_scales(encoder, params, frames, text_ids, config, scale_range):
    frame_mask, text_mask = jnp.ones(frames.shape[:2], bool), jnp.ones(text_ids.shape, bool)
    features = encoder.encode(frames, frame_mask, text_ids, text_mask)
    output = network.allocate(params, config, features)
    scales = policy.to_scale(policy.mean(output.alpha, output.beta), scale_range)
    if config.unit == "frame":
        return pair_scales(scales[:, None], frame_mask)[0, 0]
    return scales[0]


def _complete(times: Float[np.ndarray, " F"]) -> Float[np.ndarray, " F2"]:
    """The last frame stands twice where its pair lacks a frame."""
    return np.append(times, times[len(times) - len(times) % 2 :])


def _pair_seconds(times: Float[np.ndarray, " F"]) -> Float[np.ndarray, " K"]:
    return _complete(times).reshape(-1, 2).mean(axis=1)


def _prompt(times, query, tokenizer, grid_thw, num_tokens: int, limits: SizeLimits) -> PromptLayout:
    message = {"role": "user", "content": pair_headers(_complete(times)) + query}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    ids = np.asarray(tokenizer(text, add_special_tokens=False).input_ids, np.int32)
    return expand_prompt(
        jnp.asarray(ids),
        jnp.int32(len(ids)),
        jnp.asarray(entry_index(ids, tokenizer.convert_tokens_to_ids(VIDEO_PAD))),
        grid_thw,
        jnp.ones(len(grid_thw)),  # an entry has one temporal patch, so no time passes inside it
        capacity=len(ids) - len(grid_thw) + num_tokens,
        merge_size=limits.merge_size,
    )


# --- the command line ---------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m resadapt_jax.allocate",
        description="Decide what size each moment of a clip deserves for a query.",
        allow_abbrev=False,
    )
    parser.add_argument("clip", type=Path, help="a video file")
    parser.add_argument("--query", required=True, help="what is asked about the clip")
    parser.add_argument("--budget", type=int, metavar="TOKENS", help="never exceed this many")
    parser.add_argument("--frames", type=int, default=32, help="frames to sample (default: 32)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/allocate/CLIP")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        default=DEFAULT_ALLOCATOR,
        help="a trained allocator (default: the one shipped with the package)",
    )
    args = parser.parse_args(argv)
    args.out = args.out or Path("runs", "allocate", args.clip.stem)
    existing = next(path for path in (args.out, *args.out.parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"cannot write to {args.out}: {existing} is not a folder")
    if args.budget is not None and args.budget < 1:
        raise UserError(f"the budget must be at least 1 token, got {args.budget}")
    if not args.query.strip():
        raise UserError("the query is empty")
    return args


def run(args: argparse.Namespace) -> None:
    """The command: everything is computed before anything is written."""
    allocator = load_allocator(args.checkpoint)
    _progress(f"decoding {args.clip}")
    clip = video.sample(args.clip, num_frames=args.frames)
    for warning in clip.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    _progress(f"allocating {len(clip.times)} frames")
    allocation = allocate(clip.frames, clip.times, args.query, allocator, budget=args.budget)
    _progress(f"resizing and building the inputs of {allocation.total} visual tokens")
    inputs = build_inputs(allocation, clip.frames, clip.times, args.query, allocator.tokenizer)
    print(format_table(args, clip, allocation, inputs))
    sheet = io.BytesIO()
    _draw(args, clip, allocation, allocator).save(sheet, "png")
    record = json.dumps(_record(args, clip, allocation, allocator), indent=2) + "\n"
    try:
        atomic_write(args.out / "contact_sheet.png", sheet.getvalue())
        atomic_write(args.out / "allocation.json", record)
    except OSError as error:
        raise UserError(f"cannot write to {args.out}: {error.strerror}") from error
    print(f"wrote {args.out / 'allocation.json'} and {args.out / 'contact_sheet.png'}")


def _progress(message: str) -> None:
    print(f"{message} ...", file=sys.stderr, flush=True)


def format_table(
    args: argparse.Namespace, clip: video.VideoClip, allocation: Allocation, inputs: BackboneInputs
) -> str:
    """One row per temporal pair, then the totals."""
    height, width = clip.frames.shape[1:3]
    lines = [
        f"{args.clip}: {clip.source_width}x{clip.source_height}, {clip.duration:.1f} s, "
        f"{len(clip.times)} frames at {width}x{height}",
        f"query: {args.query}",
        f"{'seconds':>9} {'scale':>6} {'size':>10} {'tokens':>7}",
    ]
    for seconds, scale, height, width, tokens in _rows(allocation):
        lines.append(f"{seconds:9.1f} {scale:6.2f} {f'{width}x{height}':>10} {tokens:7d}")
    budget = "" if args.budget is None else f", budget {args.budget}"
    patches, features = inputs.patches.shape
    return "\n".join(
        [
            *lines,
            f"total {allocation.total} of {allocation.native_tokens} tokens, "
            f"retention {allocation.retention:.1%}{budget}",
            f"inputs {patches} patches x {features}, prompt of {inputs.layout.length} positions",
        ]
    )


def _rows(allocation: Allocation):
    columns = (
        allocation.seconds,
        allocation.scales,
        allocation.heights,
        allocation.widths,
        allocation.tokens,
    )
    return zip(*(column.tolist() for column in columns), strict=True)


def _draw(args, clip, allocation: Allocation, allocator: TrainedAllocator):
    tiles = [
        Tile(frame=frame, seconds=seconds, scale=scale, height=height, width=width, tokens=tokens)
        for frame, (seconds, scale, height, width, tokens) in zip(
            clip.frames[::2], _rows(allocation), strict=True
        )
    ]
    facts = [
        args.clip.name,
        f"{allocation.total:,} of {allocation.native_tokens:,} tokens",
        f"retention {allocation.retention:.1%}",
        *([] if args.budget is None else [f"budget {args.budget:,}"]),
        *([f"{clip.frames_lost} frames lost"] if clip.frames_lost else []),
    ]
    scale_range = allocator.config.scale_range
    return contact_sheet(
        tiles,
        title=args.query,
        subtitle=" · ".join(facts),
        scale_range=(scale_range.s_min, scale_range.s_max),
    )


def _record(args, clip, allocation: Allocation, allocator: TrainedAllocator) -> dict:
    keys = ("seconds", "scale", "height", "width", "tokens")
    return {
        "clip": str(args.clip),
        "query": args.query,
        "budget": args.budget,
        "tokens": allocation.total,
        "native_tokens": allocation.native_tokens,
        "retention": allocation.retention,
        "pairs": [dict(zip(keys, row, strict=True)) for row in _rows(allocation)],
        "frames": len(clip.times),
        "frames_lost": clip.frames_lost,
        "duration": clip.duration,
        "native_size": list(clip.frames.shape[1:3]),
        "source_size": [clip.source_height, clip.source_width],
        "limits": asdict(SizeLimits()),
        "scale_range": asdict(allocator.config.scale_range),
        "allocator": str(args.checkpoint),
        "convention": "hf-5",
        "versions": versions(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 with one line for a mistake of the user."""
    return run_cli(lambda: run(_parse(argv)))


if __name__ == "__main__":
    raise SystemExit(main())
