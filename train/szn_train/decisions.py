"""Label maps of a run's models, through the runtime's own preprocessing and SEI.

Models:
    `FCN-JE`, or `FCN-S` where it was trained with cross-entropy: the best label of train_seen, as
        the thesis' text has it.
    `FCN-JE (all labels)`: the best of all labels, as the thesis' code and so its tables have it.
    `SZN`: the learned seenmask chooses between train_seen and the other labels.
    `SZN-PS`: the true seenmask does.
Without a class outside train_seen they are all the first.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_runtime.preprocess import normalise_into
from szn_runtime.sei import segment_grid
from szn_train.classes import ClassSplit
from szn_train.config import TrainConfig
from szn_train.run import Run
from szn_train.semantic import LabelSpace
from szn_train.transforms import layout_of, preprocess_of

__all__ = ["Decisions", "Predictor", "baseline_of"]


def baseline_of(config: TrainConfig) -> str:
    """What the model without a seenmask is called: "FCN-S" for softmax, else "FCN-JE"."""
    return "FCN-S" if config.loss == "cross_entropy" else "FCN-JE"


class Predictor:
    """Label maps of a run's models, a frame at a time.

    Args:
        run: The finished run.

    Attributes:
        models: Names of the models, see the module.
    """

    def __init__(self, run: Run) -> None:
        self._network = run.network
        self._decide = Decisions(
            run.split, run.space, baseline=baseline_of(run.config), all_labels=True
        )
        self._preprocess = preprocess_of(run.network.backbone.info, run.config.long_side)
        self._resize = run.config.resize
        self.models = self._decide.models

    def __call__(
        self, image: NDArray[np.uint8], truth: NDArray[np.uint8]
    ) -> tuple[dict[str, NDArray[np.integer]], NDArray[np.bool_]]:
        """Label maps (H, W) per model, and the seenmask (H, W).

        Args:
            image: (H, W, 3) BGR.
            truth: (H, W) label indices or `VOID`, for the perfect seenmask.
        """
        height, width = truth.shape
        layout = layout_of((height, width), self._preprocess, resize=self._resize)
        frame = np.empty((1, 3, *layout.padded_hw), dtype=np.float32)
        normalise_into(image, layout, self._preprocess, frame[0])
        with torch.inference_mode():
            grids = self._network(torch.from_numpy(frame))
        embedding, seenmask = (np.ascontiguousarray(g[0].numpy()) for g in grids)
        geometry = layout.grid_geometry(self._network.geometry)
        return self._decide(embedding, seenmask, truth, geometry)


class Decisions:
    """Label maps of the models from a network's grids, by the runtime's own SEI.

    Args:
        split: The classes.
        space: Their embeddings.
        baseline: Name of the model without a seenmask.
        all_labels: Whether that model is there a second time, choosing among all labels.

    Attributes:
        models: Names of the models, see the module.
    """

    def __init__(
        self,
        split: ClassSplit,
        space: LabelSpace,
        *,
        baseline: str = "FCN-JE",
        all_labels: bool = False,
    ) -> None:
        self._seen = split.is_member(split.train_seen)
        self._all = LabelSet(names=space.names, embeddings=space.unit, seen=self._seen)
        self._parts = [
            (indices, LabelSet(
                names=tuple(space.names[i] for i in indices),
                embeddings=space.unit[indices],
                seen=self._seen[indices],
            ))
            for indices in (np.flatnonzero(~self._seen), np.flatnonzero(self._seen))
            if len(indices)
        ]  # fmt: skip
        several = len(split.train_seen) < len(split.labels)
        self._baseline = baseline
        self._among_all = f"{baseline} (all labels)" if several and all_labels else None
        self.models = (
            baseline,
            *([self._among_all] if self._among_all else []),
            *(["SZN", "SZN-PS"] if several else []),
        )

    def __call__(
        self,
        embedding: NDArray[np.float32],
        seenmask: NDArray[np.float32],
        truth: NDArray[np.uint8],
        geometry: GridGeometry,
    ) -> tuple[dict[str, NDArray[np.integer]], NDArray[np.bool_]]:
        """Label maps (H, W) per model, and the seenmask (H, W).

        Args:
            embedding: (j, h, w) float32.
            seenmask: (2, h, w) float32.
            truth: (H, W) label indices or `VOID`, for the perfect seenmask.
            geometry: Where the nodes lie among the pixels of `truth`.
        """
        size_hw = truth.shape
        # The baseline and both halves of the perfect seenmask are SEI over a part of the labels.
        nearest = []
        for indices, part in self._parts:
            labels, _ = segment_grid(embedding, None, part, geometry=geometry, size_hw=size_hw)
            nearest.append(indices[labels])
        szn, seen = segment_grid(embedding, seenmask, self._all, geometry=geometry, size_hw=size_hw)
        truly_seen = self._seen[truth % len(self._seen)]  # void pixels are never counted
        perfect = np.where(truly_seen, nearest[-1], nearest[0])
        maps = {self._baseline: nearest[-1], "SZN": szn, "SZN-PS": perfect}
        if self._among_all:
            maps[self._among_all], _ = segment_grid(
                embedding, None, self._all, geometry=geometry, size_hw=size_hw
            )
        return maps, seen
