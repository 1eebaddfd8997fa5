"""The features of the usual FID: Inception-v3 by torch-fidelity, with weights from a local file.

The library is not among distgen's own dependencies, because it brings torchvision, which has no
build beside a CPU build of torch. Where it is installed, it does all that makes a FID the usual
one: the network of 2015 with its own pooling, and TensorFlow's way to resize.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from distgen.core.errors import DataError, UsageError
from distgen.core.storage import sha256_of

WEIGHTS_VARIABLE = "DISTGEN_INCEPTION_WEIGHTS"
"""Environment variable that names the weights' file where a job file does not."""
WEIGHTS_NAME = "pt_inception-2015-12-05-6726825d.pth"
"""What pytorch-fid and torch-fidelity call the weights that FIDs are reported with."""
STANDARD_PREFIX = "6726825d"
"""Start of these weights' SHA-256."""
FEATURES = 2048

_LIBRARY = "torch_fidelity.feature_extractor_inceptionv3"
_CPU_BATCH, _GPU_BATCH = 16, 128


def weights_file(configured: str | None) -> Path:
    """The weights' file that a job file or the environment names.

    Raises:
        UsageError: Neither names one, or there is no such file.
    """
    named = configured or os.environ.get(WEIGHTS_VARIABLE)
    get = f"get {WEIGHTS_NAME} from the releases of pytorch-fid"
    if not named:
        raise UsageError(
            "The extractor inception-v3 needs the weights of Inception-v3, which distgen has not.",
            remedy=f"{get}, and name it in evaluation.inception_weights or ${WEIGHTS_VARIABLE}",
        )
    path = Path(named).expanduser()
    if not path.is_file():
        raise UsageError(
            "There are no weights of Inception-v3 here.",
            where=str(path),
            remedy=f"{get}; they are needed on every host that trains",
        )
    return path


def require(configured: str | None) -> Path:
    """The weights' file, after the library was found, too.

    Raises:
        UsageError: The library is not installed, or there are no weights.
    """
    path = weights_file(configured)
    if importlib.util.find_spec("torch_fidelity") is None:
        raise UsageError(
            "The extractor inception-v3 needs torch-fidelity, which is not installed.",
            remedy="pip install 'distgen[fid]'; it brings torchvision, which has to fit torch",
        )
    return path


class InceptionFeatures:
    """The 2,048 pooled features that the usual FID is computed from (Heusel et al. 2017).

    Args:
        weights: A state dict as pytorch-fid and torch-fidelity publish it.
        device: Where to compute.

    Raises:
        UsageError: The library is not installed.
        DataError: The file holds no such state dict.
    """

    name = "inception-v3"
    dimensions = FEATURES

    def __init__(self, weights: Path, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        file_digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        self.is_standard = file_digest.startswith(STANDARD_PREFIX)
        """Whether these are the weights that FIDs are reported with."""
        self.digest = sha256_of(f"{file_digest} inception-v3 2048 torch-fidelity".encode())
        self._network = _load(weights).to(self.device)
        self._batch = _CPU_BATCH if self.device.type == "cpu" else _GPU_BATCH

    @torch.inference_mode()
    def __call__(self, images_nhwc: np.ndarray) -> np.ndarray:
        """Features `[n, 2048]`; grey pictures are repeated over three channels."""
        parts = []
        for start in range(0, len(images_nhwc), self._batch):
            batch = np.ascontiguousarray(images_nhwc[start : start + self._batch])
            pixels_nchw = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2)
            rgb = pixels_nchw.expand(-1, 3, -1, -1).contiguous()
            parts.append(self._network(rgb)[0].float().cpu().numpy())
        return np.concatenate(parts)


def _load(weights: Path) -> torch.nn.Module:
    """The library's network with these weights, in evaluation mode."""
    try:
        # The library would run code that a file brings along, so what it opens is never the file.
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _no_weights(weights, str(error)) from error
    if not isinstance(state, dict) or "Mixed_7c.branch_pool.conv.weight" not in state:
        raise _no_weights(weights, "it holds other things")
    try:
        library = importlib.import_module(_LIBRARY)
    except Exception as error:
        raise UsageError(
            "torch-fidelity cannot be used here.",
            where=_LIBRARY,
            cause=f"{type(error).__name__}: {error}",
            remedy="install torch, torchvision and torch-fidelity in versions that fit together",
        ) from error
    try:
        with tempfile.NamedTemporaryFile(suffix=".pth") as copy:
            torch.save(state, copy)
            copy.flush()
            network: torch.nn.Module = library.FeatureExtractorInceptionV3(
                InceptionFeatures.name, [str(FEATURES)], feature_extractor_weights_path=copy.name
            )
    except RuntimeError as error:  # tensors of other names or shapes
        raise _no_weights(weights, str(error).partition("\n")[0]) from error
    return network.eval().requires_grad_(False)


def _no_weights(weights: Path, cause: str) -> DataError:
    return DataError(
        "This file does not hold the weights of Inception-v3.",
        where=str(weights),
        cause=cause,
        remedy=f"give {WEIGHTS_NAME} as pytorch-fid publishes it",
    )
