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
from dataclasses import asdict
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from transformers import PreTrainedTokenizerBase

from resadapt_jax.allocator import Pictures, network
from resadapt_jax.allocator.checkpoint import TrainedAllocator, load_allocator
from resadapt_jax.data import video
from resadapt_jax.data.canvas import Kind, place_media, segment_ids
from resadapt_jax.errors import CliParser, UserError, run_cli
from resadapt_jax.files import atomic_write, require_writable
from resadapt_jax.generation.backbone import load_tokenizer
from resadapt_jax.generation.prompts import Prompts, lay_out
from resadapt_jax.generation.visual import pack_pairs
from resadapt_jax.models import families
from resadapt_jax.models.families import ModelConfig, check_convention
from resadapt_jax.models.position_convention import Convention, milliseconds
from resadapt_jax.models.prompt_builder import build_prompt
from resadapt_jax.models.prompt_layout import PromptLayout, check_placeholders
from resadapt_jax.models.tokenizer import encode_query
from resadapt_jax.models.vision_plan import VisionPlan, check_fits
from resadapt_jax.operators import (
    NativeSizes,
    SizeLimits,
    check_scales,
    fit_clips,
    grids,
    native_grids,
    require_feasible,
)
from resadapt_jax.report.allocation import Allocation, draw, format_table, to_record
from resadapt_jax.shipped import TOY_ALLOCATOR, TOY_BACKBONE
from resadapt_jax.training.encoder import encode
from resadapt_jax.typing import Array, Float, UInt8
from resadapt_jax.versions import versions


@flax.struct.dataclass
class BackboneInputs:
    """What a backbone is given for one prompt, packed without padding.

    Attributes:
        patches: normalised pixels, in the plan's order.
        plan: where each patch and each merged token comes from.
        layout: the prompt, its visual positions pointing at the merged tokens.
    """

    patches: Float[Array, "P features"]
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
    return _propose(Pictures.of_videos(frames[None]), query, allocator)


def propose_media_scales(
    media: Sequence[UInt8[np.ndarray, "f height width 3"]],
    kinds: Sequence[Kind],
    query: str,
    allocator: TrainedAllocator,
) -> list[Float[np.ndarray, " k"]]:
    """`propose_scales` for a prompt of several images and videos, which may differ in size.

    The videos are seen joined in time, each image by itself.

    Args:
        media: the frames of each, in the prompt's order.
        kinds: ``"image"`` or ``"video"``.

    Returns:
        For each medium the scales of its temporal pairs, one for an image.

    Raises:
        UserError: an empty query, nothing to see, or an image of several frames.
    """
    if len(media) != len(kinds) or not media:
        raise UserError(f"{len(media)} media have {len(kinds)} kinds; there must be one at least")
    for frames, kind in zip(media, kinds, strict=True):
        if not len(frames) or (kind == "image" and len(frames) > 1):
            raise UserError(f"a medium of {len(frames)} frames is no {kind}")
    canvas = place_media(media)
    sizes = list(zip(canvas.source_heights.tolist(), canvas.source_widths.tolist(), strict=True))
    known = tuple(sorted(set(sizes)))
    pictures = Pictures(
        frames=canvas.frames[None],
        mask=canvas.frame_mask[None],
        segment_ids=segment_ids(kinds, canvas.medium)[None],
        native=NativeSizes(
            index=np.array([known.index(size) for size in sizes]).repeat(2)[None],
            sizes=known,
            limits=SizeLimits(),
        ),
    )
    scales = _propose(pictures, query, allocator)
    return [scales[canvas.medium == number] for number in range(len(media))]


