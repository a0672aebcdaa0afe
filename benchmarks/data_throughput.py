"""Clips a second, decoded and sampled: the data pipeline against decord used directly.

    python benchmarks/data_throughput.py

Synthesises H.264 clips of 5 to 20 seconds and samples two frames a second of each, on two threads
(or as many as --threads says), by

* this library, from rows to batches on a canvas, masks and times included: by threads, and by as
  many processes of grain's;
* decord, if it can be imported: ``VideoReader`` and ``get_batch`` of the same frames; as they are
  in the file, and resized to the same legal size as one would do next.

Once with clips of 320 x 240 to 640 x 360 pixels, whose frames this library resizes to legal sizes,
and once with clips of legal sizes, where there is nothing to resize. All arms take turns on the
same clips, a pipeline from where it has none in stock; beside the clips a second stand those a
second of processor time, which a busy machine does not lower. Then 10,000 short clips go through
the pipeline while resident memory is read.

Writes ``results/data_throughput.json``. decord is no dependency: install it elsewhere and name the
folder in PYTHONPATH.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from load_memory import status
from timing import save

from resadapt_jax.data.batches import ALONE
from resadapt_jax.data.corpus import Corpus, CorpusConfig, open_corpus
from resadapt_jax.data.frame_sampling import SamplingConfig, planned_frames, spread
from resadapt_jax.data.frame_size import native_size
from resadapt_jax.data.pixels import resize
from resadapt_jax.operators.sizes import SizeLimits

BATCH = 4
STOCK = 6  # batches that a pipeline may hold ready
SAMPLING = SamplingConfig(fps=2.0, min_frames=4, max_frames=128)
SIZES = {
    "resized": ((240, 320), (288, 352), (270, 480), (360, 640)),
    "legal": ((252, 308), (280, 364), (280, 476), (364, 644)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distinct", type=int, default=24, help="clips that are synthesised")
    parser.add_argument("--clips", type=int, default=48, help="clips that are timed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-clips", type=int, default=10_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        result = {}
        for name, sizes in SIZES.items():
            (folder / name).mkdir()
            write_clips(folder / name, args.distinct, sizes)
            print(f"clips whose frames are {name}:")
            result[name] = throughput(folder / name, args)
        memory = memory_over(folder, args.memory_clips, args.threads)
    print("wrote", save("data_throughput", {**result, "memory": memory}))


def write_clips(folder: Path, count: int, sizes: tuple[tuple[int, int], ...]) -> None:
    """Clips of all sizes and lengths, a file of questions about them."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        seconds = float(rng.uniform(5, 20))
        paths.append(folder / f"{number}.mp4")
        write_clip(paths[-1], height, width, seconds, seed=number)
        print(f"\rsynthesising {number + 1} of {count}", end="", file=sys.stderr)
    print(file=sys.stderr)
    write_questions(folder / "clips.jsonl", paths)


def write_clip(path: Path, height: int, width: int, seconds: float, seed: int) -> None:
    """A scene that pans, in which small things move, as x264 writes it by default."""
    rng = np.random.default_rng(seed)
    scene = np.kron(rng.integers(30, 220, (60, 90, 3)), np.ones((12, 12, 1))).astype(np.uint8)
    things = rng.uniform(0, 1, (12, 4))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.time_base = Fraction(1, 25)
        for number in range(round(25 * seconds)):
            y, x = (round(60 * (1 + np.sin(number / period))) for period in (60, 41))
            pixels = scene[y : y + height, x : x + width].copy()
            for top, left, speed, level in things:
                row = int(top * (height - 16))
                column = int((left + speed * number / 50) % 1 * (width - 16))
                pixels[row : row + 16, column : column + 16] = int(255 * level)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_questions(path: Path, clips: list[Path]) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": "<video>What?"}],
            "videos": [{"video": clip.name}],
            "reward_model": {"ground_truth": ""},
        }
        for clip in clips
    ]
    path.write_text("\n".join(map(json.dumps, rows)))


def measure(row: Any, seconds: Any) -> tuple[int, int]:
    return 16, 16


def encode(row: Any, loaded: Any, shape: Any) -> dict[str, Any]:
    return {"frames": loaded.frames, "mask": loaded.frame_mask, "skipped": loaded.skipped}


def opened(path: Path, num_clips: int, **options: int) -> Corpus:
    return open_corpus(
        CorpusConfig(files=(str(path),), sampling=SAMPLING, **options),
        SizeLimits(),
        measure,
        None,
        batch_size=BATCH,
        num_batches=num_clips // BATCH,
        seed=0,
        share=ALONE,
        encode=encode,
    )


