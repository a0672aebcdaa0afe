"""What the allocator sees: features of a frozen encoder, computed once per prompt.

The network takes the features of any encoder that fits `FrozenEncoder`; a run knows how to open
two (`training.encoder`). `ThumbnailEncoder` is the one without weights, for the embedded world and
for tests; `smolvlm_encoder` has the paper's.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from resadapt_jax.models.smolvlm.preprocess import DEFAULT_FILTER, FrameFilter
from resadapt_jax.operators import NativeSizes, SizeLimits
from resadapt_jax.typing import Array, Bool, Float, Int, UInt8


@struct.dataclass
class Pictures:
    """The frames of a batch of prompts; masked-out ones may hold anything.

    Attributes:
        frames: each with its picture in the top left corner.
        mask: frames that exist.
        segment_ids: what is seen together: all videos of a prompt are one segment, each image is
            another. A segment begins at a whole pair.
        native: how large each frame's picture is.
    """

    frames: UInt8[Array, "B F height width 3"]
    mask: Bool[Array, "B F"]
    segment_ids: Int[Array, "B F"]
    native: NativeSizes

    @classmethod
    def of_videos(cls, frames: UInt8[Array, "B F height width 3"]) -> "Pictures":
        """One whole video a prompt, which fills its frames."""
        shape = frames.shape[:2]
        zeros = np.zeros(shape, np.int32)
        native = NativeSizes(index=zeros, sizes=(frames.shape[2:4],), limits=SizeLimits())
        return cls(frames=frames, mask=np.ones(shape, bool), segment_ids=zeros, native=native)


@struct.dataclass
class EncoderFeatures:
    """Frame and text features of a batch of prompts; masked-out entries may hold anything."""

    frames: Float[Array, "B F L D"]
    frame_mask: Bool[Array, "B F"]
    segment_ids: Int[Array, "B F"]  # as in `Pictures`
    text: Float[Array, "B N D"]
    text_mask: Bool[Array, "B N"]


class FrozenEncoder(Protocol):
    """Turns frames and the query into features, without trainable parameters.

    A pure function of its arguments and of the encoder's own constants, safe under jit. A frame's
    features must not depend on padded frames, other segments or the text, nor the text's on the
    frames.
    """

    @property
    def frame_width(self) -> int: ...
    @property
    def text_width(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...

    def encode(
        self,
        pictures: Pictures,
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
    that a small coloured thing is not averaged away. Tokens are standardised over a segment. The
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
        pictures: Pictures,
        text_ids: Int[Array, "B N"],
        text_mask: Bool[Array, "B N"],
    ) -> EncoderFeatures:
        """See `FrozenEncoder`; frames [B F grid² 3·cell_pixels²+3], text [B N D], both float32."""
        tokens = cell_tokens(thumbnails(pictures, self.config.size), self.config)
        text = normalise(jnp.take(self.text_table, text_ids, axis=0).astype(jnp.float32))
        return EncoderFeatures(
            frames=standardise(tokens, pictures.mask, pictures.segment_ids),
            frame_mask=pictures.mask,
            segment_ids=pictures.segment_ids,
            text=jnp.where(text_mask[:, :, None], text, 0.0),
            text_mask=text_mask,
        )


def thumbnails(pictures: Pictures, size: int) -> Float[Array, "B F size size 3"]:
    """Area average of each frame to size × size, values in [0, 1]; the aspect is not kept."""
    height, width = pictures.frames.shape[2:4]
    native = pictures.native.over(pictures.mask.shape)
    rows = area_weights(native.heights, height, size)
    cols = area_weights(native.widths, width, size)
    pixels = pictures.frames.astype(jnp.float32) / 255.0
    return jnp.einsum("BFyh,BFhwc,BFxw->BFyxc", rows, pixels, cols)


def area_weights(
    sizes_in: Int[Array, "*B"], most: int, size_out: int
) -> Float[Array, "*B size_out most"]:
    """The share of each input pixel in each output pixel's interval; 0 for pixels beyond."""
    size = sizes_in[..., None, None]
    lead = (1,) * sizes_in.ndim
    interval = jnp.arange(size_out).reshape(*lead, size_out, 1)
    pixel = jnp.arange(most).reshape(*lead, 1, most)
    # In units of 1 / size_out pixel all edges are integers.
    start, end = interval * size, (interval + 1) * size
    overlap = jnp.minimum(end, (pixel + 1) * size_out) - jnp.maximum(start, pixel * size_out)
    return jnp.maximum(overlap, 0).astype(jnp.float32) / size.astype(jnp.float32)


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
    tokens: Float[Array, "B F L D"],
    frame_mask: Bool[Array, "B F"],
    segment_ids: Int[Array, "B F"],
) -> Float[Array, "B F L D"]:
    """Zero mean and unit variance of each feature over a segment's valid tokens; 0 where padded."""
    mask = frame_mask[:, :, None, None]
    together = (segment_ids[:, :, None] == segment_ids[:, None, :]) & frame_mask[:, None, :]
    count = jnp.maximum(together.sum(axis=2) * tokens.shape[2], 1)[:, :, None, None]

    def segment_mean(x):
        of_frames = jnp.where(mask, x, 0.0).sum(axis=2)
        sums = jnp.einsum("BFG,BGD->BFD", together.astype(x.dtype), of_frames, precision="highest")
        return sums[:, :, None, :] / count

    centred = tokens - segment_mean(tokens)
    # Constant features stay 0 instead of amplifying rounding noise.
    scaled = centred * jax.lax.rsqrt(segment_mean(jnp.square(centred)) + 1e-4)
    return jnp.where(mask, scaled, 0.0)


def normalise(vectors: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Layer norm without parameters: each vector to zero mean and unit variance."""
    centred = vectors - vectors.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + 1e-6)
