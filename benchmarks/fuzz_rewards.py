"""Random and mutated answers through every grader: none may raise, none may take long.

    python benchmarks/fuzz_rewards.py

Every task type scores ``--count`` strings, half of them against mutated truths, by turns in the
default config and in the released forms. Measured is the CPU time of each `score` in the process
that grades, and, where two expressions were compared, that of the checker's process. A call above
the limit is measured twice more, as what else the machine does costs CPU time too, and its least
counts. Prints a table, writes ``results/fuzz_rewards.json`` and exits with 1 if a call raised, took
more than ``--limit-ms``, or the checker more than twice the time it is allowed.
"""

import argparse
import dataclasses
import gc
import random
import sys
import time
import traceback
from collections.abc import Iterator

from timing import save
from tqdm import tqdm

from resadapt_jax.rewards import RewardConfig, TaskType, expressions, same_text, score
from resadapt_jax.rewards.config import Form

MAX_CHARS = 1_000_000
"""Of an output: several times what the largest limits on generated tokens let through."""

PIECES = [
    *("<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "}", "{", "```", "\n", " ", "\t"),
    *("answer is", "答案是", "=", ":", ",", ";", "-", "–", "to", "and", "start", "end", "s", "<>"),
    *("A", "B", "C", "(B)", "yes", "no", "dog", "the", "7", "3.5", "-2", "1,234", "1e9", "1:23"),
    *("9" * 50, "50%", "12 km", "[3, 7]", "\\frac{1}{2}", "\\sqrt", "\\text{", "\\pi", "^", "**"),
    *("!", "x", "+", "/", "|", "'", '"', "[", "]", "(", ")", "$", "\\", "_", "&", "%", "#", "~"),
    *("\x00", "\ud800", "\u202e", "\u200b", "\u0301", "😀", "ﬁ", "½", "²", "٣", "字", "−", "∞"),
    *("±", "√", "£", "≤", "→", "½", "million", "k", "4m", "(b)", "00:00:13,000", "- ", "[0, 9]"),
    *("nan", "inf", "__import__('os')", "9**9**9", '{"answer": "B", ', '"start": 3, "end": 7'),
]
ANSWERS = {
    TaskType.MULTIPLE_CHOICE: ("B", "B. the red sign", "A, C", "I think it is (D)"),
    TaskType.NUMERICAL: ("7", "There are 1,234 of them", "-3.5e2", "x = 12 km"),
    TaskType.MATHEMATICS: (
        *("\\frac{\\sqrt{3}}{2}", "x^2 + 2x + 1", "(1, 2]", "\\{1, 2, 3\\}", "3.14", "y = 2x - 1"),
        *("\\sin^2 x", "2\\pi r", "\\log_2 8", "5!", "1 < x < 2", "\\frac{a^2-b^2}{a-b}"),
    ),
    TaskType.OCR: ("STOP", "Exit 12:30 left", "出口 EXIT\nGate 7"),
    TaskType.OPEN_ENDED: ("A dog runs across the road.", "狗在跑", "The man opens the door, then"),
    TaskType.FREE_FORM: ("Because the light turned red.", "Two people shake hands"),
    TaskType.REGRESSION: ("3.5", "about 120", "-0.25"),
    TaskType.TEMPORAL_GROUNDING: (
        *("[3.0, 7.0]", "from 3 to 7 seconds", "1:23 - 2:10", "[[1, 2], [5, 9]]"),
        *('{"start": 3, "end": 7}', "starts at 3 s and ends at 7 s"),
    ),
    TaskType.GROUNDING_QA: ("B <> [3.0, 7.0]", '{"answer": "B", "interval": [[3, 7]]}'),
    TaskType.EXACT_MATCH: ("the red sign", "2021-05-06", "dog"),
    TaskType.GENERAL: ("yes", "1, 2, 3", "12 km", "x + 1", "(1, 2)", "the dog", "\\sqrt{12}"),
}
WRAPS = (
    *("{}", "{}", "\\boxed{{{}}}", "<answer>{}</answer>", "The answer is {}.", "```\n{}\n```"),
    *("<think>hm</think><answer>\\boxed{{{}}}</answer>", "<think>{}</think>", "${}$"),
)
RELEASED = RewardConfig(
    **{field.name: "released" for field in dataclasses.fields(RewardConfig) if field.type == Form}
)
CONFIGS = (RewardConfig(), RELEASED)


def strings(task: TaskType, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Endless pairs of an output and a truth."""
    while True:
        truth = rng.choice(ANSWERS[task])
        output = random_text(rng) if rng.random() < 0.3 else mutated(rng.choice(ANSWERS[task]), rng)
        output = rng.choice(WRAPS).format(output)
        if rng.random() < 0.02:  # a model that cannot stop
            output = (output * rng.randrange(2, 2000))[:MAX_CHARS]
        yield output, mutated(truth, rng) if rng.random() < 0.5 else truth


def random_text(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(40)))
    return "".join(rng.choices(PIECES, k=rng.randrange(30)))


def mutated(text: str, rng: random.Random) -> str:
    """``text`` after a few edits: a piece put in, a part left out, said again or moved."""
    for _ in range(rng.randrange(4)):
        start, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        part = text[start:end]
        match rng.randrange(5):
            case 0:
                text = text[:start] + rng.choice(PIECES) + text[start:]
            case 1:
                text = text[:start] + text[end:]
            case 2:
                text = text[:end] + part * rng.randrange(1, 20) + text[end:]
            case 3:
                text = text[:start] + text[end:] + part
            case 4:
                text = text[:start] + part[::-1] + text[end:]
    return text[:20_000]


def seconds_of(task: TaskType, output: str, truth: str, config: RewardConfig) -> float:
    start = time.process_time()
    score(task, output, truth, config)
    return time.process_time() - start


def least_seconds(task: TaskType, output: str, truth: str, config: RewardConfig) -> float:
    """What scoring takes where nothing else, such as collecting garbage, is charged to it."""
    times = []
    for _ in range(2):
        expressions.decide.cache_clear()
        same_text.counted_signs.cache_clear()
        times.append(seconds_of(task, output, truth, config))
    return min(times)


def checker_seconds() -> float:
    """CPU time that the checker's process has used, 0 if there is none."""
    child = expressions.running()
    # Linux derives the clock of a process from its id
    return 0.0 if child is None else time.clock_gettime(~child.process.pid << 3 | 2)


def fuzz(task: TaskType, count: int, seed: int, limit: float) -> dict:
    """What scoring ``count`` strings as ``task`` came to; times in milliseconds."""
    rng = random.Random(f"{seed} {task}")
    times, compared, errors, slow = [], [], [], []
    pairs = strings(task, rng)
    for index in tqdm(range(count), desc=task, unit="string", delay=1.0, disable=None, leave=False):
        output, truth = next(pairs)
        config = CONFIGS[index % len(CONFIGS)]
        before = checker_seconds()
        try:
            taken = seconds_of(task, output, truth, config)
            if taken > limit:
                taken = min(taken, least_seconds(task, output, truth, config))
        except Exception:
            errors.append({"output": output, "truth": truth, "error": traceback.format_exc()})
            continue
        times.append(taken)
        # after a restart the clock is another one
        used = checker_seconds() - before
        if used > 0:
            compared.append(used)
        if taken > limit or used > 2.2 * config.maths_seconds:
            slow.append({"output": output, "truth": truth, "ms": 1e3 * taken, "checker": used})
    times.sort()
    compared.sort()
    return {
        "count": count,
        "errors": errors,
        "slow": slow,
        "median_ms": 1e3 * times[len(times) // 2],
        "p99.9_ms": 1e3 * times[int(0.999 * len(times))],
        "max_ms": 1e3 * times[-1],
        "compared": len(compared),
        "checker_median_ms": 1e3 * compared[len(compared) // 2] if compared else 0.0,
        "checker_max_ms": 1e3 * compared[-1] if compared else 0.0,
    }


def warm_up() -> None:
    """Imports and starts what the first answers would be charged for."""
    for task, (answer, *_) in ANSWERS.items():
        for config in CONFIGS:
            score(task, f"{answer} or so", answer, config)
    score(TaskType.MATHEMATICS, "x+1", "1+x")
    gc.freeze()  # a collection then looks at what grading left, not at all that was imported


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="strings for each task type")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-ms", type=float, default=50.0, help="CPU time of one score")
    parser.add_argument("--tasks", nargs="*", type=TaskType, default=list(TaskType))
    args = parser.parse_args()
    warm_up()
    results = {}
    print(f"{'task':20}{'count':>9}{'errors':>8}{'median':>9}{'p99.9':>9}{'max ms':>9}", end="")
    print(f"{'compared':>10}{'median':>9}{'max ms':>9}")
    for task in args.tasks:
        result = results[task.value] = fuzz(task, args.count, args.seed, args.limit_ms / 1e3)
        print(
            f"{task:20}{result['count']:9}{len(result['errors']):8}{result['median_ms']:9.2f}"
            f"{result['p99.9_ms']:9.2f}{result['max_ms']:9.2f}{result['compared']:10}"
            f"{result['checker_median_ms']:9.2f}{result['checker_max_ms']:9.2f}",
            flush=True,
        )
    record = {"count": args.count, "seed": args.seed, "limit_ms": args.limit_ms, "tasks": results}
    print("wrote", save("fuzz_rewards", record))
    failures = [one for result in results.values() for one in result["errors"] + result["slow"]]
    for failure in failures[:5]:
        print(failure, file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
