"""Numbers at a node that tell how much it looks like what training has seen.

All of them come from the frozen features and the embedding at the node, by operations that the
exported graph may hold (`szn_runtime.onnx_guard`): 1x1 convolutions, squares, roots, softmax and
maxima. None needs the labels that a user chooses at run time; the labels of train_seen are part of
the model. Features are scaled and distances are means over the components, so that no square or sum
comes near the largest number of half precision.

Dimensions: N frames, C feature channels, j embedding channels, (h, w) grid, S labels of
train_seen, D principal components.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from szn_runtime.errors import InputError
from szn_train.calibration import class_balance

__all__ = ["COMPONENTS", "STATISTICS", "SeenStatistics", "fit_statistics"]

COMPONENTS = 64
"""Of the principal subspace of seen features; a network with fewer channels has them all."""

STATISTICS = (
    "top_cosine", "margin", "impurity", "embedding_norm", "feature_norm", "residual",
    "mahalanobis", "relative_mahalanobis",
)  # fmt: skip
"""Channels of `SeenStatistics`:

`top_cosine`: largest cosine with a label of train_seen. `margin`: that minus the second.
`impurity`: `1 - sum p^2` of the softmax over the seen labels at the training temperature, which
orders nearly as the entropy does and needs no logarithm. `embedding_norm`, `feature_norm`:
Euclidean, of features times a factor with which seen ones have a norm of 8 on average. `residual`:
norm of those features' part outside the principal subspace of seen cells (ViM, Wang et al. 2022).
`mahalanobis`: squared distance to the nearest seen class in that subspace under the classes' common
covariance, divided by the number of components (Lee et al. 2018). `relative_mahalanobis`: that
minus the same under one Gaussian of all seen cells (Ren et al. 2021).
"""

_SHRINKAGE = 0.05
_NORM = 8.0
_TINY = 1e-12
_LEAST = 1e-6  # under roots, in the graph: half precision still has it


class SeenStatistics(nn.Module):
    """Features (N, C, h, w) and embedding (N, j, h, w) to `STATISTICS` (N, 8, h, w).

    Args:
        labels: (S, j) unit embeddings of train_seen, S >= 2.
        scale: Factor on cosines in the softmax, as in training.
        feature_scale: Factor on the features; all else is of scaled ones.
        mean: (C,) mean of seen features.
        basis: (D, C) orthonormal rows: principal subspace of seen features.
        whitening: (D, D): maps a projection to where the classes' common covariance is the
            identity divided by D.
        class_means: (S, D) whitened means of the classes.
        total: (D, D): maps a whitened projection to where all seen cells' covariance is the
            identity divided by D.
        total_mean: (D,) whitened mean of all seen cells.
    """

    labels: Tensor
    feature_scale: Tensor
    directions: Tensor
    offset: Tensor
    mean_square: Tensor
    whitening: Tensor
    class_means: Tensor
    class_squares: Tensor
    total: Tensor
    total_shift: Tensor

    def __init__(
        self,
        *,
        labels: Tensor,
        scale: float,
        feature_scale: Tensor,
        mean: Tensor,
        basis: Tensor,
        whitening: Tensor,
        class_means: Tensor,
        total: Tensor,
        total_mean: Tensor,
    ) -> None:
        super().__init__()
        if len(labels) < 2:
            raise InputError("labels of train_seen", got=len(labels), expected="2 or more")
        self.scale = scale
        self.register_buffer("labels", labels.float()[:, :, None, None])
        self.register_buffer("feature_scale", feature_scale.float().reshape(1, 1, 1, 1))
        # principal axes and, as one more, the mean: one pass over the many feature channels
        mean, basis = mean.float(), basis.float()
        self.register_buffer("directions", torch.cat([basis, mean[None]])[:, :, None, None])
        self.register_buffer("offset", torch.cat([-(basis @ mean), torch.zeros(1)]))
        self.register_buffer("mean_square", mean.square().sum().reshape(1, 1, 1, 1))
        self.register_buffer("whitening", whitening.float()[:, :, None, None])
        self.register_buffer("class_means", class_means.float()[:, :, None, None])
        self.register_buffer("class_squares", class_means.float().square().sum(1))
        self.register_buffer("total", total.float()[:, :, None, None])
        self.register_buffer("total_shift", -(total.float() @ total_mean.float()))

    @classmethod
    def unfitted(
        cls, *, channels: int, dim: int, labels: int, components: int, scale: float
    ) -> SeenStatistics:
        """Zeros of the shapes that a fit has, to load a fit into."""
        return cls(
            labels=torch.zeros(labels, dim),
            scale=scale,
            feature_scale=torch.ones(1),
            mean=torch.zeros(channels),
            basis=torch.zeros(components, channels),
            whitening=torch.zeros(components, components),
            class_means=torch.zeros(labels, components),
            total=torch.zeros(components, components),
            total_mean=torch.zeros(components),
        )

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        """(N, C, h, w) and (N, j, h, w) to (N, 8, h, w)."""
        features = features * self.feature_scale
        embedding_norm = _norm(embedding)
        cosine = F.conv2d(embedding / embedding_norm, self.labels)  # (N, S, h, w)
        top = cosine.amax(dim=1, keepdim=True)
        second = torch.where(cosine >= top, -2.0, cosine).amax(dim=1, keepdim=True)
        share = torch.softmax(self.scale * cosine, dim=1)
        impurity = 1 - share.square().sum(dim=1, keepdim=True)
        products = F.conv2d(features, self.directions, self.offset)  # (N, D + 1, h, w)
        projected, along = products[:, :-1], products[:, -1:]
        squares = _squares(features)
        # |x - m|^2 = |x|^2 - 2 m.x + |m|^2, less what lies in the subspace
        outside = squares - 2 * along + self.mean_square - _squares(projected)
        whitened = F.conv2d(projected, self.whitening)
        # |y - m|^2 = |y|^2 - 2 m.y + |m|^2, the smallest over the classes
        nearer = 2 * F.conv2d(whitened, self.class_means, -0.5 * self.class_squares)
        mahalanobis = _squares(whitened) - nearer.amax(dim=1, keepdim=True)
        background = _squares(F.conv2d(whitened, self.total, self.total_shift))
        return torch.cat(
            [
                top,
                top - second,
                impurity,
                embedding_norm,
                torch.sqrt(squares + _LEAST),
                torch.sqrt(outside.clamp_min(_LEAST)),
                mahalanobis,
                mahalanobis - background,
            ],
            dim=1,
        )

    def of_cells(
        self, features: NDArray[np.floating], embedding: NDArray[np.floating], chunk: int = 8192
    ) -> NDArray[np.float32]:
        """(P, 8) float32 of cells' features (P, C) and embeddings (P, j)."""
        parts = []
        for start in range(0, len(features), chunk):
            rows = slice(start, start + chunk)
            x, e = (
                torch.from_numpy(np.asarray(a[rows], np.float32).T.copy())[None, :, :, None]
                for a in (features, embedding)
            )  # (1, C, P, 1)
            with torch.inference_mode():
                parts.append(self(x, e)[0, :, :, 0].T.numpy())
        return np.concatenate(parts) if parts else np.zeros((0, len(STATISTICS)), np.float32)


