"""What each training step minimises: the grids of a batch against its targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from szn_runtime.geometry import GridGeometry
from szn_train import losses
from szn_train.classes import VOID, ClassSplit
from szn_train.config import TrainConfig
from szn_train.model import upsample
from szn_train.semantic import LabelSpace

__all__ = ["Loss", "Objective", "embedding_objective", "labelled_pixels", "seenmask_objective"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""Frames (N, 3, H, W) and targets (N, H, W) int64 to a scalar, the mean over the batch."""

Grid = Callable[[Tensor], Tensor]
"""Frames (N, 3, H, W) to a head's grid (N, channels, h, w)."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A loss, and how much a batch counts beside others.

    Attributes:
        loss: Mean over the batch.
        weight: Of a batch, from its targets (N, H, W) of any integers: the number that `loss`
            divides by. Batches that share an optimiser step, on one process or several, are
            weighed with it, so that they give the gradient of one large batch.
    """

    loss: Loss
    weight: Callable[[Tensor], float]


def labelled_pixels(target: Tensor) -> float:
    """Number of pixels that are not void: what losses average over."""
    return float((target != VOID).sum())


def embedding_objective(
    config: TrainConfig, split: ClassSplit, space: LabelSpace, grid: Grid, geometry: GridGeometry
) -> Objective:
    """Of the first step: FCN and embedding head on pixels of train_seen.

    With `exposure` also on pixels of train_unseen, without their labels.

    Args:
        config: Of the run.
        split: Its classes.
        space: Their embeddings.
        grid: Backbone and embedding head.
        geometry: Where the grid's nodes lie among the frame's pixels.
    """
    labels = torch.from_numpy(space.scaled if config.loss == "mse" else space.unit)
    seen = torch.from_numpy(split.is_member(split.train_seen))
    averages = config.reduction == "mean"

    def loss(frames: Tensor, every: Tensor) -> Tensor:
        pixels = upsample(grid(frames).float(), (every.shape[1], every.shape[2]), geometry)
        known, wanted = seen.to(pixels.device), labels.to(pixels.device)
        target = _only(every, known) if config.exposure else every
        if config.loss == "cosine":
            value = losses.cosine_loss(pixels, target, wanted)
        elif config.loss == "mse":
            value = losses.mse_loss(pixels, target, wanted)
        elif config.loss == "cross_entropy":
            value = losses.softmax_loss(pixels, target, known)
        else:
            value = losses.cosine_ce_loss(pixels, target, wanted, known, config.similarity_scale)
        if config.exposure:  # each pixel counts once, those of train_unseen by their weight
            share = labelled_pixels(target) / max(labelled_pixels(every), 1)
            strange = losses.exposure_loss(pixels, every, wanted, known, config.similarity_scale)
            value = share * value + (1 - share) * config.exposure * strange
        return value if averages else value * (labelled_pixels(every) / len(every))

    return Objective(loss=loss, weight=labelled_pixels if averages else lambda t: float(len(t)))


def seenmask_objective(
    config: TrainConfig,
    split: ClassSplit,
    pixels: NDArray[np.int64],
    grid: Grid,
    geometry: GridGeometry,
) -> Objective:
    """Of the second step: seenmask head on the frozen FCN, pixels of all labels but U.

    Args:
        config: Of the run.
        split: Its classes.
        pixels: Of shape (labels,): pixels per label, for the balance of both sides.
        grid: Frozen backbone and seenmask head.
        geometry: Where the grid's nodes lie among the frame's pixels.
    """
    seen = torch.from_numpy(split.is_member(split.train_seen))
    weights = _balance(split, pixels) if config.balance_seenmask else None

    def loss(frames: Tensor, target: Tensor) -> Tensor:
        scores = upsample(grid(frames).float(), (target.shape[1], target.shape[2]), geometry)
        sides = None if weights is None else weights.to(scores.device)
        return losses.seenmask_loss(scores, target, seen.to(scores.device), sides)

    def weight(target: Tensor) -> float:
        if weights is None:
            return labelled_pixels(target)
        known = target[target != VOID].cpu().long()  # uint8 would be a mask, not indices
        return float(weights[seen[known].long()].sum())

    return Objective(loss=loss, weight=weight)


def _only(target: Tensor, members: Tensor) -> Tensor:
    """Targets (N, H, W) with the pixels of other labels void."""
    other = torch.zeros_like(target, dtype=torch.bool)
    known = target != VOID
    other[known] = ~members[target[known]]
    return target.masked_fill(other, VOID)


def _balance(split: ClassSplit, pixels: NDArray[np.int64]) -> Tensor:
    """Weights (unseen, seen) that give both sides of the seenmask the same sum."""
    seen = float(pixels[split.indices(split.train_seen)].sum())
    unseen = float(pixels[split.indices(split.train_unseen)].sum())
    return torch.tensor([(seen + unseen) / (2 * unseen), (seen + unseen) / (2 * seen)])
