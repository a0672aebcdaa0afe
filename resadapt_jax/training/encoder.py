"""The frozen encoder of a run: opened as its config says, and applied once per prompt."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from transformers import PreTrainedTokenizerBase

from resadapt_jax.allocator import (
    EncoderFeatures,
    SmolVLMEncoderConfig,
    ThumbnailConfig,
    ThumbnailEncoder,
)
from resadapt_jax.allocator.feature_cache import CacheSettings, FeatureCache
from resadapt_jax.allocator.prompt_rows import VisualEntry, plan_rows
from resadapt_jax.allocator.smolvlm_encoder import (
    SmolVLMEncoder,
    SmolVLMSource,
    encode_prompts,
    load_smolvlm_encoder,
    name_source,
)
from resadapt_jax.data.toy_world import FRAMES_PER_SECOND, ToyWorldConfig
from resadapt_jax.generation.backbone import Backbone
from resadapt_jax.models.families import family_of
from resadapt_jax.typing import Array, Bool, Int, UInt8


def open_encoder(
    config: ThumbnailConfig | SmolVLMEncoderConfig, backbone: Backbone
) -> tuple[ThumbnailEncoder | SmolVLMEncoder, PreTrainedTokenizerBase]:
    """The encoder, and the tokenizer of the questions that it reads.

    The thumbnail's words are the backbone's, embeddings and tokenizer.

    Raises:
        UserError: as `load_smolvlm_encoder`.
    """
    if isinstance(config, ThumbnailConfig):
        every_id = jnp.arange(backbone.config.text.vocab_size)
        text_table = family_of(backbone.config).text.embed_tokens(backbone.params, every_id)
        return ThumbnailEncoder(text_table=text_table, config=config), backbone.tokenizer
    return load_smolvlm_encoder(
        config.directory,
        filter=config.filter,
        dtype=config.dtype,
        chunk_frames=config.chunk_frames,
        fingerprint=config.fingerprint,
    )


def source_of(
    config: ThumbnailConfig | SmolVLMEncoderConfig, encoder: ThumbnailEncoder | SmolVLMEncoder
) -> ThumbnailConfig | SmolVLMSource:
    """What a trained allocator records of the encoder that was opened by ``config``."""
    if isinstance(config, ThumbnailConfig):
        return config
    return name_source(config.directory, encoder)


def open_cache(
    config: ThumbnailConfig | SmolVLMEncoderConfig,
    encoder: ThumbnailEncoder | SmolVLMEncoder,
    world: ToyWorldConfig,
) -> FeatureCache | None:
    """The features on disk of an opened encoder, if the config names a folder for them.

    Raises:
        UserError: as `FeatureCache`.
    """
    if isinstance(config, ThumbnailConfig) or not config.cache_dir:
        return None
    settings = CacheSettings(
        fingerprint=encoder.fingerprint,
        preprocess=encoder.preprocess,
        dtype=str(encoder.dtype),
        fps=FRAMES_PER_SECOND,
        max_frames=world.num_frames,
    )
    return FeatureCache(config.cache_dir, settings)


def encode_clips(
    encoder: ThumbnailEncoder | SmolVLMEncoder,
    frames: UInt8[np.ndarray, "B F height width 3"],
    query_ids: Int[np.ndarray, "B N"],
    query_mask: Bool[np.ndarray, "B N"],
    cache: FeatureCache | None = None,
) -> EncoderFeatures:
    """The allocator's input for prompts of one video each; what is in the cache is not encoded."""
    if isinstance(encoder, ThumbnailEncoder):
        return _encode(encoder, frames, jnp.ones(frames.shape[:2], bool), query_ids, query_mask)
    rows = plan_rows([[VisualEntry(kind="video", num_frames=frames.shape[1])]] * len(frames))
    videos = [[video] for video in np.asarray(frames)]
    return encode_prompts(encoder, rows, videos, query_ids, query_mask, cache)


_encode = jax.jit(ThumbnailEncoder.encode)


@struct.dataclass
class Encoded:
    """Features made ahead, in the place of the encoder of a jitted step."""

    features: EncoderFeatures

    def encode(
        self,
        frames: UInt8[Array, "B F height width 3"],
        frame_mask: Bool[Array, "B F"],
        text_ids: Int[Array, "B N"],
        text_mask: Bool[Array, "B N"],
    ) -> EncoderFeatures:
        """The features, whatever is asked: they are of this very batch."""
        return self.features


def encode_ahead(
    encoder: ThumbnailEncoder | SmolVLMEncoder,
    frames: UInt8[np.ndarray, "B F height width 3"],
    query_ids: Int[np.ndarray, "B N"],
    query_mask: Bool[np.ndarray, "B N"],
    cache: FeatureCache | None = None,
) -> ThumbnailEncoder | Encoded:
    """What a jitted step takes for its encoder: the thumbnail as it is, being cheap, or features.

    Features of a SmolVLM2 come from the host, where the cache is.
    """
    if isinstance(encoder, ThumbnailEncoder):
        return encoder
    return Encoded(encode_clips(encoder, frames, query_ids, query_mask, cache))


def describe_parameters(trained: int, encoder: ThumbnailEncoder | SmolVLMEncoder) -> str:
    """``allocator: 47.9 M parameters trained, 228 M of its encoder frozen``."""
    frozen = sum(leaf.size for leaf in jax.tree.leaves(encoder))
    return (
        f"allocator: {trained / 1e6:.3g} M parameters trained, "
        f"{frozen / 1e6:.3g} M of its encoder frozen"
    )