def throughput(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Clips a second of every arm, the median of its repeats, and of the ratios in each repeat."""
    ours = {"ours, threads": {"threads": args.threads},
            "ours, processes": {"workers": args.threads, "threads": 1}}  # fmt: skip
    num_batches = (STOCK + args.clips // BATCH) * (args.repeats + 1)
    corpora = {
        name: opened(folder / "clips.jsonl", num_batches * BATCH, **options)
        for name, options in ours.items()
    }
    print(corpora["ours, threads"].report)
    theirs = decord_arms(args.threads)
    runs: dict[str, list[Run]] = {name: [] for name in (*corpora, *theirs)}
    schedule = corpora["ours, threads"].schedule.row
    for repeat in range(args.repeats + 1):  # the first warms up
        first = (STOCK + args.clips // BATCH) * repeat + STOCK
        rows = schedule[first : first + args.clips // BATCH].ravel()
        for name, corpus in corpora.items():
            runs[name].append(steady_run(corpus, args.clips // BATCH))
        for name, arm in theirs.items():
            paths = [folder / f"{row}.mp4" for row in rows]
            runs[name].append(timed(lambda arm=arm, paths=paths: arm(paths), len(paths)))
        print({name: round(of[-1].rate, 2) for name, of in runs.items()})
    for corpus in corpora.values():
        corpus.batches.close()
    runs = {name: of[1:] for name, of in runs.items()}
    result = {
        "clips": args.clips,
        "threads": args.threads,
        "decord": _version("decord"),
        "clips_per_second": _medians({name: [one.rate for one in of] for name, of in runs.items()}),
        "clips_per_cpu_second": _medians(
            {name: [one.cpu_rate for one in of] for name, of in runs.items()}
        ),
        "ratio": ratios({name: [one.rate for one in of] for name, of in runs.items()}),
        "cpu_ratio": ratios({name: [one.cpu_rate for one in of] for name, of in runs.items()}),
        "all": runs,
    }
    for title in ("clips_per_second", "clips_per_cpu_second", "ratio", "cpu_ratio"):
        print(title)
        for name, value in result[title].items():
            print(f"  {name:36} {value:7.2f}")
    return result


class Run(NamedTuple):
    """Clips a second of the clock, and of all processors together."""

    rate: float
    cpu_rate: float


def _medians(of: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in of.items()}


def ratios(rates: dict[str, list[float]]) -> dict[str, float]:
    """Of each of our arms to each other arm, the median over the repeats."""
    ours = [name for name in rates if name.startswith("ours")]
    theirs = [name for name in rates if name not in ours]
    pairs = {f"{a} / {b}": zip(rates[a], rates[b], strict=True) for a in ours for b in theirs}
    return {name: statistics.median([a / b for a, b in of]) for name, of in pairs.items()}


def timed(work: Callable[[], Any], num_clips: int) -> Run:
    start, cpu = time.perf_counter(), cpu_seconds()
    work()
    rate = num_clips / (time.perf_counter() - start)
    return Run(rate, num_clips / (cpu_seconds() - cpu))


def cpu_seconds() -> float:
    """Processor time of this process and of its children, by Linux's /proc."""
    ticks = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # After the name in brackets: state, parent, ..., user time, system time.
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if os.getpid() in (int(process.name), int(fields[1])):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def steady_run(corpus: Corpus, num_batches: int) -> Run:
    """A run of a pipeline that is under way; what it had in stock is used up before."""
    for _ in range(STOCK):
        next(corpus.batches)

    def work() -> None:
        for _ in range(num_batches):
            assert not any(next(corpus.batches)["skipped"])

    run = timed(work, BATCH * num_batches)
    time.sleep(2 * STOCK * BATCH / run.rate)  # while it fills its stock, nothing else is timed
    return run


def decord_arms(threads: int) -> dict[str, Callable[[list[Path]], Any]]:
    """What one would write with decord alone: the same frames of each clip, clips in parallel."""
    try:
        import decord
    except ImportError:
        print("decord cannot be imported: it is left out", file=sys.stderr)
        return {}

    def read(path: Path) -> np.ndarray:
        reader = decord.VideoReader(str(path), num_threads=1)
        times = np.arange(len(reader)) / reader.get_avg_fps()
        count = planned_frames(len(reader) / reader.get_avg_fps(), len(reader), SAMPLING)
        return reader.get_batch(spread(times, count)).asnumpy()

    def read_and_resize(path: Path) -> np.ndarray:
        frames = read(path)
        size = native_size(*frames.shape[1:3], SizeLimits())
        return np.stack([resize(frame, size) for frame in frames])

    pool = ThreadPoolExecutor(threads)
    return {
        "decord": lambda paths: list(pool.map(read, paths)),
        "decord, resized": lambda paths: list(pool.map(read_and_resize, paths)),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def memory_over(folder: Path, num_clips: int, threads: int) -> dict[str, Any]:
    """Resident bytes while clips go through, the mean of the first and of the last tenth."""
    paths = [folder / f"short-{number}.mp4" for number in range(16)]
    for number, path in enumerate(paths):
        write_clip(path, 120 + 16 * (number % 4), 160, 2.0 + number / 8, seed=number)
    write_questions(folder / "short.jsonl", paths)
    corpus = opened(folder / "short.jsonl", num_clips, threads=threads)
    resident = []
    for number, batch in enumerate(corpus.batches):
        assert not any(batch["skipped"])
        if number % 25 == 0:
            resident.append(status("VmRSS"))
            done = BATCH * (number + 1)
            print(f"\r{done} clips, {resident[-1] / 1e6:.0f} MB", end="", file=sys.stderr)
    print(file=sys.stderr)
    tenth = max(1, len(resident) // 10)
    first, last = (statistics.mean(part) for part in (resident[:tenth], resident[-tenth:]))
    print(f"memory: {first / 1e6:.0f} MB over the first tenth, {last / 1e6:.0f} MB over the last")
    return {
        "clips": len(corpus.schedule.row.ravel()),
        "first_tenth": first,
        "last_tenth": last,
        "least": min(resident),
        "most": max(resident),
    }


if __name__ == "__main__":
    main()
