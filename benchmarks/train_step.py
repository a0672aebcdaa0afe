"""Where the time of a training step goes, and how often the allocator's encoder runs.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --config configs/toy_joint.py --batch-size 4 --mesh.data 1

Runs the step of ``train.py`` on the embedded world and waits for the device between its parts,
which a run does not:

* decode: a batch made by the data pipeline, which has the cores to itself here; in a run it works
  ahead. Beside it, PyAV decodes and samples a real file (H.264) of as many frames, by
  ``data.video.sample``;
* encode: frames to the device, and the frozen encoder's features;
* rollout: the allocator's draws, the tower, prefill and decoding of all answers;
* reward: answers to the host, grading, advantages, and what a step counts of itself;
* update: of the allocator and of the backbone.

Medians over steps after warm-up; every timed step has a batch of its own. FLOPs are those that the
backbone needs (`training.step_flops`); MFU only where a device's peak is known.

Then it counts the frames that the frozen encoder sees in one whole step at M = 2, 4, 16: by a
callback inside the function that computes features, so a call from anywhere would count.

Where torch is installed, the backbone's part of the first joint config is timed against the same in
torch and transformers (`hf_train_step`), in turns.

Flags that are not its own override the configs, as those of ``train.py`` do. Prints all of it and
writes ``results/train_step.json``.
"""

import argparse
import contextlib
import importlib.util
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from timing import interleaved, median, save
from training_run import Run

