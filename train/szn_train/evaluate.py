"""FCN-JE, SZN and SZN-PS on a split, through the runtime's own preprocessing and SEI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from szn_runtime.errors import InputError
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_runtime.preprocess import normalise_into
from szn_runtime.sei import segment_grid
from szn_train.classes import VOID, ClassSplit
from szn_train.datasets import open_dataset
from szn_train.metrics import Mode, Scores, confusion_matrix, harmonic_mean, scores
from szn_train.progress import Progress
from szn_train.run import Run
from szn_train.semantic import LabelSpace
from szn_train.transforms import layout_of, preprocess_of

__all__ = ["GROUPS", "MODES", "Decisions", "Evaluation", "evaluate"]

GROUPS = ("overall", "seen", "train_seen", "unseen")
"""Subsets of the labels that are scored: `seen` is train_seen and train_unseen as in the thesis,
`unseen` is U."""

MODES: tuple[Mode, ...] = ("standard", "thesis")


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Confusion matrices of a run's models on a split.

    Attributes:
        split: The classes.
        images: Number of images.
        confusions: Model name ("FCN-JE", "SZN", "SZN-PS") to (labels, labels), rows truth.
        seenmask_accuracy: Percent of labelled pixels whose seenmask is right, or None.
    """

    split: ClassSplit
    images: int
    confusions: dict[str, NDArray[np.int64]]
    seenmask_accuracy: float | None

    def scores(self, model: str, group: str, mode: Mode = "standard") -> Scores:
        """Metrics of one model over one of `GROUPS`."""
        members = {
            "overall": self.split.labels,
            "seen": self.split.train_seen + self.split.train_unseen,
            "train_seen": self.split.train_seen,
            "unseen": self.split.unseen,
        }[group]
        return scores(self.confusions[model], self.split.is_member(members), mode)

    def harmonic_miou(self, model: str, mode: Mode = "standard") -> float:
        """Harmonic mean of train_seen and unseen mIoU."""
        return harmonic_mean(
            self.scores(model, "train_seen", mode).miou, self.scores(model, "unseen", mode).miou
        )

    def to_dict(self) -> dict[str, Any]:
        """Every number and the confusion matrices, as JSON holds them."""
        return {
            "tuple": list(self.split.sizes),
            "labels": list(self.split.labels),
            "images": self.images,
            "seenmask_accuracy": self.seenmask_accuracy,
            "scores": {
                mode: {
                    model: {
                        **{g: self.scores(model, g, mode).to_dict() for g in GROUPS},
                        "harmonic_miou": self.harmonic_miou(model, mode),
                    }
                    for model in self.confusions
                }
                for mode in MODES
            },
            "confusions": {model: matrix.tolist() for model, matrix in self.confusions.items()},
        }

    def rows(self) -> list[dict[str, str | float]]:
        """The scores as a flat table."""
        return [
            {
                "mode": mode,
                "model": model,
                "group": group,
                **self.scores(model, group, mode).to_dict(),
                "harmonic_miou": self.harmonic_miou(model, mode),
            }
            for mode in MODES
            for model in self.confusions
            for group in GROUPS
        ]


def evaluate(
    run: Run, *, split_name: str | None = None, data: Path | None = None, progress: Progress
) -> Evaluation:
    """Segment every image of a split and compare at the masks' own pixels.

    Args:
        run: The finished run.
        split_name: Split of the data set; by default the run's validation split.
        data: Folder of the data set; by default the run's.
        progress: Where the bar goes.

    Raises:
        InputError: If the data cannot be used or has other classes than the run.
    """
    dataset = open_dataset(
        run.config, data or Path(run.config.data), split_name or run.config.val_split
    )
    split, lookup = run.split, run.split.mask_lookup()
    if dataset.class_names != split.names:
        odd = sorted(set(dataset.class_names) ^ set(split.names))
        raise InputError(
            f"data set {dataset.root} has other classes than the run",
            got=f"{', '.join(odd[:5])} in one of them" if odd else "another order",
            fix="evaluate on a data set with the classes.txt of the training",
        )
    decide = Decisions(split, run.space)
    models = decide.models
    preprocess = preprocess_of(run.network.backbone.info, run.config.long_side)
    confusions = {m: np.zeros((len(split.labels),) * 2, dtype=np.int64) for m in models}
    right = known = 0
    is_seen = split.is_member(split.train_seen)
    with progress, progress.task(f"evaluate {dataset.split}", len(dataset.ids)) as task:
        for image_id in dataset.ids:
            image, mask = dataset.pair(image_id)
            truth = lookup[mask]
            layout = layout_of(
                (truth.shape[0], truth.shape[1]), preprocess, resize=run.config.resize
            )
            frame = np.empty((1, 3, *layout.padded_hw), dtype=np.float32)
            normalise_into(image, layout, preprocess, frame[0])
            with torch.inference_mode():
                grids = run.network(torch.from_numpy(frame))
            embedding, mask_grid = (np.ascontiguousarray(g[0].numpy()) for g in grids)
            geometry = layout.grid_geometry(run.network.geometry)
            maps, seenmask = decide(embedding, mask_grid, truth, geometry)
            for model in models:
                confusions[model] += confusion_matrix(truth, maps[model], len(split.labels))
            labelled = truth != VOID
            right += int((seenmask == is_seen[truth % len(is_seen)])[labelled].sum())
            known += int(labelled.sum())
            task.advance()
    return Evaluation(
        split=split,
        images=len(dataset.ids),
        confusions=confusions,
        seenmask_accuracy=100 * right / max(known, 1) if "SZN" in models else None,
    )


class Decisions:
    """Label maps of FCN-JE, SZN and SZN-PS from a network's grids, by the runtime's own SEI.

    Args:
        split: The classes.
        space: Their embeddings.
    """

    def __init__(self, split: ClassSplit, space: LabelSpace) -> None:
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
        self.models = ("FCN-JE", "SZN", "SZN-PS") if several else ("FCN-JE",)

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
        # FCN-JE and the two halves of the perfect seenmask are SEI over one part of the labels.
        nearest = []
        for indices, part in self._parts:
            labels, _ = segment_grid(embedding, None, part, geometry=geometry, size_hw=size_hw)
            nearest.append(indices[labels])
        szn, seen = segment_grid(embedding, seenmask, self._all, geometry=geometry, size_hw=size_hw)
        truly_seen = self._seen[truth % len(self._seen)]  # void pixels are never counted
        perfect = np.where(truly_seen, nearest[-1], nearest[0])
        return {"FCN-JE": nearest[-1], "SZN": szn, "SZN-PS": perfect}, seen
