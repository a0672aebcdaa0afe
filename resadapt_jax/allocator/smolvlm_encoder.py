"""SmolVLM2 as the allocator's frozen encoder: 64 tokens of 576 per frame for the 256M checkpoint.

A frame passes the vision tower and the connector, never the language tower; the user's text passes
the language tower alone, without chat template or special tokens (ResAdapt, arXiv 2603.28610).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import AxisType, Mesh, PartitionSpec
from jax.typing import DTypeLike
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from resadapt_jax.allocator.encoder import EncoderFeatures, Pictures
from resadapt_jax.allocator.feature_cache import FeatureCache, content_key
from resadapt_jax.errors import UserError
from resadapt_jax.models.smolvlm import text, vision
from resadapt_jax.models.smolvlm.checkpoint import load_hf, load_preprocess
from resadapt_jax.models.smolvlm.config import SmolVLMConfig
from resadapt_jax.models.smolvlm.preprocess import (
    DEFAULT_FILTER,
    FrameFilter,
    PreprocessConfig,
    preprocess,
)
from resadapt_jax.models.tokenizer import read_tokenizer
from resadapt_jax.operators import NativeSizes
from resadapt_jax.typing import Array, Bool, Float, Int, Params, UInt8


@struct.dataclass
class SmolVLMEncoder:
    """Fulfils `FrozenEncoder`; frames do not see one another, so padding cannot leak.

    Attributes:
        params: of the checkpoint; their dtype is that of the features.
        config: the checkpoint's architecture.
        preprocess: how a frame becomes the tower's pixels.
        chunk_frames: frames that a device encodes at once, which bounds its memory.
        fingerprint: of the files that it was loaded from (`checkpoint_fingerprint`).
    """

    params: Params
    config: SmolVLMConfig = struct.field(pytree_node=False)
    preprocess: PreprocessConfig = struct.field(pytree_node=False)
    chunk_frames: int = struct.field(pytree_node=False, default=8)
    fingerprint: str = struct.field(pytree_node=False, default="")

    @property
    def frame_width(self) -> int:
        """D of the frame features."""
        return self.config.text.hidden_size

    @property
    def text_width(self) -> int:
        """D of the text features."""
        return self.config.text.hidden_size

    @property
    def num_tokens(self) -> int:
        """L, tokens of a frame at the size that it is brought to."""
        side = self.preprocess.size // (self.config.vision.patch_size * self.config.scale_factor)
        return side**2

    @property
    def vocab_size(self) -> int:
        """Of the language tower."""
        return self.config.text.vocab_size

    @property
    def dtype(self) -> jnp.dtype:
        """Of the weights and the features."""
        return self.params["model"]["text_model"]["norm"]["weight"].dtype

    def encode(
        self, pictures: Pictures, text_ids: Int[Array, "B N"], text_mask: Bool[Array, "B N"]
    ) -> EncoderFeatures:
        """See `FrozenEncoder`; frames [B F L D], text [B N D], zeros where masked out."""
        batch, num_frames = pictures.mask.shape
        flat = pictures.frames.reshape(-1, *pictures.frames.shape[2:])
        native = pictures.native.over(pictures.mask.shape)
        tokens = self.encode_frames(flat, native.replace(index=native.index.ravel()))
        tokens = tokens.reshape(batch, num_frames, *tokens.shape[1:])
        return EncoderFeatures(
            frames=jnp.where(pictures.mask[:, :, None, None], tokens, 0),
            frame_mask=pictures.mask,
            segment_ids=pictures.segment_ids,
            text=self.encode_text(text_ids, text_mask),
            text_mask=text_mask,
        )

    def encode_frames(
        self, frames: UInt8[Array, "F height width 3"], native: NativeSizes
    ) -> Float[Array, "F L D"]:
        """The tokens of each frame, ``chunk_frames`` frames at a time."""
        count = len(frames)
        chunk = max(1, min(self.chunk_frames, count))

        def chunks(x):
            padded = jnp.pad(x, [(0, -count % chunk)] + [(0, 0)] * (x.ndim - 1))
            return padded.reshape(-1, chunk, *x.shape[1:])

        def encode_chunk(chunk):
            frames, index = chunk
            patch_size = self.config.vision.patch_size
            patches = preprocess(frames, index, native.sizes, self.preprocess, patch_size)
            return vision.encode(self.params, self.config, patches)

        tokens = jax.lax.map(encode_chunk, (chunks(frames), chunks(native.index)))
        return tokens.reshape(-1, *tokens.shape[2:])[:count]

    def encode_text(
        self, text_ids: Int[Array, "B N"], text_mask: Bool[Array, "B N"]
    ) -> Float[Array, "B N D"]:
        """The last hidden state of each token of right-padded texts; zeros where masked out."""
        hidden = text.forward(self.params, self.config, text_ids, text_mask)
        return jnp.where(text_mask[:, :, None], hidden, 0)


def encode_pictures(
    encoder: SmolVLMEncoder,
    pictures: Pictures,
    text_ids: Int[np.ndarray, "B N"],
    text_mask: Bool[np.ndarray, "B N"],
    cache: FeatureCache | None = None,
) -> EncoderFeatures:
    """`SmolVLMEncoder.encode` from the host: every frame and text once, padding never.

    ``chunk_frames`` frames at once on every device that the encoder lies on. Frames of another
    shape cost a compilation, and so does each number of frames below a chunk.

    Args:
        pictures: on the host.
        cache: of the features of a segment's frames; made for this encoder.

    Raises:
        UserError: as `FeatureCache.read`.
    """
    shape = pictures.mask.shape
    native = np.broadcast_to(np.asarray(pictures.native.index), shape)
    features = np.zeros((*shape, encoder.num_tokens, encoder.frame_width), encoder.dtype)
    keys = {} if cache is None else _segment_keys(pictures, native)
    missing = pictures.mask.copy()
    for place, key in keys.items():
        if (found := cache.read(key)) is not None:
            features[place], missing[place] = found, False
    if missing.any():
        sizes = pictures.native.replace(index=native[missing])
        features[missing] = _encode_together(encoder, pictures.frames[missing], sizes)
    for place, key in keys.items():
        if missing[place].any():
            cache.write(key, features[place])
    return EncoderFeatures(
        frames=jnp.asarray(features),
        frame_mask=jnp.asarray(pictures.mask),
        segment_ids=jnp.asarray(pictures.segment_ids),
        text=jnp.asarray(_encode_texts(encoder, text_ids, text_mask)),
        text_mask=jnp.asarray(text_mask),
    )


def _segment_keys(
    pictures: Pictures, native: Int[np.ndarray, "B F"]
) -> dict[tuple[int, tuple[int, ...]], str]:
    """For the places of each segment's frames, the key of their content."""
    keys = {}
    for row, (mask, segments) in enumerate(zip(pictures.mask, pictures.segment_ids, strict=True)):
        for segment in np.unique(segments[mask]):
            (places,) = np.nonzero(mask & (segments == segment))
            sizes = [pictures.native.sizes[index] for index in native[row, places]]
            shown = [
                pictures.frames[row, place, :height, :width]
                for place, (height, width) in zip(places, sizes, strict=True)
            ]
            keys[row, tuple(places.tolist())] = content_key(*shown)
    return keys