def _propose(
    pictures: Pictures, query: str, allocator: TrainedAllocator
) -> Float[np.ndarray, " K"]:
    """The mean of the policy for the pairs of one prompt."""
    if not query.strip():
        raise UserError("the query is empty")
    query_ids = np.array([encode_query(allocator.tokenizer, query)], np.int32)
    query_mask = np.ones(query_ids.shape, bool)
    features = encode(allocator.encoder, pictures, query_ids, query_mask)
    config = allocator.config
    scales = network.propose_scales(allocator.params, config.network, features, config.scale_range)
    return np.asarray(scales[0])


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
    if budget is not None and budget < 1:
        raise UserError(f"the budget must be at least 1 token, got {budget}")
    limits = limits or SizeLimits()
    native = NativeSizes.alike(*frames.shape[1:3], limits)
    # A lone last frame is its own pair.
    seconds = np.append(times, times[len(times) - len(times) % 2 :]).reshape(-1, 2).mean(axis=1)
    largest = len(seconds) * (limits.max_pixels // limits.factor**2)
    cap = largest if budget is None else min(budget, largest)
    try:
        check_scales(scales, len(seconds))
        _, fitted = _fit_clips(
            jnp.asarray(scales)[None], jnp.ones((1, len(seconds)), bool), native, cap
        )
        fitted = jax.tree.map(lambda x: x[0], fitted)
        require_feasible(fitted, cap)
    except ValueError as error:
        raise UserError(str(error)) from error
    return Allocation(
        seconds=seconds,
        scales=np.asarray(fitted.scales),
        heights=np.asarray(fitted.heights),
        widths=np.asarray(fitted.widths),
        tokens=np.asarray(fitted.tokens),
        native_tokens=len(seconds) * int(native.tokens),
        budget=budget,
        limits=limits,
    )


def build_inputs(
    allocation: Allocation,
    frames: UInt8[np.ndarray, "F height width 3"],
    query: str,
    config: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    convention: Convention = Convention.HF_5,
) -> BackboneInputs:
    """Resize the frames and lay out the prompt, each pair an entry of its own.

    Raises:
        UserError: the query contains the token that stands for pixels, or the backbone does not
            know the convention.
    """
    check_convention(convention, config)
    prompt = build_prompt(tokenizer, query, allocation.seconds.tolist(), convention)
    present = np.ones(len(allocation.seconds), bool)
    patches, plan = _pack_pairs(
        config,
        jnp.asarray(frames),
        grids(allocation.heights, allocation.widths, present, allocation.limits),
        capacity=allocation.total,
        max_height=int(allocation.heights.max()),
        max_width=int(allocation.widths.max()),
    )
    check_fits(plan)
    prompts = Prompts(
        compact_ids=jnp.asarray(prompt.token_ids)[None],
        compact_length=jnp.asarray([len(prompt.token_ids)]),
        entry_index=jnp.asarray(prompt.entry_index)[None],
        pair_milliseconds=jnp.asarray(milliseconds(allocation.seconds))[None],
        native_thw=native_grids(
            present[None], NativeSizes.alike(*frames.shape[1:3], allocation.limits)
        ),
    )
    grid_thw = plan.grid_thw[None]
    check_placeholders(
        prompts.entry_index, prompts.compact_length, grid_thw, config.vision.spatial_merge_size
    )
    layout = _lay_out(prompts, grid_thw, config, allocation.total, convention)
    layout = jax.tree.map(lambda x: x[0], layout)
    return BackboneInputs(patches=patches, plan=plan, layout=layout)


_fit_clips = jax.jit(fit_clips)
_lay_out = jax.jit(lay_out, static_argnums=(2, 3, 4))
_pack_pairs = jax.jit(
    pack_pairs, static_argnums=0, static_argnames=("capacity", "max_height", "max_width")
)


def load_interface(directory: Path) -> tuple[ModelConfig, PreTrainedTokenizerBase]:
    """Config and tokenizer of a backbone's directory: all that its inputs depend on.

    Raises:
        UserError: the directory lacks something or holds a model that is not supported.
    """
    config = families.read_config(directory)
    return config, load_tokenizer(directory, config)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CliParser(
        prog="python -m resadapt_jax.allocate",
        description="Decide what size each moment of a clip deserves for a query.",
        allow_abbrev=False,
    )
    parser.add_argument("clip", type=Path, help="a video file, or a picture: a clip of one frame")
    parser.add_argument("--query", required=True, help="what is asked about the clip")
    parser.add_argument("--budget", type=int, metavar="TOKENS", help="never exceed this many")
    parser.add_argument("--frames", type=int, default=32, help="frames to sample (default: 32)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/allocate/CLIP")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        default=TOY_ALLOCATOR,
        help="a trained allocator (default: the one shipped)",
    )
    parser.add_argument(
        "--encoder",
        type=Path,
        metavar="DIR",
        help="where the SmolVLM2 that it was trained with lies now (default: where it lay then)",
    )
    parser.add_argument(
        "--backbone",
        type=Path,
        metavar="DIR",
        default=TOY_BACKBONE,
        help="whose inputs to build, a Qwen2.5-VL or Qwen3-VL directory; weights are not read "
        "(default: the one shipped)",
    )
    parser.add_argument(
        "--convention",
        choices=[convention.value for convention in Convention],
        default=Convention.HF_5.value,
        help="how the backbone's positions are numbered (default: hf-5)",
    )
    args = parser.parse_args(argv)
    args.out = args.out or Path("runs", "allocate", args.clip.name)
    require_writable(args.out)
    if args.budget is not None and args.budget < 1:
        raise UserError(f"the budget must be at least 1 token, got {args.budget}")
    if args.frames < 1:
        raise UserError(f"the number of frames must be at least 1, got {args.frames}")
    if not args.query.strip():
        raise UserError("the query is empty")
    return args


