"""One noise as an MLflow model: 8-bit gray images in, edited 8-bit images out.

MLflow runs this very file when the model is loaded ("models from code"): nothing is unpickled. It
stands alone, so that a server needs numpy, safetensors and MLflow, and neither torch nor this
package. The arithmetic is that of `ude_core.noise.apply_noise` (`deploy`), bit for bit.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

_LEVELS = np.float32(255.0)
_AT_ONCE = 64


class UniversalEdit(PythonModel):
    """Adds the noise of the bundle among its artefacts, clamps to [0, 1] and rounds to 8 bits."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the bundle. Raises ValueError where a byte of its manifest or noise was changed."""
        self._noise = _verified_noise(Path(context.artifacts["bundle"]))

    def predict(
        self,
        context: PythonModelContext,
        model_input: np.ndarray,  # MLflow warns of any other hint
        params: dict[str, Any] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Return the edited images, uint8 [images, height, width], as they came.

        Raises ValueError for images of another type or size than the noise was learnt for.
        """
        images = np.asarray(model_input)
        height, width = self._noise.shape
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (height, width):
            raise ValueError(
                f"images are {images.dtype} {list(images.shape)}; this noise was made for uint8 "
                f"[images, {height}, {width}]: resize as the study did"
            )
        edited = np.empty_like(images)
        for start in range(0, len(images), _AT_ONCE):
            chunk = images[start : start + _AT_ONCE].astype(np.float32) / _LEVELS
            clamped = np.clip(chunk + self._noise, np.float32(0), np.float32(1))
            edited[start : start + _AT_ONCE] = np.rint(clamped * _LEVELS).astype(np.uint8)
        return edited


def _verified_noise(folder: Path) -> npt.NDArray[np.float32]:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    stated = manifest.pop("sha256", None)
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=True) + "\n"
    if stated != hashlib.sha256(text.encode()).hexdigest():
        raise ValueError(f"{path} was altered: its sha256 is not its own")
    raw = (folder / "noise.safetensors").read_bytes()
    if hashlib.sha256(raw).hexdigest() != manifest["files"]["noise.safetensors"]:
        raise ValueError(f"{folder / 'noise.safetensors'} was altered: not the manifest's sha256")
    noise: npt.NDArray[np.float32] = safetensors.numpy.load(raw)["noise"][0]
    return noise


set_model(UniversalEdit())
