"""Frames kept on disk come back as they were, or not at all."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from resadapt_jax.data.frames_cache import FramesCache, frames_key

FRAMES = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
TIMES = np.array([0.0, 0.1])


def only_file(folder):
    (path,) = (path for path in folder.rglob("*") if path.is_file())
    return path


def test_frames_come_back_exactly(tmp_path):
    cache = FramesCache(str(tmp_path))
    assert cache.get("abc") is None
    cache.put("abc", (FRAMES, TIMES))
    frames, times = cache.get("abc")
    np.testing.assert_array_equal(frames, FRAMES)
    np.testing.assert_array_equal(times, TIMES)
    assert frames.dtype == np.uint8 and times.dtype == np.float64


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_a_damaged_entry_is_none_and_can_be_made_anew(tmp_path, damage):
    cache = FramesCache(str(tmp_path))
    cache.put("abc", (FRAMES, TIMES))
    path = only_file(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1  # within the pixels
    written = {"cut": data[:-30], "flip": data, "empty": b"", "text": b"hello"}[damage]
    path.write_bytes(written)
    assert cache.get("abc") is None
    cache.put("abc", (FRAMES, TIMES))
    np.testing.assert_array_equal(cache.get("abc")[0], FRAMES)


def test_whatever_an_entry_raises_it_is_none(tmp_path, monkeypatch):
    cache = FramesCache(str(tmp_path))
    cache.put("abc", (FRAMES, TIMES))
    for error in (NotImplementedError, RuntimeError, MemoryError):

        def fail(*args, error=error, **options):
            raise error("in the archive")

        monkeypatch.setattr(np, "load", fail)
        assert cache.get("abc") is None


def test_a_full_disk_ends_nothing_and_is_told_once(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = FramesCache(str(tmp_path / "file" / "below"))  # no folder can be made there
    cache.put("abc", (FRAMES, TIMES))
    cache.put("abd", (FRAMES, TIMES))
    assert cache.get("abc") is None
    (told,) = caplog.messages
    assert told.startswith(f"decoded frames are not kept in {tmp_path}/file/below: ")


def test_several_may_write_the_same_entry(tmp_path):
    cache = FramesCache(str(tmp_path))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: cache.put("abc", (FRAMES, TIMES)), range(16)))
    np.testing.assert_array_equal(cache.get("abc")[0], FRAMES)
    only_file(tmp_path)  # nothing else is left


def test_a_key_tells_files_and_settings_apart(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"abc")
    key = frames_key(path, 1, 2.0)
    assert key == frames_key(path, 1, 2.0)
    assert key != frames_key(path, 1, 3.0)
    os.utime(path, (0, 0))
    assert key != frames_key(path, 1, 2.0)
    assert frames_key(b"abc", 1) == frames_key(b"abc", 1) != frames_key(b"abd", 1)
