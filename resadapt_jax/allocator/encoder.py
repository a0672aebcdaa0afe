"""What the allocator sees: features of a frozen encoder, computed once per prompt.

Any encoder that fits `FrozenEncoder` serves; its output may be cached. `ThumbnailEncoder` is the
one without weights, for the embedded world and for tests; `smolvlm_encoder` has the paper's.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from resadapt_jax.models.smolvlm.preprocess import DEFAULT_FILTER, FrameFilter
from resadapt_jax.typing import Array, Bool, Float, Int, UInt8


@struct.dataclass
class EncoderFeatures:
    """Frame and text features of a batch of prompts; masked-out entries may hold anything."""

    frames: Float[Array, "B F L D"]
    frame_mask: Bool[Array, "B F"]
    text: Float[Array, "B N D"]
    text_mask: Bool[Array, "B N"]


class FrozenEncoder(Protocol):
    """Turns frames and the query into features, without trainable parameters.

    A pure function of its arguments and of the encoder's own constants, safe under jit. A frame's
    features must not depend on padded frames or on the text, nor the text's on the frames.
    """

    @property
    def frame_width(self) -> int: ...
    @property
    def text_width(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...

    def encode(
        self,
        frames: UInt8[Array, "B F height width 3"],
        frame_mask: Bool[Array, "B F"],
        text_ids: Int[Array, "B N"],
        text_mask: Bool[Array, "B N"],
    ) -> EncoderFeatures: ...


@dataclass(frozen=True, kw_only=True)
class ThumbnailConfig:
    """Sizes in pixels of the square thumbnail and of its parts."""

    size: int = 56  # side of the thumbnail
    grid: int = 4  # cells per side; L = grid²
    cell_pixels: int = 2  # pixels per side that stand for a cell
    saturation_temperature: float = 0.1  # of the softmax over a cell's saturations, in [0, 1]

    def __post_init__(self):
        if self.size % (self.grid * self.cell_pixels):
            raise ValueError("the thumbnail must divide into cells, and a cell into its pixels")

    @property
    def num_tokens(self) -> int:
        """L, the tokens of a frame."""
        return self.grid**2

    @property
    def width(self) -> int:
        """D of the frame features: the cell's pixels and one pooled colour."""
        return 3 * self.cell_pixels**2 + 3


@dataclass(frozen=True, kw_only=True)
class SmolVLMEncoderConfig:
    """A SmolVLM2 as the frozen encoder, such as SmolVLM2-256M-Video-Instruct.

    It reads questions with its own tokenizer, whatever the backbone's is.
    """

    directory: str
    """Hugging Face directory of the checkpoint."""
    fingerprint: str = ""
    """Of the checkpoint's files; filled in when a run starts. If given, others are refused."""
    filter: FrameFilter = DEFAULT_FILTER
    """Of the frames' resize."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights and the features."""
    chunk_frames: int = 8
    """Frames encoded at once; bounds the memory."""
    cache_dir: str = ""
    """Where features of frames are kept for later epochs, runs and evaluations, F·L·D values a
    clip; if empty, each batch is encoded anew."""

    def __post_init__(self):
        if self.chunk_frames < 1:
            raise ValueError(f"chunk_frames must be at least 1, got {self.chunk_frames}")


