"""Any timm model as a frozen encoder, from a local checkpoint; its preprocessing is part of it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ude_core.batching import pass_limit
from ude_core.encoders.execution import Execution, Running, memory_format
from ude_core.encoders.folding import fold_batch_norms, fold_gray
from ude_core.encoders.skip_gradient import damped
from ude_core.errors import SettingError
from ude_core.storage import digest, sha256_file
from ude_core.types import Embeddings, Pixels, Precision

BATCH_SIZES = {"cpu": 16, "cuda": 256}
"""Images a pass by device: on one thread torch gives oneDNN no 1 x 1 convolution of fewer than 16."""


class FrozenNetwork:
    """φ from a network in this process: eval mode, never trained, batch norms folded.

    One gray channel is repeated to `channels`, then normalised by `mean` and `std` (pixel units).
    The fingerprint changes with a precision that is not float32; compiled, or in other batches,
    embeddings differ by rounding alone, as between machines.
    """

    differentiable = True

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        image_size: int,
        mean: float,
        std: float,
        channels: int,
        identity: Sequence[object],
        **running: Unpack[Running],
    ) -> None:
        """`identity` says which weights in which architecture: the rest of the fingerprint."""
        precision, compiled = running.get("precision", "float32"), running.get("compile", False)
        self._network = network
        self.device = torch.device(running.get("device", "cpu"))
        self._network.eval().requires_grad_(False)
        probe = torch.rand(2, channels, image_size, image_size, generator=_probe_rng())
        self._network = fold_batch_norms(self._network, probe)
        self._channels = fold_gray(self._network, channels, probe[:, :1])
        self._network.to(self.device)
        self._format = memory_format(self._network)
        self._network.to(memory_format=self._format)
        self.name = name
        self.image_size = image_size
        self.batch_size = running.get("batch_size") or BATCH_SIZES.get(self.device.type, 32)
        self.execution = f"{precision}{' compiled' if compiled else ''}"
        self._mean, self._std = mean, std
        self._precision: Precision = precision
        self._run = Execution(self._forward, self.device, precision=precision, compiled=compiled)
        self.embedding_dim = int(self._network.num_features)  # type: ignore[arg-type]
        how = () if precision == "float32" else (precision,)
        self.fingerprint = digest(*identity, image_size, mean, std, channels, *how)

    def encode(self, pixels: Pixels) -> Embeddings:
        """Return φ(pixels), shape (images, embedding_dim), float32. One query an image."""
        return self._run(pixels, pass_limit(self))

    def network_copy(self) -> nn.Module:
        """Return φ as a module of its own, pixels in and embeddings out, its weights free to learn."""
        return _Standing(self)

    def with_skip_gradient(self, share: float) -> FrozenNetwork | None:
        """Return φ on the same weights, with gradients of which `share` passes a residual branch.

        None where the network has no residual branches that are known.
        """
        network = damped(self._network, share)
        if network is None:
            return None
        made = copy.copy(self)
        made._network = network
        made._run = Execution(made._forward, self.device, precision=self._precision)
        made.fingerprint = digest(self.fingerprint, "skip gradient", share)
        return made

    def _forward(self, pixels: Pixels) -> Tensor:
        normalized = (pixels - self._mean) / self._std
        images = normalized.expand(-1, self._channels, -1, -1)
        embeddings: Tensor = self._network(images.contiguous(memory_format=self._format))
        return embeddings


class _Standing(nn.Module):
    """A copy of a frozen network with its preprocessing, on the CPU in float32."""

    def __init__(self, frozen: FrozenNetwork) -> None:
        super().__init__()
        self.network = copy.deepcopy(frozen._network).cpu().requires_grad_(True)
        self._mean, self._std = frozen._mean, frozen._std
        self._channels, self._format = frozen._channels, frozen._format

    def forward(self, pixels: Pixels) -> Tensor:
        normalized = (pixels - self._mean) / self._std
        images = normalized.expand(-1, self._channels, -1, -1)
        embeddings: Tensor = self.network(images.contiguous(memory_format=self._format))
        return embeddings


class TimmEncoder(FrozenNetwork):
    """φ from `timm.create_model(model, num_classes=0)`, loaded strictly."""

    def __init__(
        self,
        model: str,
        checkpoint: Path,
        *,
        image_size: int = 224,
        mean: float = 0.5,
        std: float = 0.5,
        channels: int = 3,
        model_options: Mapping[str, Any] | None = None,
        **running: Unpack[Running],
    ) -> None:
        """Raises SettingError where timm has no such model or the checkpoint does not fit it."""
        options = dict(model_options or {})
        if model not in timm.list_models():
            near = timm.list_models(f"*{model.split('_', maxsplit=1)[0]}*")[:5]
            raise SettingError(
                f"encoder.model is '{model}' (expected a timm model); near it: {', '.join(near)}"
            )
        network: nn.Module = timm.create_model(model, num_classes=0, in_chans=channels, **options)
        _load_strict(network, read_checkpoint(checkpoint), checkpoint)
        super().__init__(
            network,
            name=model,
            image_size=image_size,
            mean=mean,
            std=std,
            channels=channels,
            identity=("timm", model, options, sha256_file(checkpoint)),
            **running,
        )


def read_checkpoint(path: Path, safe: Sequence[type] = ()) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of a .pth read with `weights_only`.

    A .pth may hold the state dict itself or under `model` or `state_dict`; beside it, plain values,
    and objects of the `safe` classes alone.
    Raises SettingError where the file is missing or is neither.
    """
    if not path.is_file():
        raise SettingError(f"encoder.checkpoint is '{path}': no such file; give a local checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(list(safe)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise SettingError(
            f"encoder.checkpoint is '{path}': it cannot be read as tensors: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise SettingError(
            f"encoder.checkpoint is '{path}': it holds no state dict (expected tensors by name, "
            "or those under 'model' or 'state_dict')"
        )
    return content


def _probe_rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _load_strict(network: nn.Module, tensors: Mapping[str, Tensor], checkpoint: Path) -> None:
    try:
        network.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise SettingError(
            f"encoder.checkpoint is '{checkpoint}': its tensors do not fit the model: {reason[:300]}"
        ) from error
