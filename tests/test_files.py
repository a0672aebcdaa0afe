"""Atomic writes and the versions record."""

import platform
import re
import subprocess
from pathlib import Path

import jax
import pytest

from resadapt_jax import versions as versions_module
from resadapt_jax.errors import UserError
from resadapt_jax.files import atomic_write, is_temporary, require_writable, write_if_absent
from resadapt_jax.versions import versions


def test_text_and_bytes_are_written_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    atomic_write(path, "zwölf\n")
    assert path.read_text(encoding="utf-8") == "zwölf\n"
    atomic_write(str(path), b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    atomic_write(path, "old")

    def fail(source, destination):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_first_to_write_wins(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_if_absent(path, "first")
    write_if_absent(path, "second")
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("write", "placed_by"), [(atomic_write, "os.replace"), (write_if_absent, "os.link")]
)
def test_two_writers_in_one_process_do_not_meet(tmp_path, monkeypatch, write, placed_by):
    path, sources = tmp_path / "file.txt", []
    monkeypatch.setattr(placed_by, lambda source, destination: sources.append(source))
    write(path, "one")
    write(path, "two")
    assert len(set(sources)) == 2
    assert all(is_temporary(source) for source in sources) and not is_temporary(path)


def test_a_folder_that_can_be_made_passes_and_is_not_made(tmp_path):
    require_writable(tmp_path)
    require_writable(tmp_path / "new" / "deeper")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    for directory in (path, path / "deeper"):
        with pytest.raises(UserError) as caught:
            require_writable(directory)
        assert str(caught.value) == f"cannot write to {directory}: {path} is not a folder"
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    with pytest.raises(UserError, match="link is not a folder"):
        require_writable(tmp_path / "link" / "deeper")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder nobody can write to")
def test_a_folder_that_refuses_files():
    # Whoever owns it may "write" to it by its mode, root above all; only trying tells.
    with pytest.raises(UserError, match="cannot write to /proc/self/new: [A-Z]"):
        require_writable("/proc/self/new")


def test_versions_name_the_libraries():
    record = versions()
    assert record["jax"] == jax.__version__
    assert record["python"] == platform.python_version()


def test_versions_name_the_commit_of_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(versions_module, "__file__", str(tmp_path / "package" / "versions.py"))
    assert "commit" not in versions()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    figures = tmp_path / "benchmarks/results/a.json"
    figures.parent.mkdir(parents=True)
    for file in (figures, tmp_path / "file"):
        file.write_text("1")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    assert re.fullmatch("[0-9a-f]{12}", versions()["commit"])
    figures.write_text("2")  # a run's own, that run's code is the commit's still
    assert re.fullmatch("[0-9a-f]{12}", versions()["commit"])
    (tmp_path / "file").write_text("2")
    assert re.fullmatch(r"[0-9a-f]{12}\+changes", versions()["commit"])
