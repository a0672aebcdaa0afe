"""Which places media may come from."""

import os

import pytest

from resadapt_jax.data.media import locate
from resadapt_jax.data.row import Medium, RowError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "clips").mkdir(parents=True)
    (tmp_path / "root" / "clips" / "a.mp4").touch()
    (tmp_path / "root" / "NASA: launch.mp4").touch()
    (tmp_path / "rootling").mkdir()
    (tmp_path / "rootling" / "a.mp4").touch()
    (tmp_path / "secret.mp4").touch()
    return tmp_path / "root"


def find(path, root):
    return locate(Medium(kind="video", path=path), root)


@pytest.mark.parametrize(
    "path",
    ["clips/a.mp4", "./clips/../clips/a.mp4", "nowhere/../clips/a.mp4", "{root}/clips/a.mp4"],
)
def test_a_path_below_the_root_is_found(root, path):
    assert find(path.format(root=root), root) == root / "clips" / "a.mp4"


def test_a_colon_in_a_name_makes_no_url(root):
    assert find("NASA: launch.mp4", root).name == "NASA: launch.mp4"


@pytest.mark.parametrize(
    "path",
    [
        "../secret.mp4",
        "clips/../../secret.mp4",
        "{root}/../secret.mp4",
        "/etc/passwd",
        "{root}ling/a.mp4",
    ],
)
def test_a_path_that_leaves_the_root_is_refused(root, path):
    with pytest.raises(RowError, match="outside the media root"):
        find(path.format(root=root), root)


@pytest.mark.parametrize(
    "path",
    [
        "file:///etc/passwd",
        "file:clips/a.mp4",
        "FILE:clips/a.mp4",
        "http://host/a.mp4",
        "s3://bucket/a.mp4",
        "data:video/mp4;base64,AAAA",
    ],
)
def test_a_url_is_refused(root, path):
    with pytest.raises(RowError, match="a URL: .*only local files"):
        find(path, root)


def test_what_is_no_file_is_refused(root):
    with pytest.raises(RowError, match="no such file: .*clips/b.mp4"):
        find("clips/b.mp4", root)
    with pytest.raises(RowError, match="not a file"):
        find("clips", root)
    os.mkfifo(root / "pipe.mp4")  # reading it would wait for ever
    with pytest.raises(RowError, match="not a file"):
        find("pipe.mp4", root)


def test_a_link_in_the_root_may_point_anywhere(root):
    (root / "link.mp4").symlink_to(root.parent / "secret.mp4")
    assert find("link.mp4", root) == root / "link.mp4"


def test_bytes_are_taken_as_they_are(root):
    assert locate(Medium(kind="image", data=b"abc"), root) == b"abc"
