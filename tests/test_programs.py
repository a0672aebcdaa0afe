"""What train.py and eval.py refuse before they load anything."""

import importlib.util
import sys
from pathlib import Path

import pytest

from resadapt_jax.errors import run_cli

ROOT = Path(__file__).resolve().parents[1]


def run_program(monkeypatch, name, *arguments):
    spec = importlib.util.spec_from_file_location("program", ROOT / name)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    return run_cli(program.main)


@pytest.mark.parametrize(
    ("program", "config"),
    [("train.py", "toy.py"), ("train.py", "toy_pretrain.py"), ("eval.py", "toy.py")],
)
def test_an_output_directory_that_is_a_file(monkeypatch, capsys, tmp_path, program, config):
    def never(*arguments):
        raise AssertionError("there is nowhere to write what comes of it")

    for module in ("training.recipe", "training.pretrain", "evaluation.run"):
        monkeypatch.setattr(f"resadapt_jax.{module}.load_backbone", never, raising=False)
    monkeypatch.setattr("resadapt_jax.training.pretrain.build_toy_tokenizer", never)
    path = tmp_path / "file"
    path.write_text("mine")
    arguments = ("--config", str(ROOT / "configs" / config), "--output-dir", str(path / "run"))
    assert run_program(monkeypatch, program, *arguments) == 2
    error = f"error: cannot write to {path / 'run'}: {path} is not a folder\n"
    assert capsys.readouterr().err == error
    assert path.read_text() == "mine"


def test_a_value_that_makes_no_sense(monkeypatch, capsys):
    arguments = ("--config", str(ROOT / "configs/toy.py"), "--optimizer.beta2", "1")
    assert run_program(monkeypatch, "train.py", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "beta2 must be within [0, 1), got 1.0" in error
