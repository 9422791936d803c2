"""Seenmask embedding inference as a model of Triton's Python backend.

Triton runs this file from the model's own folder, where the labels lie beside it. It needs `szn` in
the backend's Python environment, and nothing of training or export.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from szn_runtime.errors import BackendError, InputError, SznError
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_runtime.preprocess import plan
from szn_runtime.sei import segment_grid, warm_up

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """Grids of the network and sizes of the frames to label maps at the frames' own pixels."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read labels and settings, and compile.

        Args:
            args: What Triton passes; `model_config` is the model's configuration as JSON.
        """
        config = json.loads(args["model_config"])
        settings = {key: entry["string_value"] for key, entry in config["parameters"].items()}
        self._embedding, self._seenmask, self._sizes = (each["name"] for each in config["input"])
        self._output = config["output"][0]["name"]
        self._long_side, self._multiple = int(settings["long_side"]), int(settings["multiple"])
        self._stride = float(settings["stride"])
        self._geometry = GridGeometry.square(self._stride, float(settings["node_offset"]))
        self._seen_bias = float(settings["seen_bias"])
        self._use_seenmask = settings["use_seenmask"] == "true"
        content = (Path(__file__).parent / "labels.npz").read_bytes()
        self._labels = LabelSet.from_npz(content)
        warm_up(self._labels.dim, len(self._labels))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request with its label maps, or with what is wrong with it."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        names = (self._embedding, self._seenmask, self._sizes)
        try:
            maps = self._label(*(_array(request, name) for name in names))
        except SznError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(self._output, maps)])

    def _label(self, embedding: Any, seenmask: Any, sizes: Any) -> Any:
        """(N, j, h, w) and (N, 2, h, w) float32, (N, 2) int32 sizes to (N, H, W) labels."""
        if len({tuple(size) for size in sizes.tolist()}) != 1:
            raise InputError(
                "frames of one request differ in size",
                got=sizes.tolist(),
                fix="send frames of each size apart",
            )
        height, width = sizes[0].tolist()
        layout = plan((height, width), long_side=self._long_side, multiple=self._multiple)
        nodes = embedding.shape[2:]
        if any(
            abs(count - side / self._stride) > 1
            for count, side in zip(nodes, layout.padded_hw, strict=True)
        ):
            raise InputError(
                f"the grid is not that of a frame of {height} x {width}",
                got=f"{nodes[0]} x {nodes[1]} nodes",
                expected=f"those of {layout.padded_hw[0]} x {layout.padded_hw[1]} pixels",
                fix=f"resize the long side to {self._long_side}, or set the parameter long_side",
            )
        maps = [
            segment_grid(
                grid,
                mask if self._use_seenmask else None,
                self._labels,
                geometry=layout.grid_geometry(self._geometry),
                size_hw=(height, width),
                seen_bias=self._seen_bias,
            )[0]
            for grid, mask in zip(embedding, seenmask, strict=True)
        ]
        return np.stack(maps)


def _array(request: Any, name: str) -> Any:
    """An input as an array."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    array = tensor.as_numpy()
    # Triton before 24.11 converts wrongly, both ways and without an error, where NumPy is 2
    if not np.array_equal(array, np.from_dlpack(tensor), equal_nan=True):
        raise BackendError(
            "Triton's Python backend cannot handle NumPy 2",
            got=f"NumPy {np.__version__}",
            fix="use Triton 24.11 or newer",
        )
    return array
