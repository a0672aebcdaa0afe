"""Configs: loading a file, overriding fields, errors of one line, the help text."""

import enum
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from kernels.choice import BackendError
from resadapt_jax.config import (
    differences,
    field_paths,
    from_json,
    load_config,
    nearest,
    override,
    parse_config,
    to_json,
)
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


CHANGED = Config(
    optimizer=Sgd(momentum=0.9),
    warmup=Adam(betas=(0.5, 0.25)),
    variant=Variant.RELEASED,
    engine="b",
    steps=7,
    run_dir=Path("a/b"),
    clip=1e-7,
    sizes=(),
)

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
        ("--hlep", "unknown field --hlep; --help lists them all"),
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


@pytest.mark.parametrize("config", [Config(), CHANGED])
def test_json_gives_back_an_equal_config(config):
    assert from_json(to_json(config), Config) == config


def test_json_is_plain_and_tags_unions():
    value = json.loads(to_json(CHANGED))
    assert value["optimizer"] == {"kind": "Sgd", "learning_rate": 0.01, "momentum": 0.9}
    assert "kind" not in value["warmup"]  # one dataclass only: nothing to choose
    assert (value["variant"], value["run_dir"], value["sizes"]) == ("released", "a/b", [])


def test_json_field_left_out_keeps_its_default():
    assert from_json('{"steps": 9}', Config) == Config(steps=9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"stepz": 3}', "unknown config field stepz; did you mean steps?"),
        (
            '{"optimizer": {"kind": "Sgd", "momentums": 0}}',
            "unknown config field optimizer.momentums; did you mean optimizer.momentum?",
        ),
        ('{"optimizer": {"kind": "Lion"}}', "optimizer.kind is 'Lion', not one of Adam, Sgd"),
        ('{"steps": 1.5}', "config field steps does not accept 1.5"),
        ('{"steps": true}', "config field steps does not accept True"),
        ('{"engine": "c"}', "config field engine does not accept 'c'"),
        ('{"warmup": {"betas": [0.1]}}', "config field warmup.betas does not accept"),
        ('{"steps": -1}', "config Config: steps must be >= 0"),
        ('{"steps": ', "not JSON"),
        ("[]", "does not accept"),
    ],
)
def test_json_that_does_not_fit(text, message):
    with pytest.raises(UserError) as caught:
        from_json(text, Config)
    assert message in str(caught.value)


def test_json_refuses_what_it_cannot_give_back():
    @dataclass(frozen=True)
    class Holder:
        function: object = print

    with pytest.raises(TypeError, match="a config holds no builtin_function"):
        to_json(Holder())


def test_differences_name_each_field():
    assert differences(to_json(Config()), Config()) == []
    changed = override(Config(), ["--steps", "9", "--optimizer.learning-rate", "0.5"])
    assert differences(to_json(Config()), changed) == [
        "optimizer.learning_rate: 0.001 -> 0.5",
        "steps: 3 -> 9",
    ]
    assert differences(to_json(Config()), Config(optimizer=Sgd()))[0] == (
        'optimizer.kind: "Adam" -> "Sgd"'
    )


def test_differences_leave_out_whole_fields():
    changed = override(Config(), ["--steps", "9", "--optimizer.learning-rate", "0.5"])
    assert differences(to_json(Config()), changed, ignore=("optimizer",)) == ["steps: 3 -> 9"]
    rate = ("optimizer.learning_rate",)
    assert differences(to_json(Config()), changed, ignore=rate) == ["steps: 3 -> 9"]
    # A field inside another is another field, whatever its name.
    assert len(differences(to_json(Config()), changed, ignore=("learning_rate", "step"))) == 2


@pytest.mark.parametrize("saved", ['{"steps": ', "", "[]", "null", "3"])
def test_differences_from_a_damaged_config(saved):
    with pytest.raises(UserError, match="the saved config is not (a )?JSON") as caught:
        differences(saved, Config())
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("def get_config(:", "SyntaxError: invalid syntax (config.py, line 1)"),
        (
            "import nowhere_to_be_found",
            "ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        ),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        (
            "def get_config(arg):\n    raise ValueError('no such\\n size')",
            "ValueError: no such size",
        ),
        ("def get_config(arg):\n    return {}['absent']", "KeyError: 'absent'"),
        ("get_config = 3", "TypeError: 'int' object is not callable"),
    ],
)
def test_what_a_config_file_raises_is_one_line(tmp_path, text, cause):
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value) == f"config file {path}: {cause}"
    assert caught.value.__cause__ is not None  # the traceback is there for who wants it


def test_a_users_error_in_a_config_file_is_left_as_it_is(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(f"from resadapt_jax.config import load_config\nload_config({'absent.py'!r})\n")
    with pytest.raises(UserError, match="^no such config file: absent.py$"):
        load_config(path)


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
    assert run_cli(_raising(BackendError("no such backend: x"))) == 2
    assert capsys.readouterr().err == "error: no such backend: x\n"
    assert run_cli(_raising(KeyboardInterrupt())) == 130
    with pytest.raises(ZeroDivisionError):
        run_cli(_raising(ZeroDivisionError()))


def test_a_program_prints_one_line_and_exits_2(config_file):
    program = (
        "import sys; from resadapt_jax.config import parse_config;"
        "from resadapt_jax.errors import run_cli; sys.exit(run_cli(lambda: parse_config()))"
    )
    command = [sys.executable, "-c", program, "--config", config_file, "--stepz", "3"]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: unknown field --stepz; did you mean --steps?\n"
    assert done.stdout == ""