def run(args: argparse.Namespace) -> None:
    """The command. Everything is computed before anything is written."""
    video.read_index(args.clip)  # what is no video is refused before any work
    allocator = load_allocator(args.checkpoint, smolvlm_directory=args.encoder)
    config, tokenizer = load_interface(args.backbone)
    convention = Convention(args.convention)
    check_convention(convention, config)
    vision = config.vision
    limits = SizeLimits.of_tower(vision.patch_size, vision.spatial_merge_size)
    _progress(f"decoding {args.clip}")
    clip = video.sample(args.clip, num_frames=args.frames, limits=limits)
    for warning in clip.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    _progress(f"allocating {len(clip.times)} frames")
    allocation = allocate(
        clip.frames, clip.times, args.query, allocator, budget=args.budget, limits=limits
    )
    _progress(f"resizing to {allocation.total} visual tokens")
    inputs = build_inputs(allocation, clip.frames, args.query, config, tokenizer, convention)
    _describe(args, clip, allocation, inputs)
    _write(args, clip, allocation, allocator)


def _progress(message: str) -> None:
    print(f"{message} ...", file=sys.stderr, flush=True)


def _describe(
    args: argparse.Namespace, clip: video.VideoClip, allocation: Allocation, inputs: BackboneInputs
) -> None:
    height, width = clip.frames.shape[1:3]
    print(f"clip {args.clip}, {clip.source_width}x{clip.source_height}, {clip.duration:.1f} s")
    print(f"query {args.query}")
    print(f"{len(clip.times)} frames at {width}x{height}")
    print(format_table(allocation))
    patches, features = inputs.patches.shape
    print(f"inputs {patches} patches of {features} values, {inputs.layout.length} prompt positions")


def _write(
    args: argparse.Namespace,
    clip: video.VideoClip,
    allocation: Allocation,
    allocator: TrainedAllocator,
) -> None:
    scale_range = allocator.config.scale_range
    sheet = io.BytesIO()
    draw(allocation, clip, args.clip, args.query, scale_range).save(sheet, "png")
    record = to_record(allocation, clip, args.clip, args.query) | {
        "scale_range": asdict(scale_range),
        "allocator": str(args.checkpoint),
        "convention": args.convention,
        "versions": versions(),
    }
    try:
        atomic_write(args.out / "contact_sheet.png", sheet.getvalue())
        atomic_write(args.out / "allocation.json", json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {args.out}: {error.strerror}") from error
    print(f"wrote {args.out / 'allocation.json'} and {args.out / 'contact_sheet.png'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 with one line for a mistake of the user."""
    return run_cli(lambda: run(_parse(argv)))


if __name__ == "__main__":
    raise SystemExit(main())
