"""The frozen encoder of a run: opened as its config says, and applied once per prompt."""

from dataclasses import fields
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerBase

from resadapt_jax.allocator import (
    EncoderFeatures,
    Pictures,
    SmolVLMEncoderConfig,
    ThumbnailConfig,
    ThumbnailEncoder,
)
from resadapt_jax.allocator.checkpoint import load_allocator, read_config
from resadapt_jax.allocator.feature_cache import CacheSettings, FeatureCache
from resadapt_jax.allocator.smolvlm_encoder import (
    SmolVLMEncoder,
    SmolVLMSource,
    encode_pictures,
    load_smolvlm_encoder,
    mesh_of,
    name_source,
)
from resadapt_jax.errors import UserError
from resadapt_jax.generation.backbone import Backbone
from resadapt_jax.models.families import family_of
from resadapt_jax.training.mesh import put_batch, put_replicated
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.setting import Geometry
from resadapt_jax.typing import Bool, Int


def open_encoder(
    config: ThumbnailConfig | SmolVLMEncoderConfig, backbone: Backbone
) -> tuple[ThumbnailEncoder | SmolVLMEncoder, PreTrainedTokenizerBase]:
    """The encoder, and the tokenizer of the questions that it reads.

    The thumbnail's words are the backbone's, embeddings and tokenizer. A SmolVLM2 lies whole on
    each of this process's devices that the backbone lies on.

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
        mesh=mesh_of(jax.tree.leaves(backbone.params)[0].sharding.addressable_devices),
        chunk_frames=config.chunk_frames,
        fingerprint=config.fingerprint,
    )


def open_words(
    config: ThumbnailConfig, directory: str | Path, mesh: Mesh
) -> tuple[ThumbnailEncoder, PreTrainedTokenizerBase]:
    """The thumbnail of the allocator at ``directory``, to go on training it.

    Its words are its own: the backbone may be another than it was trained with, or have learnt.

    Raises:
        UserError: as `load_allocator` and `check_encoder`.
    """
    check_encoder(config, read_config(directory).encoder, directory)
    saved = load_allocator(directory)
    return put_replicated(saved.encoder, mesh), saved.tokenizer


def source_of(
    config: ThumbnailConfig | SmolVLMEncoderConfig, encoder: ThumbnailEncoder | SmolVLMEncoder
) -> ThumbnailConfig | SmolVLMSource:
    """What a trained allocator records of the encoder that was opened by ``config``."""
    if isinstance(config, ThumbnailConfig):
        return config
    return name_source(config.directory, encoder)


def check_encoder(
    asked: ThumbnailConfig | SmolVLMEncoderConfig,
    known: ThumbnailConfig | SmolVLMSource,
    directory: str | Path,
) -> None:
    """Refuses to show an allocator other features than those that it was trained with.

    Args:
        asked: a run's; a fingerprint that is empty is any checkpoint's.
        known: what the allocator at ``directory`` records.

    Raises:
        UserError: says which setting differs.
    """
    if isinstance(asked, ThumbnailConfig) != isinstance(known, ThumbnailConfig):
        raise UserError(f"{directory} was trained with another encoder, not {type(asked).__name__}")
    if isinstance(known, ThumbnailConfig):
        names = [field.name for field in fields(known)]
        pairs = {name: (getattr(asked, name), getattr(known, name)) for name in names}
    else:
        pairs = {
            "filter": (asked.filter, known.preprocess.filter),
            "dtype": (asked.dtype, known.dtype),
        }
        if asked.fingerprint not in ("", known.fingerprint):
            raise UserError(
                f"{directory} was trained with another checkpoint than that of encoder.fingerprint"
            )
    for name, (now, then) in pairs.items():
        if now != then:
            raise UserError(f"encoder.{name} is {now}, the allocator was trained with {then}")


def open_cache(
    config: ThumbnailConfig | SmolVLMEncoderConfig,
    encoder: ThumbnailEncoder | SmolVLMEncoder,
    fps: float,
    max_frames: int,
) -> FeatureCache | None:
    """The features on disk of an opened encoder, if the config names a folder for them.

    Args:
        fps, max_frames: how the frames were sampled.

    Raises:
        UserError: as `FeatureCache`.
    """
    if isinstance(config, ThumbnailConfig) or not config.cache_dir:
        return None
    settings = CacheSettings(
        fingerprint=encoder.fingerprint,
        preprocess=encoder.preprocess,
        dtype=str(encoder.dtype),
        fps=fps,
        max_frames=max_frames,
    )
    return FeatureCache(config.cache_dir, settings)


def encode(
    encoder: ThumbnailEncoder | SmolVLMEncoder,
    pictures: Pictures,
    query_ids: Int[np.ndarray, "B N"],
    query_mask: Bool[np.ndarray, "B N"],
    cache: FeatureCache | None = None,
) -> EncoderFeatures:
    """The allocator's input for a batch on the host; what is in the cache is not encoded."""
    if isinstance(encoder, ThumbnailEncoder):
        return _encode(encoder, pictures, query_ids, query_mask)
    return encode_pictures(encoder, pictures, query_ids, query_mask, cache)


_encode = jax.jit(ThumbnailEncoder.encode)


def encode_batch(
    encoder: ThumbnailEncoder | SmolVLMEncoder,
    local: PromptBatch,
    batch: PromptBatch,
    geometry: Geometry,
    mesh: Mesh,
    cache: FeatureCache | None = None,
) -> EncoderFeatures:
    """`encode` of a batch on a mesh; each prompt is encoded once.

    The thumbnail is made on the mesh. Features of a SmolVLM2 come from the host, where the cache
    is: every process makes those of its own rows.

    Args:
        local: the batch's rows of this process, on the host.
    """
    if isinstance(encoder, ThumbnailEncoder):
        return _encode(encoder, geometry.pictures(batch), batch.query_ids, batch.query_mask)
    features = encode_pictures(
        encoder, geometry.pictures(local), local.query_ids, local.query_mask, cache
    )
    return put_batch(jax.device_get(features), mesh)
