"""Features of a frozen encoder on disk, so that an epoch after the first need not encode.

One directory serves one way of making features; one file holds the features of one segment: the
frames of a prompt's videos, joined in time, or an image.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.flax import save

from resadapt_jax.config import differences, to_json
from resadapt_jax.errors import UserError
from resadapt_jax.files import atomic_write, is_temporary, write_if_absent
from resadapt_jax.models.smolvlm.preprocess import PreprocessConfig
from resadapt_jax.typing import Array

_SETTINGS = "settings.json"


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """What features depend on besides the content that was encoded.

    Attributes:
        fingerprint: of the encoder's checkpoint (`smolvlm_encoder.checkpoint_fingerprint`).
        preprocess: how a frame becomes the encoder's pixels.
        dtype: of the encoder's weights.
        fps: frames sampled per second; ``None`` spreads ``max_frames`` over any clip.
        max_frames: of a clip.
    """

    fingerprint: str
    preprocess: PreprocessConfig
    dtype: str
    fps: float | None
    max_frames: int


class FeatureCache:
    """A directory of features. Several processes may share it: files appear whole or not at all."""

    def __init__(self, directory: str | Path, settings: CacheSettings):
        """Opens the cache, or starts it if there is nothing at ``directory``.

        Raises:
            UserError: it was made by other settings, which are named; or it is no cache and
                cannot become one.
        """
        self.directory = Path(directory)
        path = self.directory / _SETTINGS
        try:
            if not path.exists():
                self._start(settings)
            saved = path.read_bytes()  # another process may have been first to write it
        except OSError as error:
            raise UserError(f"cannot keep features in {directory}: {error.strerror}") from error
        try:
            changed = differences(saved.decode(), settings)
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}") from error
        if changed:
            raise UserError(
                f"the features in {directory} were made by other settings"
                f" ({'; '.join(changed)}); choose another directory"
            )

    def _start(self, settings: CacheSettings) -> None:
        path = self.directory / _SETTINGS
        found = self.directory.iterdir() if self.directory.exists() else ()
        foreign = any(not is_temporary(entry) for entry in found)
        # Another process that starts the cache writes the settings before anything else.
        if foreign and not path.exists():
            raise UserError(f"{self.directory} is not empty and holds no {_SETTINGS}")
        write_if_absent(path, to_json(settings))

    def read(self, key: str) -> Array | None:
        """The features under ``key``, bit for bit as they were written; ``None`` if there are none.

        Raises:
            UserError: the file is damaged or belongs to another key.
        """
        path = self._path(key)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="flax") as file:
                features, metadata = file.get_tensor("features"), file.metadata()
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} cannot be read ({error}); delete it") from error
        if metadata != {"key": key, "content": content_key(features)}:
            raise UserError(f"{path} does not hold what was written to it; delete it")
        return features

    def write(self, key: str, features: Array) -> None:
        """Stores features under ``key``, in place of what was there."""
        metadata = {"key": key, "content": content_key(features)}
        data = save({"features": jnp.asarray(features)}, metadata=metadata)
        atomic_write(self._path(key), data)

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key}.safetensors"


def content_key(*arrays: Array | np.ndarray) -> str:
    """SHA-256 over the dtypes, shapes and bytes of arrays, such as a clip's sampled frames."""
    digest = hashlib.sha256()
    for array in map(np.asarray, arrays):
        digest.update(f"{array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()
