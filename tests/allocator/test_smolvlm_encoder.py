"""SmolVLM2 as the allocator's encoder: chunks, padding, the query, the directory it comes from."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from allocator_factory import make_allocator
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from smolvlm_factory import CONFIG, NETWORK, network_params, random_params, write_smolvlm
from video_factory import textured_frames, write_video

from resadapt_jax import allocate as command
from resadapt_jax.allocate import propose_media_scales, propose_scales
from resadapt_jax.allocator import (
    FrozenEncoder,
    Pictures,
    ThumbnailEncoder,
    allocate,
    smolvlm_encoder,
)
from resadapt_jax.allocator.checkpoint import (
    TrainedAllocator,
    TrainedAllocatorConfig,
    load_allocator,
    save_allocator,
)
from resadapt_jax.allocator.feature_cache import CacheSettings, FeatureCache
from resadapt_jax.allocator.smolvlm_encoder import (
    SmolVLMEncoder,
    checkpoint_fingerprint,
    encode_pictures,
    load_smolvlm_encoder,
    mesh_of,
    name_source,
    open_source,
)
from resadapt_jax.errors import UserError
from resadapt_jax.models.smolvlm import text, vision
from resadapt_jax.models.smolvlm.preprocess import PreprocessConfig, preprocess
from resadapt_jax.operators import NativeSizes, SizeLimits

PREPROCESS = PreprocessConfig(size=32, longest_edge=48)


@pytest.fixture(scope="module")
def encoder():
    return SmolVLMEncoder(
        params=random_params(), config=CONFIG, preprocess=PREPROCESS, chunk_frames=2
    )


@jax.jit
def encode(encoder: FrozenEncoder, frames, frame_mask, text_ids, text_mask):
    pictures = Pictures.of_videos(frames).replace(mask=frame_mask)
    return encoder.encode(pictures, text_ids, text_mask)


def encode_frames(encoder, frames):
    return encoder.encode_frames(
        frames, NativeSizes.alike(*frames.shape[1:3], SizeLimits()).over((len(frames),))
    )


def test_the_protocol_is_what_both_encoders_share():
    def members(kind):
        return {name for name in vars(kind) if not name.startswith("_")}

    shared = members(SmolVLMEncoder) & members(ThumbnailEncoder)
    assert members(FrozenEncoder) == shared - {"replace"}  # of any flax.struct.dataclass


def random_inputs(batch=2, num_frames=5, height=40, width=56, length=6):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (batch, num_frames, height, width, 3), np.uint8)
    frame_mask = np.arange(num_frames) < np.array([[num_frames], [2]][:batch])
    text_ids = rng.integers(0, 400, (batch, length))
    text_mask = np.arange(length) < np.array([[length], [3]][:batch])
    return [jnp.asarray(x) for x in (frames, frame_mask, text_ids, text_mask)]


@pytest.fixture(scope="module")
def encoded(encoder):
    inputs = random_inputs()
    return inputs, encode(encoder, *inputs)


def test_features_are_those_of_the_towers(encoder, encoded):
    (frames, frame_mask, text_ids, text_mask), features = encoded
    assert features.frames.shape == (2, 5, CONFIG.num_tokens, encoder.frame_width)
    assert features.text.shape == (2, 6, encoder.frame_width)

    @jax.jit
    def towers(frames):
        index, sizes = jnp.zeros(len(frames), jnp.int32), (frames.shape[1:3],)
        patches = preprocess(frames, index, sizes, PREPROCESS, CONFIG.vision.patch_size)
        tokens = vision.encode(encoder.params, CONFIG, patches)
        return tokens, text.forward(encoder.params, CONFIG, text_ids, text_mask)

    tokens, hidden = towers(frames[0])
    np.testing.assert_allclose(features.frames[0], tokens, atol=1e-5)
    np.testing.assert_allclose(features.text[0], hidden[0], atol=1e-5)
    np.testing.assert_array_equal(features.frame_mask, frame_mask)


def test_frames_may_be_brought_to_another_size_than_the_towers_own(encoder):
    """Of twice the side a frame has four times the tokens, from the host as inside jit."""
    large = encoder.replace(preprocess=replace(PREPROCESS, size=2 * PREPROCESS.size))
    frames, mask, text_ids, text_mask = random_inputs(num_frames=2)
    inside = encode(large, frames, mask, text_ids, text_mask)
    assert large.num_tokens == 4 * CONFIG.num_tokens == inside.frames.shape[2]
    pictures = Pictures.of_videos(np.asarray(frames))
    host = encode_pictures(large, pictures, np.asarray(text_ids), np.asarray(text_mask))
    np.testing.assert_allclose(host.frames, inside.frames, atol=1e-5)


def test_padding_changes_nothing(encoder, encoded):
    (frames, frame_mask, text_ids, text_mask), features = encoded
    frames = jnp.where(frame_mask[:, :, None, None, None], frames, 255)
    other = encode(encoder, frames, frame_mask, jnp.where(text_mask, text_ids, 9), text_mask)
    np.testing.assert_array_equal(other.frames, features.frames)
    np.testing.assert_array_equal(other.text, features.text)
    assert not features.frames[1, 2:].any() and not features.text[1, 3:].any()
    # Without the padding at all.
    alone = encode(encoder, frames[1:, :2], frame_mask[1:, :2], text_ids[1:, :3], text_mask[1:, :3])
    np.testing.assert_allclose(alone.frames, features.frames[1:, :2], atol=1e-5)
    np.testing.assert_allclose(alone.text, features.text[1:, :3], atol=1e-5)


@pytest.mark.parametrize("chunk_frames", [1, 3, 64])
def test_chunks_change_nothing(encoder, encoded, chunk_frames):
    inputs, features = encoded
    other = encode(encoder.replace(chunk_frames=chunk_frames), *inputs)
    np.testing.assert_allclose(other.frames, features.frames, atol=1e-5)


def working_memory(encoder, num_frames):
    """Bytes that a compiled encoding needs beyond its arguments and results."""
    frames = jax.ShapeDtypeStruct((num_frames, 40, 56, 3), jnp.uint8)
    compiled = jax.jit(encode_frames).lower(encoder, frames).compile()
    analysis = compiled.memory_analysis()
    # The chunked copy of the frames and the chunked results are not working memory.
    result = num_frames * CONFIG.num_tokens * encoder.frame_width * 4
    return analysis.temp_size_in_bytes - frames.size - result


def test_memory_does_not_grow_with_the_frames(encoder):
    few, many = (working_memory(encoder, count) for count in (2, 32))
    whole = working_memory(encoder.replace(chunk_frames=32), 32)
    assert many < 1.5 * few
    assert whole > 5 * many


def test_an_allocator_runs_on_it(encoded):
    out = jax.jit(allocate, static_argnums=1)(network_params(), NETWORK, encoded[1])
    np.testing.assert_array_equal(out.unit_mask, [[True] * 3, [True, False, False]])
    alpha = out.policy.alpha
    assert np.ptp(alpha[0]) > 0 and np.isfinite(alpha).all()


def test_prompts_are_encoded_once_whatever_their_sizes(encoder, tmp_path, monkeypatch):
    """A prompt of a video and an image, and one of a lone image, on a canvas of noise."""
    rng = np.random.default_rng(0)
    sizes = ((24, 30), (40, 56))
    pictures = Pictures(
        frames=rng.integers(0, 256, (2, 6, 40, 60, 3), np.uint8),
        mask=np.array([[1, 1, 1, 0, 1, 0], [1, 0, 0, 0, 0, 0]], bool),
        segment_ids=np.array([[0, 0, 0, 0, 2, 2], [1, 1, 0, 0, 0, 0]]),
        native=NativeSizes(
            index=np.array([[1, 1, 1, 1, 0, 0], [0] * 6]), sizes=sizes, limits=SizeLimits()
        ),
    )
    ids, mask = np.array([[5, 6, 7], [8, 0, 0]]), np.array([[True] * 3, [True, False, False]])
    settings = CacheSettings(
        fingerprint="", preprocess=PREPROCESS, dtype="float32", fps=None, max_frames=4
    )
    cache = FeatureCache(tmp_path / "cache", settings)
    shapes, encode_frames_ = [], smolvlm_encoder._encode_frames

    def spying(encoder, frames, native, mesh):
        shapes.append(frames.shape[:3])
        return encode_frames_(encoder, frames, native, mesh)

    monkeypatch.setattr(smolvlm_encoder, "_encode_frames", spying)
    features = encode_pictures(encoder, pictures, ids, mask, cache)
    # Five frames exist: two at once, all of one shape, whichever prompt and size they are of.
    assert shapes == [(2, 40, 60)] * 3
    np.testing.assert_array_equal(features.frame_mask, pictures.mask)
    np.testing.assert_array_equal(features.segment_ids, pictures.segment_ids)
    for row, place in np.argwhere(pictures.mask):
        height, width = sizes[pictures.native.index[row, place]]
        frame = jnp.asarray(pictures.frames[row, place, :height, :width])[None]
        alone = jax.jit(encode_frames)(encoder, frame)[0]
        np.testing.assert_allclose(features.frames[row, place], alone, atol=1e-5)
    assert not features.frames[~pictures.mask].any()
    np.testing.assert_allclose(features.text, jax.jit(encoder.encode_text)(ids, mask), atol=1e-5)
    # The second time nothing is encoded, wherever the same picture lies: an encoder without
    # weights would fail.
    blind = encoder.replace(params=dict(encoder.params))
    blind.params["model"] = {**encoder.params["model"], "vision_model": None}
    again = encode_pictures(blind, pictures, ids, mask, cache)
    np.testing.assert_array_equal(again.frames, features.frames)
    wider = np.pad(pictures.frames, [(0, 0)] * 2 + [(0, 8), (0, 4), (0, 0)], constant_values=7)
    again = encode_pictures(blind, pictures.replace(frames=wider), ids, mask, cache)
    np.testing.assert_array_equal(again.frames, features.frames)
    pictures.frames[0, 0, 0, 0] ^= 255
    with pytest.raises(TypeError):
        encode_pictures(blind, pictures, ids, mask, cache)


def test_every_device_that_has_the_encoder_encodes_its_share(encoder, monkeypatch):
    frames = np.random.default_rng(1).integers(0, 256, (11, 24, 24, 3), np.uint8)
    mesh = mesh_of(jax.devices()[:4])
    places, encode_share = [], smolvlm_encoder._encode_frames

    def spying(*arguments):
        tokens = encode_share(*arguments)
        places.append({shard.device: len(shard.data) for shard in tokens.addressable_shards})
        return tokens

    monkeypatch.setattr(smolvlm_encoder, "_encode_frames", spying)
    everywhere = encoder.replace(
        params=jax.device_put(encoder.params, NamedSharding(mesh, PartitionSpec()))
    )
    ids, mask = np.array([[5, 6, 7]] * 3), np.ones((3, 3), bool)
    with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))):
        native = NativeSizes(index=np.zeros(11, int), sizes=((24, 24),), limits=SizeLimits())
        tokens = smolvlm_encoder._encode_together(everywhere, frames, native)
        text = smolvlm_encoder._encode_texts(everywhere, ids, mask)
    np.testing.assert_allclose(text, jax.jit(encoder.encode_text)(ids, mask), atol=1e-5)
    # Two at once on each of four devices: eight, then three and five of padding.
    assert places == [dict.fromkeys(jax.devices()[:4], 2)] * 2
    np.testing.assert_allclose(tokens, jax.jit(encode_frames)(encoder, frames), atol=1e-5)


# --- from a directory ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write_smolvlm(tmp_path_factory.mktemp("smolvlm"))


@pytest.fixture
def directory(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "smolvlm")


def assert_same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_an_encoder_is_read_from_a_directory(encoder, directory):
    read, tokenizer = load_smolvlm_encoder(directory, chunk_frames=2)
    assert (read.config, read.preprocess, read.chunk_frames) == (CONFIG, PREPROCESS, 2)
    assert_same(read.params, encoder.params)
    assert tokenizer.encode("red sign", add_special_tokens=False)
    half, _ = load_smolvlm_encoder(directory, filter="bicubic", dtype=jnp.bfloat16)
    assert half.dtype == jnp.bfloat16 and half.preprocess.filter == "bicubic"


def test_a_broken_tokenizer_is_one_line(directory):
    (directory / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(UserError, match=f"no tokenizer in {directory}: .") as error:
        load_smolvlm_encoder(directory)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pattern", ["config.json", "model.safetensors", "tokenizer*"])
def test_an_incomplete_directory_is_one_line(directory, pattern):
    for path in directory.glob(pattern):
        path.unlink()
    with pytest.raises(UserError, match=str(directory)) as error:
        load_smolvlm_encoder(directory)
    assert "\n" not in str(error.value)


def test_the_fingerprint_is_of_the_content(directory, tmp_path):
    fingerprint = checkpoint_fingerprint(directory)
    copy = shutil.copytree(directory, tmp_path / "copy")
    (copy / "README.md").write_text("Anything.")
    assert checkpoint_fingerprint(copy) == fingerprint
    for name in (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
        "model.safetensors",
    ):
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content + b" ")
        assert checkpoint_fingerprint(copy) != fingerprint, name
        (copy / name).write_bytes(content)
    for name in ("processor_config.json", "video_preprocessor_config.json"):
        (copy / name).write_text("{}")
        assert checkpoint_fingerprint(copy) != fingerprint, name
        (copy / name).unlink()
    assert checkpoint_fingerprint(copy) == fingerprint
    with pytest.raises(UserError, match="no SmolVLM checkpoint at"):
        checkpoint_fingerprint(tmp_path)


def test_a_named_source_is_found_again(directory, tmp_path):
    encoder, _ = load_smolvlm_encoder(directory, filter="bicubic", dtype=jnp.bfloat16)
    source = name_source(directory, encoder)
    again, _ = open_source(source)
    assert again.preprocess == encoder.preprocess and again.dtype == jnp.bfloat16
    assert_same(again.params, encoder.params)
    moved = directory.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=f"no SmolVLM checkpoint at {directory}"):
        open_source(source)
    assert_same(open_source(source, moved)[0].params, encoder.params)
    other = write_smolvlm(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=f"{other} is not the checkpoint that was recorded"):
        open_source(source, other)


# --- a trained allocator that names one ------------------------------------------------------


def trained_on(directory):
    encoder, tokenizer = load_smolvlm_encoder(directory)
    return TrainedAllocator(
        config=TrainedAllocatorConfig(
            network=NETWORK,
            vocab_size=encoder.config.text.vocab_size,
            encoder=name_source(directory, encoder),
        ),
        params=network_params(),
        encoder=encoder,
        tokenizer=tokenizer,
    )


def test_a_trained_allocator_names_its_encoder(directory, tmp_path):
    allocator = trained_on(directory)
    save_allocator(tmp_path / "allocator", allocator)
    weights = (tmp_path / "allocator" / "model.safetensors").stat().st_size
    assert weights < sum(leaf.nbytes for leaf in jax.tree.leaves(allocator.params)) + 10_000
    loaded = load_allocator(tmp_path / "allocator")
    assert loaded.config == allocator.config
    assert_same(loaded.params, allocator.params)
    assert_same(loaded.encoder.params, allocator.encoder.params)
    assert loaded.tokenizer.encode("red") == allocator.tokenizer.encode("red")
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3), np.uint8)
    scales = propose_scales(frames, "Which sign is red?", loaded)
    limits = allocator.config.scale_range
    assert scales.shape == (2,) and (limits.s_min < scales).all() and (scales < limits.s_max).all()
    moved = directory.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="no SmolVLM checkpoint at"):
        load_allocator(tmp_path / "allocator")
    again = load_allocator(tmp_path / "allocator", smolvlm_directory=moved)
    assert_same(again.encoder.params, allocator.encoder.params)
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    with pytest.raises(UserError, match="is not the checkpoint that was recorded"):
        load_allocator(tmp_path / "allocator", smolvlm_directory=moved)


def test_the_command_is_told_where_the_encoder_lies_now(directory, tmp_path, monkeypatch, capsys):
    save_allocator(tmp_path / "allocator", trained_on(directory))
    clip = write_video(tmp_path / "clip.mkv", textured_frames(2))
    moved = directory.rename(tmp_path / "moved")
    arguments = [str(clip), "--query", "why?", "--checkpoint", str(tmp_path / "allocator")]
    arguments += ["--out", str(tmp_path / "out")]
    opened = []
    monkeypatch.setattr(
        command, "allocate", lambda *arguments, **options: opened.append(arguments[3]) or stop()
    )

    def stop():
        raise UserError("far enough")

    assert command.main(arguments) == 2
    assert f"no SmolVLM checkpoint at {directory}" in capsys.readouterr().err
    assert command.main([*arguments, "--encoder", str(moved)]) == 2
    assert "error: far enough" in capsys.readouterr().err
    assert opened[0].encoder.config == CONFIG


def test_an_image_beside_two_videos_from_pixels_to_scales(directory, monkeypatch):
    allocator = trained_on(directory)
    rng = np.random.default_rng(1)
    sizes = [(3, 40, 56), (1, 24, 24), (2, 24, 24)]
    odd, image, even = (rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes)
    kinds = ["video", "image", "video"]

    def scales(*media):
        return propose_media_scales(media, kinds, "Which sign is red?", allocator)

    first, alone, last = scales(odd, image, even)
    assert [len(x) for x in (first, alone, last)] == [2, 1, 1]  # an odd last frame is a pair
    # No video sees the image, and the image sees no video.
    changed = scales(odd, 255 - image, even)
    np.testing.assert_array_equal(np.concatenate(changed[::2]), np.concatenate([first, last]))
    assert np.abs(changed[1] - alone).max() > 1e-4
    changed = scales(odd, image, 255 - even)
    np.testing.assert_array_equal(changed[1], alone)
    # The videos see one another.
    assert np.abs(changed[0] - first).max() > 1e-4
    monkeypatch.setattr(smolvlm_encoder, "_encode_frames", None)  # no call from here on
    for media, message in [
        ([odd, image], "2 media have 3 kinds"),
        ([odd, even, even], "2 frames is no image"),
        ([odd[:0], image, even], "0 frames is no video"),
    ]:
        with pytest.raises(UserError, match=message):
            scales(*media)
    with pytest.raises(UserError, match="there must be one at least"):
        propose_media_scales([], [], "?", allocator)
    with pytest.raises(UserError, match="the query is empty"):
        propose_media_scales([image], ["image"], " ", allocator)


def test_images_and_videos_work_with_thumbnails_too():
    rng = np.random.default_rng(1)
    media = [rng.integers(0, 256, (*size, 3), np.uint8) for size in [(3, 40, 56), (1, 24, 24)]]
    kinds = ["video", "image"]
    allocator = make_allocator(noise=0.3)
    video, image = propose_media_scales(media, kinds, "Which?", allocator)
    assert len(video) == 2
    other = propose_media_scales([media[0][::-1], media[1]], kinds, "Which?", allocator)
    np.testing.assert_array_equal(other[1], image)
    assert np.abs(other[0] - video).max() > 1e-3
