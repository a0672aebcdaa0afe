"""A trained allocator survives the disk, and what is not one is refused in one line."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from allocator_factory import make_allocator

from resadapt_jax.allocator import LogisticNormalBounds, ProjectedBounds
from resadapt_jax.allocator.checkpoint import load_allocator, save_allocator
from resadapt_jax.errors import UserError


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    allocator = make_allocator(noise=0.3)
    directory = tmp_path_factory.mktemp("pristine")
    save_allocator(directory, allocator)
    return allocator, directory


@pytest.fixture
def saved(pristine, tmp_path):
    allocator, directory = pristine
    return allocator, Path(shutil.copytree(directory, tmp_path / "allocator"))


def edit(directory, change):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_what_is_saved_is_what_is_loaded(saved):
    allocator, directory = saved
    loaded = load_allocator(directory)
    assert loaded.config == allocator.config
    assert jax.tree.structure(loaded.params) == jax.tree.structure(allocator.params)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, allocator.params)
    np.testing.assert_array_equal(loaded.encoder.text_table, allocator.encoder.text_table)
    assert loaded.encoder.config == allocator.encoder.config
    query = "When does the red sign show a cross? über"
    assert loaded.tokenizer.encode(query) == allocator.tokenizer.encode(query)


def test_the_distribution_survives_the_disk(tmp_path):
    allocator = make_allocator(bounds=LogisticNormalBounds(start_action=0.3, upper=2.0))
    save_allocator(tmp_path, allocator)
    assert load_allocator(tmp_path).config == allocator.config
    assert json.loads((tmp_path / "config.json").read_text())["network"]["bounds"]["kind"] == (
        "LogisticNormalBounds"
    )


def test_an_allocator_that_names_no_distribution_has_a_beta(saved):
    _, directory = saved
    edit(directory, lambda config: config["network"].pop("bounds"))
    assert load_allocator(directory).config.network.bounds == ProjectedBounds()
    # As allocators were written while there was only the Beta.
    old = {"kind": "ProjectedBounds", "lower": 0.8, "upper": 10.0}
    edit(directory, lambda config: config["network"].update(bounds=old))
    assert load_allocator(directory).config.network.bounds == ProjectedBounds(lower=0.8, upper=10.0)


def test_tensors_of_another_shape_are_named(saved):
    _, directory = saved
    edit(directory, lambda config: config["network"].update(head_width=16))
    with pytest.raises(UserError, match="misshaped network.head.*and .* more") as caught:
        load_allocator(directory)
    assert "\n" not in str(caught.value)


def test_an_unknown_field_is_named(saved):
    _, directory = saved
    edit(directory, lambda config: config["network"].update(widht=16))
    with pytest.raises(UserError, match="widht; did you mean network.width"):
        load_allocator(directory)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"no such thing"])
def test_absent_and_broken_files_are_refused_in_one_line(saved, name, content):
    _, directory = saved
    if content is None:
        (directory / name).unlink()
    else:
        (directory / name).write_bytes(content)
    with pytest.raises(UserError, match=str(directory)) as caught:
        load_allocator(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, '{"model": {}}', "{"])
def test_an_absent_or_broken_tokenizer_is_refused_in_one_line(saved, content):
    _, directory = saved
    for path in directory.glob("tokenizer*"):
        path.unlink()
    if content is not None:
        (directory / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=f"no tokenizer in {directory}: .") as caught:
        load_allocator(directory)
    assert "\n" not in str(caught.value)