def _encode_together(
    encoder: SmolVLMEncoder, frames: UInt8[np.ndarray, "F height width 3"], native: NativeSizes
) -> Float[np.ndarray, "F L D"]:
    """Whole chunks one after the other, so that other numbers of frames need no compilation.

    Every device that has the encoder takes its share of a chunk.
    """
    mesh, count = _mesh_of_encoder(encoder), len(frames)
    chunk = min(encoder.chunk_frames, -(-count // mesh.size)) * mesh.size
    tokens = []
    with jax.set_mesh(mesh):
        for start in range(0, count, chunk):
            some, index = frames[start : start + chunk], native.index[start : start + chunk]
            padding = [(0, chunk - len(some))]
            some, index = np.pad(some, padding + [(0, 0)] * 3), np.pad(index, padding)
            sizes = native.replace(index=index)
            tokens.append(np.asarray(_encode_frames(encoder, some, sizes, mesh)))
    return np.concatenate(tokens)[:count]


def mesh_of(devices: Iterable[jax.Device]) -> Mesh:
    """Devices that each encode frames of their own, on the axis ``device``."""
    devices = sorted(devices, key=lambda device: device.id)
    return jax.make_mesh((len(devices),), ("device",), axis_types=(AxisType.Auto,), devices=devices)


@partial(jax.jit, static_argnames="mesh")
def _encode_frames(
    encoder: SmolVLMEncoder,
    frames: UInt8[Array, "F height width 3"],
    native: NativeSizes,
    mesh: Mesh,
) -> Float[Array, "F L D"]:
    each = jax.shard_map(
        SmolVLMEncoder.encode_frames,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("device"), PartitionSpec("device")),
        out_specs=PartitionSpec("device"),
        check_vma=False,  # the resize kernel's results do not say what they vary over
    )
    return each(encoder, frames, native)


def _encode_texts(
    encoder: SmolVLMEncoder, text_ids: Int[np.ndarray, "B N"], text_mask: Bool[np.ndarray, "B N"]
) -> Float[np.ndarray, "B N D"]:
    """Texts are short: every device that has the encoder does the same."""
    mesh = _mesh_of_encoder(encoder)
    with jax.set_mesh(mesh):
        return np.asarray(_encode_text(encoder, text_ids, text_mask, mesh))


@partial(jax.jit, static_argnames="mesh")
def _encode_text(
    encoder: SmolVLMEncoder, text_ids: Int[Array, "B N"], text_mask: Bool[Array, "B N"], mesh: Mesh
) -> Float[Array, "B N D"]:
    whole = PartitionSpec()
    each = jax.shard_map(
        SmolVLMEncoder.encode_text, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False
    )
    return each(encoder, text_ids, text_mask)


def _mesh_of_encoder(encoder: SmolVLMEncoder) -> Mesh:
    return mesh_of(jax.tree.leaves(encoder.params)[0].sharding.device_set)


@dataclass(frozen=True, kw_only=True)
class SmolVLMSource:
    """A checkpoint by name instead of by weights, and how it is used.

    Attributes:
        directory: where it lies.
        fingerprint: of what lies there (`checkpoint_fingerprint`).
        preprocess: how a frame becomes the tower's pixels.
        dtype: of the weights as they are used.
    """

    directory: Path
    fingerprint: str
    preprocess: PreprocessConfig
    dtype: str


def load_smolvlm_encoder(
    directory: str | Path,
    *,
    filter: FrameFilter = DEFAULT_FILTER,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    chunk_frames: int = 8,
    fingerprint: str = "",
) -> tuple[SmolVLMEncoder, PreTrainedTokenizerBase]:
    """Reads the encoder and its tokenizer from a SmolVLM2's HF directory.

    Args:
        directory: as HF publishes it: config, weights, tokenizer and processor settings.
        filter: of the frames' resize.
        dtype: cast the weights to it; ``None`` keeps the file's.
        mesh: where the weights go (`smolvlm.partition`); ``None``: to the default device.
        chunk_frames: frames that a device encodes at once.
        fingerprint: what the checkpoint must have, if it is to be a certain one.

    Raises:
        UserError: a file is absent or unreadable, or the checkpoint is of another architecture or
            not the one wanted.
    """
    found = checkpoint_fingerprint(directory)
    if fingerprint not in ("", found):
        raise UserError(f"{directory} is not the checkpoint that was recorded: its files differ")
    config, params = load_hf(directory, dtype, mesh)
    encoder = SmolVLMEncoder(
        params=params,
        config=config,
        preprocess=load_preprocess(directory, config, filter),
        chunk_frames=chunk_frames,
        fingerprint=found,
    )
    # AutoTokenizer would read the model's config too, and import what its modules import.
    return encoder, read_tokenizer(directory, PreTrainedTokenizerFast)


def name_source(directory: str | Path, encoder: SmolVLMEncoder) -> SmolVLMSource:
    """Describes the directory that an encoder was loaded from, for `open_source`."""
    return SmolVLMSource(
        directory=Path(directory).resolve(),
        fingerprint=encoder.fingerprint,
        preprocess=encoder.preprocess,
        dtype=str(encoder.dtype),
    )


def open_source(
    source: SmolVLMSource, directory: str | Path | None = None
) -> tuple[SmolVLMEncoder, PreTrainedTokenizerBase]:
    """Loads exactly the encoder that was named.

    Args:
        source: from `name_source`.
        directory: where the checkpoint lies now, if it has moved.

    Raises:
        UserError: as `load_smolvlm_encoder`, or the checkpoint is not the one named.
    """
    directory = source.directory if directory is None else directory
    encoder, tokenizer = load_smolvlm_encoder(
        directory, dtype=source.dtype, fingerprint=source.fingerprint
    )
    return encoder.replace(preprocess=source.preprocess), tokenizer


_SETTINGS = (
    "config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "preprocessor_config.json",
)
"""What `load_smolvlm_encoder` reads besides the weights, of which a checkpoint may lack some."""


def checkpoint_fingerprint(directory: str | Path) -> str:
    """SHA-256 over the names and contents of the weights and of the settings read beside them.

    Raises:
        UserError: there are no weights.
    """
    directory = Path(directory)
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        raise UserError(f"no SmolVLM checkpoint at {directory}")
    whole = hashlib.sha256()
    for path in (*(directory / name for name in _SETTINGS), *weights):
        if path.is_file():
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            whole.update(f"{path.name} {digest}\n".encode())
    return whole.hexdigest()
