"""Configs: loading a file, overriding fields, errors of one line, the help text."""

import enum
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from resadapt_jax.config import field_paths, load_config, nearest, override, parse_config
from resadapt_jax.errors import UserError, run_cli


class Variant(enum.Enum):
    PAPER = "paper"
    RELEASED = "released"


@dataclass(frozen=True, kw_only=True)
class Adam:
    learning_rate: float = 1e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    nesterov: bool = False


@dataclass(frozen=True, kw_only=True)
class Sgd:
    learning_rate: float = 1e-2
    momentum: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Config:
    optimizer: Adam | Sgd = Adam()
    warmup: Adam | None = None
    variant: Variant = Variant.PAPER
    engine: Literal["a", "b"] = "a"
    steps: int = 3
    """How many updates."""
    run_dir: Path = Path("runs")
    clip: float | None = None
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self):
        if self.steps < 0:
            raise ValueError("steps must be >= 0")


FILE = """
from dataclasses import dataclass, replace

@dataclass(frozen=True, kw_only=True)
class Inner:
    learning_rate: float = 1e-3
    '''Peak learning rate of the inner loop.'''

@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = Inner()
    steps: int = 5
    '''How many updates.'''

def get_config(arg=""):
    return Outer(steps=int(arg)) if arg else Outer()
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(FILE)
    return str(path)


def test_file_and_argument(config_file):
    assert load_config(config_file).steps == 5
    assert load_config(config_file, "7").steps == 7
    parsed = parse_config(["--inner.learning-rate", "0.5", "--config", config_file])
    assert (parsed.inner.learning_rate, parsed.steps) == (0.5, 5)
    assert parse_config([f"--config={config_file}", "--config-arg", "9"]).steps == 9


def test_every_kind_of_field_is_overridable():
    flags = "--optimizer.learning-rate 0.5 --optimizer.betas 0.1 0.2 --optimizer.nesterov"
    flags += " --variant released --engine b --steps=4 --run-dir out --clip 1.5 --sizes 7"
    expected = Config(
        optimizer=Adam(learning_rate=0.5, betas=(0.1, 0.2), nesterov=True),
        variant=Variant.RELEASED,
        engine="b",
        steps=4,
        run_dir=Path("out"),
        clip=1.5,
        sizes=(7,),
    )
    assert override(Config(), flags.split()) == expected


def test_hyphen_and_underscore_name_the_same_field():
    hyphen = override(Config(), ["--optimizer.learning-rate", "2"])
    underscore = override(Config(), ["--optimizer.learning_rate", "2"])
    assert hyphen == underscore != Config()


def test_the_file_chooses_the_member_of_a_union():
    config = Config(optimizer=Sgd())
    assert override(config, ["--optimizer.momentum", "0.9"]).optimizer == Sgd(momentum=0.9)
    with pytest.raises(UserError, match="unknown field --optimizer.betas"):
        override(config, ["--optimizer.betas", "0.1", "0.2"])


def test_field_paths_lists_leaves():
    assert field_paths(Config())[:5] == [
        "optimizer.learning_rate",
        "optimizer.betas",
        "optimizer.nesterov",
        "warmup",
        "variant",
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--step 3", "unknown field --step; did you mean --steps?"),
        ("--step=3", "unknown field --step; did you mean --steps?"),
        (
            "--optimizer.lerning-rate 3",
            "unknown field --optimizer.lerning-rate; did you mean --optimizer.learning-rate?",
        ),
        (
            "--learning_rate 3",
            "unknown field --learning_rate; did you mean --optimizer.learning-rate?",
        ),
        (
            "--optimizer.learning-rate fast",
            "Error parsing --optimizer.learning-rate: could not convert string to float: 'fast'",
        ),
        ("--steps 1.5", "--steps: invalid literal for int() with base 10: '1.5'"),
        ("--variant papers", "invalid choice 'papers' for argument '--variant'. Expected one of"),
        ("--steps", "Missing value for argument '--steps'"),
        ("--steps -1", "steps must be >= 0"),
        ("extra", "unexpected argument 'extra'"),
    ],
)
def test_a_mistake_is_one_line(flags, message):
    with pytest.raises(UserError) as caught:
        override(Config(), flags.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and "│" not in str(caught.value)


def test_nearest_prefers_an_equal_last_component():
    # by letters alone "rates" is nearer to "rate"; the equal leaf name wins
    assert nearest("rate", ["rates", "optimizer.inner.rate"]) == "optimizer.inner.rate"


def test_files_that_are_no_config(tmp_path):
    with pytest.raises(UserError, match="no such config file"):
        load_config(tmp_path / "absent.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="defines no get_config"):
        load_config(tmp_path / "empty.py")
    (tmp_path / "mapping.py").write_text("def get_config(arg=''):\n    return {}\n")
    with pytest.raises(UserError, match="must return a frozen dataclass"):
        load_config(tmp_path / "mapping.py")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="a config is a Python file"):
        load_config(tmp_path / "config.json")


def test_config_is_required():
    with pytest.raises(UserError, match="--config PATH is required"):
        parse_config([])
    with pytest.raises(UserError, match="expected one argument"):
        parse_config(["--config"])


def test_help_lists_every_field(config_file, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_config(["--config", config_file, "--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    for expected in ("--inner.learning-rate", "--steps INT", "How many updates", "inner loop"):
        assert expected in text
    with pytest.raises(SystemExit) as caught:
        parse_config(["--help"])
    assert caught.value.code == 0
    assert "--config PATH" in capsys.readouterr().out


def _raising(error):
    def main():
        raise error

    return main


def test_exit_codes(capsys):
    assert run_cli(lambda: None) == 0
    assert run_cli(_raising(UserError("no such file: x"))) == 2
    assert capsys.readouterr().err == "error: no such file: x\n"
    assert run_cli(_raising(KeyboardInterrupt())) == 130
    with pytest.raises(ZeroDivisionError):
        run_cli(_raising(ZeroDivisionError()))


def test_a_program_prints_one_line_and_exits_2(config_file):
    program = (
        "import sys; from resadapt_jax.config import parse_config;"
        "from resadapt_jax.errors import run_cli; sys.exit(run_cli(lambda: parse_config()))"
    )
    command = [sys.executable, "-c", program, "--config", config_file, "--stepz", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: unknown field --stepz; did you mean --steps?\n"
    assert done.stdout == ""
