"""The process that compares expressions: its limits, and what it never does."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from reward_tables import HOSTILE, TOUCHED

from resadapt_jax.rewards import expressions

ROOT = Path(__file__).resolve().parents[2]

ENDLESS = r"\int_0^{\infty} e^{-x^2} \sin(x^3) dx"


TOWERS = (
    (r"7^{7^{10}} = x", "3 = x"),
    ("x = 1000000000!", "x=3"),
    (r"\gcd(7^{7^{10}}, 5)", "5"),
    (r"\binom{10^{9}}{10^{8}}", "3"),
)


def compare(answer, truth, seconds=5.0):
    expressions.decide.cache_clear()
    return expressions.equivalent(answer, truth, relative=1e-2, absolute=1e-2, seconds=seconds)


def child():
    return expressions.running().process


def test_it_compares_from_any_thread():
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(compare("x+1", "1+x")))
    thread.start()
    thread.join()
    assert verdicts == [expressions.Verdict(equal=True, reason="equivalent")]


def test_cpu_time_is_limited_and_the_process_lives_on():
    assert compare("x+1", "1+x").equal
    process = child()
    cpu = time.process_time()
    verdict = compare(ENDLESS, r"\sqrt{\pi}", seconds=0.2)
    assert not verdict.equal
    assert verdict.reason == "not decided in 0.2 s of CPU time"
    # this process only waited
    assert time.process_time() - cpu < 0.05
    assert compare("x+1", "1+x").equal
    assert child() is process


@pytest.mark.parametrize("pair", TOWERS)
def test_limits_hold_for_what_is_not_given_to_it(pair):
    """`mathematics` refuses these; were one to slip through, it would cost no more."""
    start = time.monotonic()
    assert not compare(*pair, seconds=0.2).equal
    assert time.monotonic() - start < 30.0


UNSTOPPABLE = """
import itertools
from resadapt_jax.rewards import expressions_process

expressions_process.prepare()
expressions_process.equivalent = lambda **question: sum(itertools.repeat(1, 10**12))
list(expressions_process.reply({"seconds": 0.2}))
"""


def test_what_no_exception_can_stop_ends_the_process():
    command = [sys.executable, "-c", UNSTOPPABLE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGVTALRM, done.stderr


def test_a_process_that_does_not_answer_is_replaced(monkeypatch):
    assert compare("x+1", "1+x").equal
    process = child()
    monkeypatch.setattr(expressions, "_PATIENCE", 0.3)
    os.kill(process.pid, signal.SIGSTOP)
    verdict = compare("x+1", "1+x", seconds=0.01)
    assert not verdict.equal
    assert verdict.reason == "not decided: the checker is gone, no reply in 0.5 s"
    assert process.poll() is not None
    monkeypatch.undo()
    assert compare("x+1", "1+x").equal


def test_a_process_that_somebody_ends_costs_no_answer():
    assert compare("x+1", "1+x").equal
    os.kill(child().pid, signal.SIGKILL)
    child().wait()
    assert compare("x+2", "2+x").equal


def test_ctrl_c_is_left_to_the_program():
    """A terminal sends it to all processes of a program."""
    assert compare("x+1", "1+x").equal
    process = child()
    os.kill(process.pid, signal.SIGINT)
    assert compare("x+2", "2+x").equal
    assert child() is process


def test_a_reply_that_came_too_late_is_not_taken_for_the_next(monkeypatch):
    """As when Ctrl-C interrupts the wait."""

    def interrupted(self, seconds):
        raise KeyboardInterrupt

    assert compare("x+1", "1+x").equal
    with monkeypatch.context() as patch:
        patch.setattr(expressions.JsonProcess, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare("x+1", "1+x")
    assert not compare("x+1", "2+x").equal


def test_a_verdict_is_remembered():
    assert compare("x+1", "1+x").equal
    os.kill(child().pid, signal.SIGSTOP)
    try:
        pair = {"relative": 1e-2, "absolute": 1e-2, "seconds": 5.0}
        assert expressions.equivalent("x+1", "1+x", **pair).equal
    finally:
        os.kill(child().pid, signal.SIGCONT)


def test_what_was_not_decided_is_tried_again(monkeypatch):
    pair = {"relative": 1e-2, "absolute": 1e-2}
    slow = "x+3", "3+x"
    assert compare("x+1", "1+x").equal
    with monkeypatch.context() as patch:
        patch.setattr(expressions, "_PATIENCE", 0.1)
        os.kill(child().pid, signal.SIGSTOP)
        gone = expressions.equivalent(*slow, seconds=0.01, **pair)
    assert gone.reason == "not decided: the checker is gone, no reply in 0.3 s"
    assert expressions.equivalent(*slow, seconds=0.01, **pair).reason != gone.reason
    before = expressions.decide.cache_info()
    for _ in range(2):
        late = expressions.equivalent(ENDLESS, r"\sqrt{\pi}", seconds=0.1, **pair)
        assert late.reason == "not decided in 0.1 s of CPU time"
    after = expressions.decide.cache_info()
    assert (after.misses, after.currsize) == (before.misses + 2, before.currsize)


def test_a_library_that_is_missing_is_said(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('no math-verify here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert compare("x+1", "1+x").equal
    expressions.running().close()
    with pytest.raises(ImportError, match="no math-verify here"):
        compare("x+1", "1+x")


AUDIT = """
import sys
from resadapt_jax.rewards import expressions_process
from resadapt_jax.rewards import TaskType, general, mathematics, score
from tests_hostile import HOSTILE, TOUCHED

expressions_process.prepare()
for task in TaskType:
    score(task, "x + 1 to 7", "1 + x, 7")  # what is imported late is compiled late

events, watched = [], ("compile", "exec", "os.system", "os.exec", "os.posix_spawn", "open")
def hook(event, arguments):
    if event in watched or event.startswith("subprocess"):
        text = repr(arguments[0])
        if any(mark in text for mark in ("__import__", "touch", "lambda", "**", "subclasses")):
            events.append((event, text[:200]))
sys.addaudithook(hook)
exec("'touch'")
assert len(events) == 1, "the hook sees nothing"
for text in HOSTILE:
    for pair in ((text, "x+1"), ("x+1", text)):
        question = {"answer": pair[0], "truth": pair[1], "relative": 0.01, "absolute": 0.01}
        list(expressions_process.reply({**question, "seconds": 0.05}))
        for task in TaskType if pair[1] == "x+1" else ():
            score(task, *pair)
print(len(events) - 1, events[1:])
"""


def test_no_text_is_run_as_code(tmp_path):
    texts = [case.values[0] for case in HOSTILE]
    # what passes between brackets within brackets takes the grammar minutes to see
    texts = [text for text in texts if len(text) < 1000]
    module = f"HOSTILE, TOUCHED = {texts!r}, {TOUCHED!r}"
    (tmp_path / "tests_hostile.py").write_text(module, encoding="utf-8", errors="surrogatepass")
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", AUDIT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "0 []\n", done.stderr[-2000:]
    assert not (tmp_path / TOUCHED).exists()
