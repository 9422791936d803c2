"""OpenVINO's format with the normalisation inside, for consumers that hand it camera frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_runtime.backends import Backend, BackendOptions, Grids
from szn_runtime.backends._openvino_core import openvino_core
from szn_runtime.backends.base import check_frames
from szn_runtime.errors import BackendError
from szn_runtime.manifest import Manifest

__all__ = ["PixelsBackend", "pixels_of"]


def pixels_of(frames: NDArray[np.float32], manifest: Manifest) -> NDArray[np.uint8]:
    """The pixels that normalised frames were made of.

    Args:
        frames: (N, 3, H, W) float32, normalised and padded with 0.
        manifest: Mean, deviation and order of the channels.

    Returns:
        (N, H, W, 3) uint8 BGR; padding becomes the level that is nearest to the mean.
    """
    preprocess = manifest.preprocess
    mean, std = (
        np.array(values, np.float32)[:, None, None] for values in (preprocess.mean, preprocess.std)
    )
    levels = np.rint(frames * std + mean).clip(0, 255).astype(np.uint8)  # (N, 3, H, W)
    if preprocess.channel_order == "rgb":
        levels = levels[:, ::-1]
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))  # (N, H, W, 3)


class PixelsBackend(Backend):
    """Runs such a model on the CPU, from the frames that the others take.

    Args:
        xml: The model.
        weights: Its weights.
        manifest: Names of its tensors, and what was folded in.
        options: Threads.

    Raises:
        MissingDependencyError: If OpenVINO is not installed.
        BackendError: If it cannot load the model.
    """

    name = "openvino"
    precision = "fp32"
    device = "CPU"
    provider = "OpenVINO CPU"
    requests = 1
    input_dtype = "float32"
    input_layout = "NCHW"

    def __init__(
        self, xml: bytes, weights: bytes, manifest: Manifest, options: BackendOptions
    ) -> None:
        core = openvino_core()
        self._manifest, self.threads = manifest, options.cpu_threads
        try:
            self._request: Any = core.compile_model(
                core.read_model(model=xml, weights=weights),
                "CPU",
                {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": self.threads},
            ).create_infer_request()
        except Exception as error:  # OpenVINO raises RuntimeError and others
            raise BackendError("OpenVINO cannot load the model", got=error) from error

    def infer(self, frames: NDArray[np.float32]) -> Grids:
        """Run the network; see `Backend.infer`."""
        check_frames(frames)
        manifest = self._manifest
        try:
            self._request.infer({manifest.input_name: pixels_of(frames, manifest)})
        except Exception as error:  # OpenVINO raises RuntimeError and others
            raise BackendError("OpenVINO failed", got=error) from error
        embedding, seenmask = (
            self._request.get_tensor(name).data.copy()
            for name in (manifest.embedding_name, manifest.seenmask_name)
        )
        return Grids(embedding=embedding, seenmask=seenmask)

    def close(self) -> None:
        """Release the model."""
        self._request = None
