"""Features survive the disk bit for bit; what other settings made or a disk broke is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.allocator import feature_cache
from resadapt_jax.allocator.feature_cache import CacheSettings, FeatureCache, content_key
from resadapt_jax.errors import UserError
from resadapt_jax.models.smolvlm.preprocess import PreprocessConfig

SETTINGS = CacheSettings(
    fingerprint="3b5d", preprocess=PreprocessConfig(), dtype="float32", fps=2.0, max_frames=32
)
KEY = content_key(np.arange(3))


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "features", SETTINGS)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_features_come_back_bit_for_bit(cache, dtype):
    features = jax.random.normal(jax.random.key(0), (2, 4, 3)).astype(dtype)
    features = features.at[0, 0, 0].set(jnp.nan)
    assert cache.read(KEY) is None
    cache.write(KEY, features)
    for each in (cache, FeatureCache(cache.directory, SETTINGS)):
        found = each.read(KEY)
        assert found.dtype == dtype and found.shape == features.shape
        assert np.asarray(found).tobytes() == np.asarray(features).tobytes()
    assert cache.read(content_key(np.arange(4))) is None


def test_a_key_is_of_values_shape_and_type():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    changed = frames.copy()
    changed[1, 2, 3, 2] ^= 1
    different = [frames, changed, frames[:1], frames.reshape(2, 4, 3, 3), frames.view(np.int8)]
    keys = [content_key(x) for x in different] + [content_key(frames, frames)]
    assert len(set(keys)) == len(keys)
    # A view with other strides holds the same clip.
    assert content_key(frames[:, :, ::-1][:, :, ::-1]) == content_key(jnp.asarray(frames))


@pytest.mark.parametrize(
    "change, named",
    [
        ({"fingerprint": "77aa"}, 'fingerprint: "3b5d" -> "77aa"'),
        ({"fps": None}, "fps: 2.0 -> null"),
        ({"dtype": "bfloat16"}, 'dtype: "float32" -> "bfloat16"'),
        (
            {"preprocess": PreprocessConfig(filter="bicubic")},
            'preprocess.filter: "lanczos" -> "bicubic"',
        ),
    ],
)
def test_a_cache_made_by_other_settings_is_refused(cache, change, named):
    cache.write(KEY, jnp.ones(2))
    with pytest.raises(UserError) as error:
        FeatureCache(cache.directory, dataclasses.replace(SETTINGS, **change))
    assert named in str(error.value) and str(cache.directory) in str(error.value)
    np.testing.assert_array_equal(FeatureCache(cache.directory, SETTINGS).read(KEY), 1)


def test_a_folder_that_is_no_cache_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="is not empty and holds no settings.json"):
        FeatureCache(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["file", "file/deeper"])
def test_a_file_is_no_folder_for_a_cache(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"cannot keep features in {tmp_path / name}: [A-Z]"):
        FeatureCache(tmp_path / name, SETTINGS)


def test_what_a_killed_start_leaves_behind_is_no_hindrance(tmp_path, monkeypatch):
    def killed(source, destination):
        (tmp_path / source.name).write_bytes(source.read_bytes())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.link", killed)
        FeatureCache(tmp_path / "features", SETTINGS)
    (left,) = tmp_path.glob(".*")
    left.rename(tmp_path / "features" / left.name)
    FeatureCache(tmp_path / "features", SETTINGS).write(KEY, jnp.ones(2))


def test_of_two_that_start_a_cache_the_first_decides(tmp_path, monkeypatch):
    def start(name, settings):
        """Opens a cache; just before its settings are placed, another process places its own."""
        write = feature_cache.write_if_absent

        def late(path, content):
            with monkeypatch.context() as patch:
                patch.setattr(feature_cache, "write_if_absent", write)
                FeatureCache(tmp_path / name, SETTINGS).write(KEY, jnp.ones(2))
            write(path, content)

        with monkeypatch.context() as patch:
            patch.setattr(feature_cache, "write_if_absent", late)
            return FeatureCache(tmp_path / name, settings)

    np.testing.assert_array_equal(start("shared", SETTINGS).read(KEY), 1)
    with pytest.raises(UserError, match="fps: 2.0 -> 1.0"):
        start("disputed", dataclasses.replace(SETTINGS, fps=1.0))
    FeatureCache(tmp_path / "disputed", SETTINGS)


def test_damaged_settings_are_one_line(cache):
    (cache.directory / "settings.json").write_text("{")
    with pytest.raises(UserError, match="settings.json"):
        FeatureCache(cache.directory, SETTINGS)


def entry(cache):
    (path,) = cache.directory.glob("*/*.safetensors")
    return path


def truncated(path):
    path.write_bytes(path.read_bytes()[:-3])


def with_a_flipped_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def emptied(path):
    path.write_bytes(b"")


def without_its_tensor(path):
    data = path.read_bytes().replace(b'"features"', b'"featurez"')
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncated, with_a_flipped_bit, emptied, without_its_tensor])
def test_a_damaged_entry_is_refused(cache, damage):
    cache.write(KEY, jnp.ones((3, 5)))
    damage(entry(cache))
    with pytest.raises(UserError, match=f"{KEY}.safetensors.*delete it"):
        cache.read(KEY)


def test_an_entry_under_another_key_is_refused(cache):
    cache.write(KEY, jnp.ones(2))
    other = KEY[:-1] + ("0" if KEY[-1] != "0" else "1")
    entry(cache).rename(entry(cache).with_name(f"{other}.safetensors"))
    with pytest.raises(UserError, match="does not hold what was written"):
        cache.read(other)


def test_settings_are_readable(cache):
    saved = json.loads((cache.directory / "settings.json").read_text())
    assert saved["preprocess"]["size"] == 512 and saved["fps"] == 2.0
