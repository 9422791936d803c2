"""The embedding head once more, on frozen features and with all labels counting the same.

After the first step the features are good but the head has mostly learnt what covers most pixels.
Training the last layer anew on balanced samples is the second half of decoupled training (Kang et
al. 2020, "Decoupling representation and classifier for long-tailed recognition", cRT). Few steps
from near zero keep the head from following the labels that it is taught so closely that it knows
less of others; what a single head knows of those depends on its sample, the mean of several less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from szn_runtime.errors import InputError, TrainingError
from szn_train.classes import ClassSplit
from szn_train.memory import memory_for
from szn_train.semantic import LabelSpace

__all__ = ["EmbeddingHead", "fit_embedding", "most_cells", "refit_embedding"]

_HEADS = 10
_CELLS_PER_LABEL = 300
_BATCH = 1024
_RATE = 3e-3
_L2 = 1e-4
_TINY = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingHead:
    """A 1x1 convolution from features to embeddings.

    Attributes:
        weight: (j, C) float32.
        bias: (j,) float32.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __call__(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Embeddings (P, j) float32 of features (P, C)."""
        embeddings: NDArray[np.float32] = (
            features.astype(np.float32, copy=False) @ self.weight.T + self.bias
        )
        return embeddings

    def load_into(self, convolution: nn.Conv2d) -> None:
        """Give a 1x1 convolution of C channels to j these weights, and its bias."""
        convolution.load_state_dict({
            "weight": torch.from_numpy(self.weight[:, :, None, None]),
            "bias": torch.from_numpy(self.bias),
        })  # fmt: skip


def most_cells(split: ClassSplit) -> int:
    """Cells of train_seen that all heads together can take."""
    return _HEADS * _CELLS_PER_LABEL * len(split.train_seen)


def fit_embedding(
    labels: NDArray[np.uint8],
    features: NDArray[np.floating],
    split: ClassSplit,
    space: LabelSpace,
    *,
    scale: float,
    seed: int,
) -> EmbeddingHead:
    """Fit an embedding head on cells of a frozen network (`GridReader.seen_features`).

    Args:
        labels: (P,) of cells of train_seen, in images that train the embedding.
        features: (P, C) of them. Beside these, a head's cells as float32 take twice 256 MiB at
            most.
        split: The classes.
        space: Their embeddings.
        scale: Factor on cosines, as in training.
        seed: Of the heads.

    Raises:
        TrainingError: If there is no cell, or too little memory.
    """
    seen = split.indices(split.train_seen)  # in increasing order
    if not len(labels):
        raise TrainingError(
            "no cell of the grid shows a class of train_seen", fix="give --no-refit-embedding"
        )
    rows = np.searchsorted(seen, labels)
    with memory_for("the embedding head's refit"):
        return refit_embedding(features, rows, space.unit[seen], scale=scale, seed=seed)


def refit_embedding(
    features: NDArray[np.floating],
    labels: NDArray[np.integer],
    targets: NDArray[np.float32],
    *,
    scale: float,
    heads: int = _HEADS,
    steps: int = 100,
    cells_per_label: int = _CELLS_PER_LABEL,
    seed: int,
) -> EmbeddingHead:
    """The mean of linear heads, each trained by cross-entropy over scaled cosines for few steps.

    Each starts near zero and has a sample of its own.

    Args:
        features: (P, C) of cells whose labels are in train_seen.
        labels: (P,) their rows in `targets`.
        targets: (S, j) unit embeddings of train_seen.
        scale: Factor on the cosines.
        heads: Of the mean, 1 or more.
        steps: Of Adam, in batches of 1024 cells.
        cells_per_label: At most so many cells of each label, chosen at random for each head.
        seed: Those of the heads follow from it: of that choice, of the start and of the batches.

    Returns:
        The head, on the features as they come.

    Raises:
        InputError: If there are no cells or heads, shapes do not fit, or a label has no row in
            `targets`.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise InputError(
            "cells of the embedding's refit",
            got=f"features {features.shape} and labels {labels.shape}",
            expected="(P, C) and (P,), one cell or more",
        )
    if labels.min() < 0 or labels.max() >= len(targets):
        raise InputError(
            "labels of the embedding's refit",
            got=f"{labels.min()} to {labels.max()}",
            expected=f"0 to {len(targets) - 1}, rows of the targets",
        )
    if heads < 1:
        raise InputError("heads of the embedding's refit", got=heads, expected="1 or more")
    directions = torch.from_numpy(np.asarray(targets, np.float32))
    weight = torch.zeros(directions.shape[1], features.shape[1])
    bias = torch.zeros(directions.shape[1])
    for own in np.random.SeedSequence(seed).generate_state(heads).tolist():
        rows = _balanced(labels, len(targets), cells_per_label, own)
        x = torch.from_numpy(np.asarray(features[rows], np.float32))
        truth = torch.from_numpy(labels[rows].astype(np.int64))
        one = _trained(x, truth, directions, scale=scale, steps=steps, seed=own)
        weight += one[0] / heads
        bias += one[1] / heads
    return EmbeddingHead(weight=weight.numpy(), bias=bias.numpy())


def _balanced(labels: NDArray[np.integer], count: int, most: int, seed: int) -> NDArray[np.integer]:
    """Rows of at most so many cells of each of `count` labels, in order."""
    random = np.random.default_rng(seed)
    rows = [random.permutation(np.flatnonzero(labels == n))[:most] for n in range(count)]
    return np.sort(np.concatenate(rows))


def _trained(
    x: Tensor, truth: Tensor, directions: Tensor, *, scale: float, steps: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Weight (j, C) and bias (j,) of a head, from features (P, C) and labels (P,)."""
    mean, deviation = x.mean(0), x.std(0, unbiased=False) + _TINY
    x = (x - mean) / deviation
    generator = torch.Generator().manual_seed(seed)
    weight = 0.01 * torch.randn(x.shape[1], directions.shape[1], generator=generator)
    weight.requires_grad_()
    bias = torch.zeros(directions.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=_RATE)
    for _ in range(steps):
        chosen = torch.randint(len(x), (_BATCH,), generator=generator)
        cosines = F.normalize(x[chosen] @ weight + bias, dim=1) @ directions.T
        loss = F.cross_entropy(scale * cosines, truth[chosen]) + _L2 * weight.square().sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        folded = (weight / deviation[:, None]).T  # (j, C), on features that are not standardised
        return folded, bias - folded @ mean
