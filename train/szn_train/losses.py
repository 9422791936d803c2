"""Losses of both training steps. Every one ignores void pixels and averages over the others."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from szn_train.classes import VOID

__all__ = [
    "cosine_ce_loss", "cosine_loss", "exposure_loss", "mse_loss", "seenmask_loss", "softmax_loss",
]  # fmt: skip


def cosine_loss(embedding: Tensor, target: Tensor, label_embeddings: Tensor) -> Tensor:
    """One minus the cosine between each pixel's embedding and its label's (thesis section 4.2).

    Shape:
        embedding: (N, j, H, W); target: (N, H, W) int64, indices into the labels or 255;
        label_embeddings: (K, j) of unit norm. Returns a scalar in [0, 2]; 0 for void only.
    """
    flat, index = _labelled(embedding, target)  # (P, j), (P,)
    cosine = (F.normalize(flat, dim=1) * label_embeddings[index]).sum(dim=1)
    return (1 - cosine).sum() / max(len(index), 1)


def mse_loss(embedding: Tensor, target: Tensor, label_embeddings: Tensor) -> Tensor:
    """Squared difference between each pixel's embedding and its label's (thesis section 4.2).

    Averaged over the dimensions too. Labels come divided by the largest norm
    (`LabelSpace.scaled`), so that all lie in the unit ball and keep the ratios of their norms.

    Shape:
        embedding: (N, j, H, W); target: (N, H, W) int64, indices into the labels or 255;
        label_embeddings: (K, j). Returns a scalar >= 0.
    """
    flat, index = _labelled(embedding, target)  # (P, j), (P,)
    squares = (flat - label_embeddings[index]).square().mean(dim=1)  # (P,)
    return squares.sum() / max(len(index), 1)


def softmax_loss(scores: Tensor, target: Tensor, seen: Tensor) -> Tensor:
    """Cross-entropy of the scores of the seen labels: the loss of FCN-S (Long et al. 2015).

    Shape:
        scores: (N, K, H, W), a channel a label; target: (N, H, W) int64 of seen labels or 255;
        seen: (K,) bool. Returns a scalar >= 0.
    """
    flat, index = _labelled(scores, target)  # (P, K), (P,)
    position = torch.cumsum(seen, dim=0) - 1  # label index -> index among the seen ones
    loss = F.cross_entropy(flat[:, seen], position[index], reduction="sum")
    return loss / max(len(index), 1)


def cosine_ce_loss(
    embedding: Tensor, target: Tensor, label_embeddings: Tensor, seen: Tensor, scale: float
) -> Tensor:
    """Cross-entropy over scaled cosine similarities with the seen labels.

    The softmax's temperature is 1 / `scale`. Unlike the cosine loss it also pushes a pixel away
    from the other labels, which a space where all words are similar needs.

    Shape:
        embedding: (N, j, H, W); target: (N, H, W) int64 of seen labels or 255;
        label_embeddings: (K, j) of unit norm; seen: (K,) bool. Returns a scalar >= 0.
    """
    flat, index = _labelled(embedding, target)  # (P, j), (P,)
    similarity = F.normalize(flat, dim=1) @ label_embeddings[seen].T  # (P, seen)
    position = torch.cumsum(seen, dim=0) - 1  # label index -> index among the seen ones
    loss = F.cross_entropy(scale * similarity, position[index], reduction="sum")
    return loss / max(len(index), 1)


def exposure_loss(
    embedding: Tensor, target: Tensor, label_embeddings: Tensor, seen: Tensor, scale: float
) -> Tensor:
    """How far pixels of other than seen labels are from no preference among the seen ones.

    Cross-entropy between equal shares and the softmax of `cosine_ce_loss`, less its least value
    (the entropic open-set loss of Dhamija et al. 2018). Pixels of seen labels do not count.

    Shape:
        embedding: (N, j, H, W); target: (N, H, W) int64 of any labels or 255;
        label_embeddings: (K, j) of unit norm; seen: (K,) bool. Returns a scalar >= 0.
    """
    flat, index = _labelled(embedding, target)  # (P, j), (P,)
    strange = F.normalize(flat[~seen[index]], dim=1) @ label_embeddings[seen].T  # (Q, seen)
    shares = F.log_softmax(scale * strange, dim=1).mean(dim=1)  # (Q,)
    least = math.log(int(seen.sum()))
    return (-shares - least).sum() / max(len(shares), 1)


def seenmask_loss(
    scores: Tensor, target: Tensor, seen: Tensor, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy between the two seenmask channels and whether the label is seen.

    For two channels this is the binary cross-entropy of the thesis (section 4.3).

    Shape:
        scores: (N, 2, H, W), unseen and seen; target: (N, H, W) int64 or 255; seen: (K,) bool;
        class_weights: (2,) or None. Returns a scalar >= 0.
    """
    flat, index = _labelled(scores, target)  # (P, 2), (P,)
    truth = seen[index].long()
    loss = F.cross_entropy(flat, truth, weight=class_weights, reduction="sum")
    total = len(index) if class_weights is None else float(class_weights[truth].sum())
    return loss / max(total, 1e-12)


def _labelled(grid: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Values (P, channels) and labels (P,) of the P pixels that are not void."""
    known = target != VOID
    return grid.permute(0, 2, 3, 1)[known].float(), target[known]  # (N, H, W, j) -> (P, j)
