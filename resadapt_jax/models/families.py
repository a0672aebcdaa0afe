"""The families of backbones, and the one place that tells them apart."""

from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from jax.sharding import Mesh
from jax.typing import DTypeLike

from resadapt_jax.errors import UserError
from resadapt_jax.models import hf
from resadapt_jax.models.partition import PartitionTable
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.models.qwen2_5_vl import checkpoint as qwen2_5_vl_checkpoint
from resadapt_jax.models.qwen2_5_vl import model as qwen2_5_vl_model
from resadapt_jax.models.qwen2_5_vl import text as qwen2_5_vl_text
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig
from resadapt_jax.models.qwen2_5_vl.partition import PARTITION as qwen2_5_vl_partition
from resadapt_jax.models.qwen3_vl import checkpoint as qwen3_vl_checkpoint
from resadapt_jax.models.qwen3_vl import model as qwen3_vl_model
from resadapt_jax.models.qwen3_vl import text as qwen3_vl_text
from resadapt_jax.models.qwen3_vl.config import Qwen3VLConfig
from resadapt_jax.models.qwen3_vl.partition import PARTITION as qwen3_vl_partition
from resadapt_jax.typing import Params

ModelConfig = Qwen2_5VLConfig | Qwen3VLConfig
"""The architecture of a whole model of any family."""


class Family(NamedTuple):
    """The modules of a family, whose functions have the same names and meaning in all of them.

    Attributes:
        model: ``encode_visual`` gives one row per merged token, whose meaning is the family's own;
            ``embed_prompt`` places such rows among the text and ``run_decoder`` runs over what it
            gives, or over a part of it; also ``forward``, ``param_shapes`` and ``init_params``.
        text: ``embed_tokens``, ``forward`` and ``logits``, for text alone.
        checkpoint: ``read_config``, ``load_hf`` and ``save_hf``.
        partition: where its parameters live on a mesh.
    """

    model: ModuleType
    text: ModuleType
    checkpoint: ModuleType
    partition: PartitionTable


_QWEN2_5_VL = Family(qwen2_5_vl_model, qwen2_5_vl_text, qwen2_5_vl_checkpoint, qwen2_5_vl_partition)
_QWEN3_VL = Family(qwen3_vl_model, qwen3_vl_text, qwen3_vl_checkpoint, qwen3_vl_partition)
_BY_CONFIG = {Qwen2_5VLConfig: _QWEN2_5_VL, Qwen3VLConfig: _QWEN3_VL}
_BY_MODEL_TYPE = {"qwen2_5_vl": _QWEN2_5_VL, "qwen3_vl": _QWEN3_VL}


def family_of(config: ModelConfig) -> Family:
    """The family that a config belongs to."""
    return _BY_CONFIG[type(config)]


def check_convention(convention: Convention, config: ModelConfig) -> None:
    """Refuses positions that a family does not have.

    Raises:
        UserError: pairs that share an anchor, of a model that is not a Qwen2.5-VL.
    """
    if convention.shares_anchor and not isinstance(config, Qwen2_5VLConfig):
        raise UserError(
            f"convention {convention.value} numbers the pairs of a Qwen2.5-VL; other backbones "
            "take hf-4.57, hf-5 or vllm"
        )


def load_hf(
    directory: str | Path, dtype: DTypeLike | None = None, mesh: Mesh | None = None
) -> tuple[ModelConfig, Params]:
    """Reads a model of whichever family ``config.json`` names.

    Args:
        directory: ``config.json`` and one or many safetensors files.
        dtype: cast the weights to it; ``None`` keeps the file's.
        mesh: where the tensors go, by the family's partition table.

    Raises:
        UserError: a family that is not supported; or what the family's own ``load_hf`` raises.
    """
    return _family_in(directory).checkpoint.load_hf(directory, dtype, mesh)


def read_config(directory: str | Path) -> ModelConfig:
    """The architecture of whichever family ``config.json`` names; weights are not read.

    Raises:
        UserError: a family that is not supported, or a config that is not one of its own.
    """
    return _family_in(directory).checkpoint.read_config(directory)


def _family_in(directory: str | Path) -> Family:
    model_type = hf.read_config(directory).get("model_type")
    if not isinstance(model_type, str) or model_type not in _BY_MODEL_TYPE:
        supported = ", ".join(_BY_MODEL_TYPE)
        raise UserError(f"{directory}: model_type is {model_type!r}, supported are {supported}")
    return _BY_MODEL_TYPE[model_type]