def fit_statistics(
    features: NDArray[np.floating],
    labels: NDArray[np.integer],
    seen_labels: NDArray[np.float32],
    *,
    scale: float,
    components: int = COMPONENTS,
) -> SeenStatistics:
    """Fit subspace and Gaussians on cells of train_seen, every class counting the same.

    Classes without a cell take no part in the distances.

    Args:
        features: (P, C) of cells whose labels are in train_seen.
        labels: (P,) their labels.
        seen_labels: (S, j) unit embeddings of train_seen.
        scale: Factor on cosines in the softmax, as in training.
        components: D, at most C.

    Raises:
        InputError: If there is no cell, cells are of more labels than there are in train_seen, or
            there are more components than channels.
    """
    count, channels = features.shape
    if not 1 <= components <= channels:
        raise InputError("principal components", got=components, expected=f"1 to {channels}")
    known = np.unique(labels)
    if not 1 <= len(known) <= len(seen_labels):
        raise InputError(
            "labels of the cells", got=len(known), expected=f"1 to {len(seen_labels)}, of {count}"
        )
    weights = class_balance(labels)[:, None]
    x = np.array(features, np.float32)
    norms = np.linalg.norm(x, axis=1)
    feature_scale = np.float32(_NORM / max(float(weights[:, 0] @ norms), _TINY))
    x *= feature_scale
    mean = (weights.T.astype(np.float32) @ x)[0]  # (C,)
    x -= mean
    root = np.sqrt(weights).astype(np.float32)
    x *= root  # in place: no array is larger
    covariance = x.T @ x  # (C, C)
    _, vectors = np.linalg.eigh(covariance.astype(np.float64))
    basis = vectors[:, ::-1][:, :components].T  # (D, C), the largest first
    y = (x @ basis.T.astype(np.float32)).astype(np.float64) / root  # (P, D)
    means = np.stack([y[labels == k].mean(axis=0) for k in known])  # (known, D)
    inner = y - means[np.searchsorted(known, labels)]
    within = _shrunk((inner * weights).T @ inner)
    whitening = _inverse_root(within) / np.sqrt(components)  # (D, D)
    z, z_means = y @ whitening.T, means @ whitening.T
    # the shape is that of all labels, whatever the fit has met; one twice changes no maximum
    z_means = np.concatenate([z_means, np.repeat(z_means[:1], len(seen_labels) - len(known), 0)])
    total_mean = (weights * z).sum(axis=0)
    spread = z - total_mean
    total = _inverse_root(_shrunk((spread * weights).T @ spread)) / np.sqrt(components)
    tensors = {
        "labels": seen_labels, "feature_scale": feature_scale, "mean": mean, "basis": basis.copy(),
        "whitening": whitening, "class_means": z_means, "total": total, "total_mean": total_mean,
    }  # fmt: skip
    return SeenStatistics(
        scale=scale, **{k: torch.from_numpy(np.array(v, np.float32)) for k, v in tensors.items()}
    )


def _shrunk(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Moved towards a multiple of the identity, so that rare directions do not rule."""
    size = len(covariance)
    shrunk: NDArray[np.float64] = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.trace(
        covariance
    ) / size * np.eye(size)
    return shrunk


def _inverse_root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """A matrix W with `W C W^T = I`."""
    values, vectors = np.linalg.eigh(covariance)
    root: NDArray[np.float64] = vectors.T / np.sqrt(np.maximum(values, _TINY))[:, None]
    return root


def _squares(grid: Tensor) -> Tensor:
    """(N, 1, h, w) sum of squares over the channels."""
    return grid.square().sum(dim=1, keepdim=True)


def _norm(grid: Tensor) -> Tensor:
    """(N, 1, h, w) Euclidean norm over the channels, never 0."""
    return torch.sqrt(_squares(grid) + _LEAST)
