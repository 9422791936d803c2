"""The two training steps (thesis section 4.3) and the fits between them, over one network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from szn_train.batches import Batches
from szn_train.cell_sample import GridReader
from szn_train.classes import ClassSplit
from szn_train.config import StepConfig, TrainConfig
from szn_train.datasets import Dataset, Selection
from szn_train.embedding_refit import fit_embedding, most_cells
from szn_train.history import History
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.objectives import Objective, embedding_objective, seenmask_objective
from szn_train.processes import Processes
from szn_train.progress import Progress
from szn_train.seenmask_fit import MOST_CELLS, fit_seen, fit_seenmask
from szn_train.semantic import LabelSpace
from szn_train.step import TrainingStep
from szn_train.transforms import Transform, augmented, plain, preprocess_of
from szn_train.validation import Validation

__all__ = ["TwoSteps"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoSteps:
    """Both steps over one network, and what they share."""

    config: TrainConfig
    dataset: Dataset
    split: ClassSplit
    network: SeenmaskZeroShotNetwork
    processes: Processes
    history: History
    progress: Progress
    validation: Validation | None
    workers: int

    def embedding(self, ids: tuple[str, ...], space: LabelSpace) -> None:
        """FCN and embedding head on some images."""
        network = self.network
        grid = self.processes.shared(nn.Sequential(network.backbone, network.embedding_head))
        objective = embedding_objective(self.config, self.split, space, grid, network.geometry)
        step = TrainingStep(
            "embedding",
            self.config.embedding_step,
            seed=self.config.seed,
            network=network,
            body=list(network.backbone.parameters()),
            heads=list(network.embedding_head.parameters()),
            processes=self.processes,
            shared=grid,
        )
        score = self.validation.embedding if self.validation else None
        self._run(step, self.config.embedding_step, ids, objective, score)

    def fit(self, selection: Selection, space: LabelSpace) -> None:
        """Embedding head anew and a seenmask of statistics on the frozen FCN, as configured.

        The first process fits, and only that one has the seenmask then.
        """
        config, network, split = self.config, self.network.eval(), self.split
        checkpoint = self.history.checkpoint
        # a later step's checkpoint holds the refitted head
        refits = config.refit_embedding and (not checkpoint or checkpoint["step"] == "embedding")
        if self.processes.is_main and (refits or config.fits_seenmask):
            grids = GridReader(network, self.dataset, split, self._unaugmented(), self.progress)
            wanted = [(selection.embedding_ids, most_cells(split))] if refits else []
            wanted += [(selection.seenmask_ids, MOST_CELLS)] if config.fits_seenmask else []
            cells = grids.seen_features(wanted, seed=config.seed)
            if refits:
                head = fit_embedding(
                    *cells.pop(0),
                    split,
                    space,
                    scale=config.similarity_scale,
                    seed=config.seed,
                )
                head.load_into(network.embedding_head)
                self.progress.line("embedding: head fitted anew on balanced cells")
            if config.fits_seenmask:
                # the sample is gone before images are read for the rest
                statistics = fit_seen(*cells.pop(), split, space, scale=config.similarity_scale)
                kept = set(selection.embedding_ids)
                found = fit_seenmask(
                    statistics,
                    grids,
                    split,
                    space,
                    taught_ids=[i for i in selection.seenmask_ids if i not in kept],
                    hold_ids=selection.hold_ids,
                    drop=config.seenmask_drop,
                    seed=config.seed,
                )
                network.seenmask_head = found.head.to(self.processes.device)
                self.progress.line(found.line())
        if refits:
            self.processes.broadcast(network.embedding_head)

    def seenmask(self, ids: tuple[str, ...], pixels: NDArray[np.int64]) -> None:
        """Seenmask head on the frozen FCN and some images; `pixels` a label balance the loss."""
        network = self.network
        # Frozen means frozen: batch-norm statistics and dropout too.
        network.requires_grad_(False)
        network.seenmask_head.requires_grad_(True)
        network.eval()
        head = self.processes.shared(network.seenmask_head)

        def grid(frames: Tensor) -> Tensor:
            with torch.no_grad(), self.processes.autocast():
                features = network.backbone(frames)
            scores: Tensor = head(features)
            return scores

        objective = seenmask_objective(self.config, self.split, pixels, grid, network.geometry)
        step = TrainingStep(
            "seenmask",
            self.config.seenmask_step,
            seed=self.config.seed,
            network=network,
            body=[],
            heads=list(network.seenmask_head.parameters()),
            processes=self.processes,
            shared=head,
        )
        score = self.validation.seenmask if self.validation else None
        self._run(step, self.config.seenmask_step, ids, objective, score)

    def _unaugmented(self) -> Transform:
        """What evaluation does to an image."""
        preprocess = preprocess_of(self.network.backbone.info, self.config.long_side)
        return plain(preprocess, resize=self.config.resize)

    def _run(
        self,
        step: TrainingStep,
        settings: StepConfig,
        ids: tuple[str, ...],
        objective: Objective,
        score: Callable[[nn.Module], float] | None,
    ) -> None:
        config = self.config
        transform = self._unaugmented()
        if settings.augment:
            preprocess = preprocess_of(self.network.backbone.info, config.long_side)
            transform = augmented(preprocess, config.crop_hw, resize=config.resize)
        with Batches(
            self.dataset,
            self.split,
            ids,
            transform=transform,
            batch_size=settings.batch_size,
            rank=self.processes.rank,
            processes=self.processes.count,
            workers=self.workers,
            pinned=self.processes.device.type == "cuda",
        ) as batches:
            step.run(
                batches,
                objective.loss,
                self.history,
                self.progress,
                weight=objective.weight,
                score=score,
            )
