"""What a run leaves behind: the trained allocator, and the trained backbone as HF directory."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from resadapt_jax.allocator import ThumbnailEncoder
from resadapt_jax.allocator.checkpoint import (
    TrainedAllocator,
    TrainedAllocatorConfig,
    save_allocator,
)
from resadapt_jax.allocator.smolvlm_encoder import SmolVLMEncoder
from resadapt_jax.models.families import family_of
from resadapt_jax.training.encoder import source_of
from resadapt_jax.training.mesh import is_first_process, to_host
from resadapt_jax.training.state import TrainState, merge_params
from resadapt_jax.training.step import Frozen, Trainer


def export(
    trainer: Trainer,
    state: TrainState,
    frozen: Frozen,
    encoder: ThumbnailEncoder | SmolVLMEncoder,
    query_tokenizer: PreTrainedTokenizerBase,
) -> list[Path]:
    """Writes the trained parts to ``allocator`` and ``backbone`` in the run's folder.

    Returns:
        Those that were written, the allocator first.
    """
    config, backbone = trainer.config, trainer.backbone
    allocator_dir, backbone_dir = (Path(config.output_dir) / n for n in ("allocator", "backbone"))
    written = [] if state.allocator is None else [allocator_dir]
    if state.backbone is not None:
        written.append(backbone_dir)
        whole = to_host(merge_params(state.backbone.params, frozen.backbone))
        if is_first_process():
            checkpoint = family_of(backbone.config).checkpoint
            checkpoint.save_hf(backbone_dir, backbone.config, whole)
            backbone.tokenizer.save_pretrained(backbone_dir)
    if state.allocator is None:
        return written
    if isinstance(encoder, ThumbnailEncoder):  # its words are saved with the allocator
        encoder = to_host(encoder)
    trained = TrainedAllocator(
        config=TrainedAllocatorConfig(
            network=config.allocator,
            encoder=source_of(config.encoder, encoder),
            vocab_size=encoder.vocab_size,
            scale_range=config.scale_range,
        ),
        params=to_host(state.allocator.params),
        encoder=encoder,
        tokenizer=query_tokenizer,
    )
    if is_first_process():
        save_allocator(allocator_dir, trained)
    return written