from resadapt_jax.allocator import Pictures, ThumbnailConfig, smolvlm_encoder
from resadapt_jax.allocator import encoder as thumbnail
from resadapt_jax.config import load_config, override
from resadapt_jax.data import video
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.training import step as training
from resadapt_jax.training.config import TrainConfig
from resadapt_jax.training.loop.metric_log import CompileCounter
from resadapt_jax.training.loop.throughput import mfu
from resadapt_jax.training.mesh import MeshConfig

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ["configs/toy_joint.py", "configs/toy.py"]
WATCHED = ("roll_out", "judge", "learn_allocator", "learn_backbone")
ALLOCATIONS = (2, 4, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", action="append", help="may be given more than once")
    parser.add_argument("--warmup", type=int, default=1, help="steps that are not timed")
    parser.add_argument("--repeats", type=int, default=5, help="steps that are")
    parser.add_argument("--hf-prompts", type=int, default=2, help="0 leaves torch out")
    args, overrides = parser.parse_known_args()
    paths = args.config or CONFIGS
    configs = {path: override(load_config(ROOT / path), overrides) for path in paths}
    result: dict[str, Any] = {"device": jax.devices()[0].device_kind, "steps": {}}
    for path, config in configs.items():
        run = Run(config)
        result["steps"][path] = time_step(run, args.warmup, args.repeats)
        report(path, result["steps"][path])
        if path == paths[0]:
            result["decode"] = time_decoding(run, args.repeats)
            print("decode, seconds:", result["decode"])
        del run
    result["encoder"] = [count_encoder(configs[paths[-1]], m) for m in ALLOCATIONS]
    for counted in result["encoder"]:
        print("the frozen encoder in one step:", counted)
    joint = [config for config in configs.values() if config.backbone_training is not None]
    if joint and args.hf_prompts and importlib.util.find_spec("torch"):
        from hf_train_step import compare

        result["against_hf"] = compare(joint[0], args.hf_prompts, args.repeats)
    print("wrote", save("train_step", result))


def time_step(run: Run, warmup: int, repeats: int) -> dict[str, Any]:
    """Median seconds of each part of a step, and rates over the whole of it."""
    with jax.set_mesh(run.mesh):
        batches = list(run.batches(warmup + repeats))
        for records in batches[:warmup]:
            run.step(records, run.encode(records))
        with CompileCounter() as compiled:
            steps = [time_parts(run, records) for records in batches[warmup:]]
    parts = {name: median([seconds[name] for seconds, _ in steps]) for name in steps[0][0]}
    total = median([sum(seconds.values()) for seconds, _ in steps])
    tokens, flops = (
        median([float(m[name]) for _, m in steps]) for name in ("visual_tokens", "flops")
    )
    kind = jax.devices()[0].device_kind
    return {
        "batch_size": run.config.batch_size,
        "num_allocations": run.config.rollouts.num_allocations,
        "mesh": dict(run.mesh.shape),
        "steps": [seconds for seconds, _ in steps],
        "median_s": parts,
        "step_s": total,
        "compilations": compiled.count,
        "visual_tokens": tokens,
        "visual_tokens_per_second": tokens / total,
        "flops": flops,
        "flops_per_second": flops / total,
        "mfu": mfu(flops, total, run.mesh.size, kind),
    }


def time_parts(run: Run, records: dict[str, np.ndarray]) -> tuple[dict[str, float], dict]:
    """Seconds of each part of one step, and its metrics."""
    begun = time.perf_counter()
    inputs = jax.block_until_ready(run.encode(records))
    encoded = time.perf_counter()
    with watch(WATCHED) as when:
        metrics = run.step(records, inputs)
    ended = time.perf_counter()
    rolled, judged = when["roll_out"][1], when["judge"][1]
    seconds = {"encode": encoded - begun, "rollout": rolled - encoded, "reward": judged - rolled}
    for name, part in (("learn_allocator", "allocator"), ("learn_backbone", "backbone")):
        if name in when:
            seconds[f"update of the {part}"] = when[name][1] - when[name][0]
    seconds["rest"] = ended - begun - sum(seconds.values())
    return seconds, metrics


@contextlib.contextmanager
def watch(names: tuple[str, ...]) -> Iterator[dict[str, tuple[float, float]]]:
    """When functions of the trainer began and ended; each is waited for."""
    when: dict[str, tuple[float, float]] = {}

    def watched(name: str) -> Callable:
        function = getattr(training, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            result = jax.block_until_ready(function(*args, **kwargs))
            when[name] = begun, time.perf_counter()
            return result

        return call

    with mock.patch.multiple(training, **{name: watched(name) for name in names}):
        yield when


def report(path: str, row: dict[str, Any]) -> None:
    print(f"{path}: {row['batch_size']} prompts, M = {row['num_allocations']}, mesh {row['mesh']}")
    for name, seconds in row["median_s"].items():
        print(f"  {name:24} {seconds:8.3f} s {seconds / row['step_s']:7.1%}")
    print(f"  {'step':24} {row['step_s']:8.3f} s, {row['compilations']} compilations in it")
    known = "of an unknown peak" if row["mfu"] is None else f"MFU {row['mfu']:.1%}"
    print(
        f"  {row['visual_tokens_per_second']:.0f} visual tokens/s, {row['flops'] / 1e9:.1f} GFLOP, "
        f"{row['flops_per_second'] / 1e9:.1f} GFLOP/s, {known}",
        flush=True,
    )


def time_decoding(run: Run, repeats: int) -> dict[str, float]:
    """A batch from the pipeline alone, and from as many video files of as many frames."""
    config = run.config
    begun = time.perf_counter()
    made = sum(1 for _ in run.batches(4 * repeats))
    pipeline = (time.perf_counter() - begun) / made
    frames = ToyClips(config.data, 1)[0]["frames"]
    sys.path.insert(0, str(ROOT))
    from tests.video_factory import write_video

    with tempfile.TemporaryDirectory() as directory:
        path = write_video(Path(directory) / "clip.mp4", frames, codec="libx264")
        arms = {"file": lambda: video.sample(path, num_frames=len(frames), limits=config.limits)}
        assert arms["file"]().frames.shape == frames.shape
        seconds = median(interleaved(arms, warmup=1, repeats=2 * repeats)["file"])
    return {
        "pipeline_batch_s": pipeline,
        "file_s": seconds,
        "files_batch_s": seconds * config.batch_size,
    }


@contextlib.contextmanager
def compiling_fast() -> Iterator[None]:
    """Programs that are compiled inside are slow; they are not timed."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def count_encoder(
    config: TrainConfig, num_allocations: int, num_prompts: int = 2
) -> dict[str, int]:
    """Calls of the frozen encoder in one step, and what they saw, counted where it computes.

    On one device, where a callback runs once for each execution.
    """
    config = replace(
        config,
        batch_size=num_prompts,
        mesh=MeshConfig(data=1),
        rollouts=replace(config.rollouts, num_allocations=num_allocations, allocations_per_pass=0),
    )
    seen: list[int] = []
    module, name = thumbnail, "thumbnails"
    if not isinstance(config.encoder, ThumbnailConfig):
        module, name = smolvlm_encoder, "preprocess"
    function = getattr(module, name)

    def counted(shown: Pictures | jax.Array, *args: Any) -> Any:
        frames = shown.frames if isinstance(shown, Pictures) else shown
        count = math.prod(frames.shape[:-3])
        jax.debug.callback(lambda: seen.append(count))
        return function(shown, *args)

    jax.clear_caches()  # programs traced before have no callback
    with mock.patch.object(module, name, counted), compiling_fast():
        run = Run(config)
        with jax.set_mesh(run.mesh):
            records = next(run.batches(1))
            run.step(records, run.encode(records))
        jax.effects_barrier()
    jax.clear_caches()
    expected = num_prompts * config.data.num_frames
    if sum(seen) != expected:
        raise SystemExit(f"M = {num_allocations}: {sum(seen)} frames encoded, not {expected}")
    return {"M": num_allocations, "prompts": num_prompts, "calls": len(seen), "frames": sum(seen)}


if __name__ == "__main__":
    main()
