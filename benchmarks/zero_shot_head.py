"""The embedding head once more, on frozen features and with all labels counting the same.

After the first step the features are good but the head has mostly learnt what covers most pixels.
Training the last layer anew on balanced samples is the second half of decoupled training (Kang et
al. 2020, "Decoupling representation and classifier for long-tailed recognition", cRT). It says more
of seen labels that cover few pixels, not of labels that it has never met: alone it finds fewer of
those (`ZERO_SHOT.md`), and what it gains comes from more dimensions and other words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from szn_runtime.errors import InputError

__all__ = ["EmbeddingHead", "refit_embedding"]

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


def refit_embedding(
    features: NDArray[np.floating],
    labels: NDArray[np.integer],
    targets: NDArray[np.float32],
    *,
    scale: float,
    steps: int = 100,
    cells_per_label: int = 300,
    seed: int = 0,
) -> EmbeddingHead:
    """Train a linear head by cross-entropy over scaled cosines, from zero and for few steps.

    Args:
        features: (P, C) of cells whose labels are in train_seen.
        labels: (P,) their rows in `targets`.
        targets: (S, j) unit embeddings of train_seen.
        scale: Factor on the cosines.
        steps: Of Adam, in batches of 1024 cells.
        cells_per_label: At most so many cells of each label, chosen at random.
        seed: Of that choice and of the batches.

    Returns:
        The head, on the features as they come.

    Raises:
        InputError: If there are no cells, shapes do not fit, or a label has no row in `targets`.
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
    random = np.random.default_rng(seed)
    rows = np.concatenate([
        random.permutation(np.flatnonzero(labels == label))[:cells_per_label]
        for label in range(len(targets))
    ])  # fmt: skip
    x = torch.from_numpy(np.asarray(features[np.sort(rows)], np.float32))
    truth = torch.from_numpy(labels[np.sort(rows)].astype(np.int64))
    mean, deviation = x.mean(0), x.std(0, unbiased=False) + _TINY
    x = (x - mean) / deviation
    directions = torch.from_numpy(np.asarray(targets, np.float32))
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
        shifted = bias - folded @ mean
    return EmbeddingHead(weight=folded.contiguous().numpy(), bias=shifted.numpy())
