"""Networks of the draws, trained once and kept, and their grids on every image as arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from thesis_plan import merged
from zero_shot_draws import VOID_CLASSES, Draw, split_images, write_draw
from zero_shot_windows import smoothed

from szn_runtime.errors import TrainingError
from szn_train.cells import cell_labels
from szn_train.checkpoint import load_checkpoint, read_json, write_json
from szn_train.config import TrainConfig
from szn_train.datasets import open_dataset
from szn_train.preset_files import load_presets
from szn_train.progress import Progress
from szn_train.run import Run, open_run
from szn_train.trainer import train
from szn_train.transforms import plain, preprocess_of

__all__ = ["Cells", "DrawRuns"]

_QUICK = {
    "long_side": 96,
    "crop_hw": [64, 96],
    "embedding_step": {"epochs": 1},
    "seenmask_step": {"epochs": 1},
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """All grid nodes of some images, image after image and row after row.

    Attributes:
        ids: Image of each grid.
        grids_hw: (images, 2) nodes along each axis.
        features: (P, C) float16, frozen features.
        embedding: (P, j) float32.
        seenmask: (P, 2) float32: the seenmask as the trainer left it.
        labels: (P,) uint8 label index of the cell, `VOID` where no label covers 3/4 of it.
    """

    ids: tuple[str, ...]
    grids_hw: NDArray[np.int64]
    features: NDArray[np.float16]
    embedding: NDArray[np.float32]
    seenmask: NDArray[np.float32]
    labels: NDArray[np.uint8]

    def rows(self) -> list[slice]:
        """Rows of each image."""
        ends = np.cumsum(self.grids_hw.prod(axis=1)).tolist()
        return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def grid(self, values: NDArray[np.float32], image: int, rows: slice) -> NDArray[np.float32]:
        """Values (P,) or (P, channels) of one image as (h, w) or (channels, h, w)."""
        h, w = self.grids_hw[image].tolist()
        block = values[rows].reshape(h, w, -1).transpose(2, 0, 1)
        return np.ascontiguousarray(block[0] if values.ndim == 1 else block)

    def smoothed(self, values: NDArray[np.float32], window: int) -> NDArray[np.float32]:
        """Values (P,) or (P, channels), each the mean over its neighbours in the image."""
        if window == 1:
            return values
        table = values.reshape(len(values), -1)
        result = np.empty_like(table)
        for image, rows in enumerate(self.rows()):
            for channel in range(table.shape[1]):
                grid = self.grid(table[:, channel], image, rows)
                result[rows, channel] = smoothed(grid, window).ravel()
        return result.reshape(values.shape)

    def folds(self, count: int) -> NDArray[np.int64]:
        """(P,) fold of each cell, that of its image."""
        nodes = self.grids_hw.prod(axis=1)
        return np.repeat(np.arange(len(nodes)) % count, nodes)


_ARRAYS = ("grids_hw", "features", "embedding", "seenmask", "labels")


class DrawRuns:
    """Runs of draws in a folder, a sub-folder each.

    Args:
        data: Folder of MSRC-21.
        folder: Where the runs are kept, made if need be.
        presence: What `class_presence` returns for the data.
        class_names: Its classes.
        epochs: Of the embedding step.
        precision: Of training; grids are always computed in fp32.
        quick: 96 pixels and one epoch.
        recipe: Presets or TOML files, as `szn-train --preset` takes them.
        progress: Where lines and bars go.
    """

    def __init__(
        self,
        data: Path,
        folder: Path,
        *,
        presence: Mapping[str, NDArray[np.bool_]],
        class_names: tuple[str, ...],
        epochs: int,
        precision: str,
        quick: bool,
        recipe: str = "szn-mini",
        progress: Progress,
    ) -> None:
        self._data, self._folder, self._presence = data, folder, presence
        self._class_names, self._progress = class_names, progress
        self._values = merged(
            load_presets(recipe), {"precision": precision, "embedding_step": {"epochs": epochs}}
        )
        self._values = merged(self._values, _QUICK if quick else {})
        self._values["seenmask"] = "linear"  # the thesis'; others are fitted on the finished run

    def images(self, draw: Draw) -> dict[str, tuple[str, ...]]:
        """Split to image ids of a draw."""
        return split_images(self._presence, self._class_names, draw)

    def config(self, draw: Draw) -> TrainConfig:
        """Configuration of a draw's run: the recipe of szn-mini, shorter."""
        return TrainConfig.from_dict({
            **self._values,
            "data": str(self._folder / f"draw-{draw.seed}" / "data"),
            "train_split": "train",
            "val_split": "hold",
            "void": list(VOID_CLASSES),
            "train_unseen": list(draw.train_unseen),
            "unseen": list(draw.unseen),
        })  # fmt: skip

    def folder(self, draw: Draw) -> Path:
        """Run folder of a draw, named after the values that it is trained with.

        Defaults do not count, so that an option that is added later makes no new run.
        """
        defaults = TrainConfig(data="").to_dict()
        given = self.config(draw).to_dict()
        values = {
            k: v for k, v in given.items() if k not in {"data", "seenmask"} and v != defaults[k]
        }
        values["images"] = self.images(draw)
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
        return self._folder / f"draw-{draw.seed}" / f"run-{digest}"

    def run(self, draw: Draw) -> Run:
        """The draw's run, trained as far as it is not yet.

        The trainer's second step gives the thesis' own seenmask.

        Raises:
            InputError: If the data cannot be used.
            TrainingError: If training fails.
        """
        folder = self.folder(draw)
        write_draw(self._data, self._folder / f"draw-{draw.seed}" / "data", self.images(draw))
        try:
            return open_run(folder)
        except TrainingError:  # not finished
            pass
        try:
            load_checkpoint(folder / "checkpoint.pt")
            resume = (folder / "config.json").is_file()
        except TrainingError:  # none yet
            resume = False
        self._progress.line(f"{'going on with' if resume else 'training'} draw {draw.seed}")
        return train(self.config(draw), folder, progress=self._progress, resume=resume)

    def cells(self, run: Run, split_name: str) -> Cells:
        """Grids of every image of a split, computed once and then mapped from disk.

        Images of `train` and `hold` that show a class of U are left out: nothing is fitted on them.

        Raises:
            InputError: If the data cannot be used.
        """
        folder = run.folder / f"cells-{split_name}"
        if not (folder / "facts.json").is_file():
            self._write_cells(run, split_name, folder)
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        return Cells(ids=tuple(read_json(folder / "facts.json")["ids"]), **arrays)

    def _write_cells(self, run: Run, split_name: str, folder: Path) -> None:
        dataset = open_dataset(run.config, Path(run.config.data), split_name)
        lookup, stride = run.split.mask_lookup(), run.config.stride
        transform = plain(preprocess_of(run.network.backbone.info, run.config.long_side))
        unseen = run.split.indices(run.split.unseen)
        ids: list[str] = []
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in _ARRAYS}
        with self._progress, self._progress.task(f"cells {split_name}", len(dataset.ids)) as task:
            for image_id in dataset.ids:
                task.advance()
                image, mask = dataset.pair(image_id)
                if split_name != "test" and np.isin(lookup[mask], unseen).any():
                    continue
                frame, target = transform(image, lookup[mask])
                grids = _grids(run, frame)
                shape = grids["features"].shape[1:]
                for name, grid in grids.items():
                    parts[name].append(grid.reshape(len(grid), -1).T)  # (c, h, w) -> (h w, c)
                labels = cell_labels(target.numpy().astype(np.uint8), stride)
                parts["labels"].append(labels.ravel())
                parts["grids_hw"].append(np.array([shape]))
                ids.append(image_id)
        folder.mkdir(parents=True, exist_ok=True)
        for name, blocks in parts.items():
            np.save(folder / f"{name}.npy", np.concatenate(blocks))
        write_json(folder / "facts.json", {"ids": ids})  # last: now they are whole


def _grids(run: Run, frame: torch.Tensor) -> dict[str, NDArray[Any]]:
    """Features, embedding and seenmask (channels, h, w) of a frame."""
    network = run.network
    with torch.inference_mode():
        features = network.backbone(frame[None].contiguous(memory_format=torch.channels_last))
        found = {
            "features": features,
            "embedding": network.embedding_head(features),
            "seenmask": network.seenmask_head(features),
        }
    arrays = {name: grid[0].contiguous().numpy() for name, grid in found.items()}
    return {**arrays, "features": arrays["features"].astype(np.float16)}
