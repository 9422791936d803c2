"""The score that ends a step early: mIoU on the validation split, never on U."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from szn_runtime.labels import LabelSet
from szn_runtime.preprocess import normalise_into
from szn_runtime.sei import segment_grid
from szn_train.classes import VOID, ClassSplit
from szn_train.config import TrainConfig
from szn_train.datasets import Dataset
from szn_train.metrics import confusion_matrix, harmonic_mean, scores
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.processes import Processes
from szn_train.semantic import LabelSpace
from szn_train.transforms import layout_of, preprocess_of

__all__ = ["Validation"]


class Validation:
    """Scores networks on a split, its images shared by the processes.

    Pixels of U are void here, and its labels cannot win: a step that stops by this score learns
    nothing of U.

    Args:
        config: Of the run.
        dataset: The validation split.
        split: Its classes.
        space: Their embeddings.
        processes: Those that share the run.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        split: ClassSplit,
        space: LabelSpace,
        processes: Processes,
    ) -> None:
        self._config, self._dataset, self._split = config, dataset, split
        self._space, self._processes = space, processes

    def embedding(self, network: nn.Module) -> float:
        """Of the first step: percent mIoU of train_seen, which FCN-JE chooses from."""
        names = self._split.train_seen
        confusion = self._confusion(network, names, seenmask=False)
        return scores(confusion).miou

    def seenmask(self, network: nn.Module) -> float:
        """Of the second step: harmonic mean of the train_seen and train_unseen mIoU of SEI."""
        names = self._split.train_seen + self._split.train_unseen
        confusion = self._confusion(network, names, seenmask=True)
        seen = np.array([name in self._split.train_seen for name in names])
        return harmonic_mean(scores(confusion, seen).miou, scores(confusion, ~seen).miou)

    def _confusion(
        self, network: nn.Module, names: tuple[str, ...], *, seenmask: bool
    ) -> NDArray[np.int64]:
        """(names, names) over pixels of `names`, which are all that can be called."""
        if not isinstance(network, SeenmaskZeroShotNetwork):
            raise TypeError(f"{type(network).__name__} has no grids")
        split, config = self._split, self._config
        rows = [self._space.names.index(name) for name in names]
        labels = LabelSet(
            names=names,
            embeddings=self._space.unit[rows],
            seen=np.array([name in split.train_seen for name in names]),
        )
        lookup = np.full(256, VOID, dtype=np.uint8)  # mask value to position in `names`
        for value, name in enumerate(split.names):
            if name in names:
                lookup[value] = names.index(name)
        preprocess = preprocess_of(network.backbone.info, config.long_side)
        confusion = np.zeros((len(names), len(names)), dtype=np.int64)
        for image_id in self._dataset.ids[self._processes.rank :: self._processes.count]:
            image, mask = self._dataset.pair(image_id)
            size_hw = (mask.shape[0], mask.shape[1])
            layout = layout_of(size_hw, preprocess, resize=config.resize)
            frame = np.empty((1, 3, *layout.padded_hw), dtype=np.float32)
            normalise_into(image, layout, preprocess, frame[0])
            with torch.inference_mode(), self._processes.autocast():
                grids = network(torch.from_numpy(frame).to(self._processes.device))
            embedding, mask_grid = (np.ascontiguousarray(g[0].float().cpu().numpy()) for g in grids)
            found, _ = segment_grid(
                embedding,
                mask_grid if seenmask else None,
                labels,
                geometry=layout.grid_geometry(network.geometry),
                size_hw=size_hw,
            )
            confusion += confusion_matrix(lookup[mask], found, len(names))
        summed = self._processes.total(*confusion.ravel().tolist())
        return np.array(summed).astype(np.int64).reshape(confusion.shape)