@struct.dataclass
class ThumbnailEncoder:
    """Colour statistics of a thumbnail's cells, and rows of an embedding table for the text.

    Each frame is averaged to a small square and cut into grid² cells. A cell's token holds its
    lower-resolution pixels and Σ_i softmax_i(saturation_i / t) rgb_i over its thumbnail pixels, so
    that a small coloured thing is not averaged away. Tokens are standardised over the clip. The
    table is any frozen embedding, such as the backbone's; its rows are normalised.
    """

    text_table: Float[Array, "V D"]
    config: ThumbnailConfig = struct.field(pytree_node=False, default=ThumbnailConfig())

    @property
    def frame_width(self) -> int:
        """D of the frame features."""
        return self.config.width

    @property
    def text_width(self) -> int:
        """D of the text features."""
        return self.text_table.shape[1]

    @property
    def vocab_size(self) -> int:
        """Rows of the table."""
        return len(self.text_table)

    def encode(
        self,
        frames: UInt8[Array, "B F height width 3"],
        frame_mask: Bool[Array, "B F"],
        text_ids: Int[Array, "B N"],
        text_mask: Bool[Array, "B N"],
    ) -> EncoderFeatures:
        """See `FrozenEncoder`; frames [B F grid² 3·cell_pixels²+3], text [B N D], both float32."""
        tokens = cell_tokens(thumbnails(frames, self.config.size), self.config)
        text = normalise(jnp.take(self.text_table, text_ids, axis=0).astype(jnp.float32))
        return EncoderFeatures(
            frames=standardise(tokens, frame_mask),
            frame_mask=frame_mask,
            text=jnp.where(text_mask[:, :, None], text, 0.0),
            text_mask=text_mask,
        )


def thumbnails(
    frames: UInt8[Array, "B F height width 3"], size: int
) -> Float[Array, "B F size size 3"]:
    """Area average of each frame to size × size, values in [0, 1]; the aspect is not kept."""
    rows = area_weights(frames.shape[2], size)
    cols = area_weights(frames.shape[3], size)
    pixels = frames.astype(jnp.float32) / 255.0
    return jnp.einsum("yh,BFhwc,xw->BFyxc", rows, pixels, cols)


def area_weights(size_in: int, size_out: int) -> np.ndarray:
    """[size_out, size_in]: the share of each input pixel in each output pixel's interval."""
    edges = np.arange(size_out + 1) * (size_in / size_out)
    start, end = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size_in)[None, :]
    overlap = np.minimum(end, pixel + 1.0) - np.maximum(start, pixel)
    return (np.maximum(overlap, 0.0) / (end - start)).astype(np.float32)


def cell_tokens(
    images: Float[Array, "B F size size 3"], config: ThumbnailConfig
) -> Float[Array, "B F L D"]:
    """Per cell: its mean colours on a cell_pixels² grid, and its saturation-weighted colour."""
    batch, frames = images.shape[:2]
    grid, pixels = config.grid, config.cell_pixels
    step = config.size // (grid * pixels)
    x = images.reshape(batch, frames, grid, pixels, step, grid, pixels, step, 3)
    x = jnp.einsum("BFgpsGPSc->BFgGpPsSc", x).reshape(batch, frames, grid**2, pixels**2, -1, 3)
    means = x.mean(axis=4).reshape(batch, frames, grid**2, -1)
    x = x.reshape(batch, frames, grid**2, -1, 3)
    saturation = x.max(axis=-1) - x.min(axis=-1)
    weights = jax.nn.softmax(saturation / config.saturation_temperature, axis=-1)
    colour = jnp.einsum("BFLn,BFLnc->BFLc", weights, x)
    return jnp.concatenate([means, colour], axis=-1)


def standardise(
    tokens: Float[Array, "B F L D"], frame_mask: Bool[Array, "B F"]
) -> Float[Array, "B F L D"]:
    """Zero mean and unit variance of each feature over a clip's valid tokens; 0 where padded."""
    mask = frame_mask[:, :, None, None]
    count = jnp.maximum(frame_mask.sum(axis=1) * tokens.shape[2], 1)[:, None, None, None]

    def clip_mean(x):
        return jnp.where(mask, x, 0.0).sum(axis=(1, 2), keepdims=True) / count

    centred = tokens - clip_mean(tokens)
    # Constant features stay 0 instead of amplifying rounding noise.
    scaled = centred * jax.lax.rsqrt(clip_mean(jnp.square(centred)) + 1e-4)
    return jnp.where(mask, scaled, 0.0)


def normalise(vectors: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Layer norm without parameters: each vector to zero mean and unit variance."""
    centred = vectors - vectors.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + 1e-6)
