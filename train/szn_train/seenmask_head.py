"""A seenmask from statistics of the grid, as one module that exports."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from szn_runtime.errors import InputError
from szn_train.seen_statistics import COMPONENTS, STATISTICS, SeenStatistics

__all__ = ["StatisticalSeenmask"]


class StatisticalSeenmask(nn.Module):
    """Logit linear in statistics.

    Args:
        statistics: What computes them.
        statistic_weight: (8,) weights of `STATISTICS`.
        bias: Of the logit; greater means more seen pixels.

    Raises:
        InputError: If there are not as many weights as statistics.
    """

    statistic_weight: Tensor
    bias: Tensor

    def __init__(
        self,
        *,
        statistics: SeenStatistics,
        statistic_weight: NDArray[np.floating],
        bias: float = 0.0,
    ) -> None:
        super().__init__()
        if statistic_weight.shape != (len(STATISTICS),):
            raise InputError(
                "weights of the statistics", got=statistic_weight.shape, expected=(len(STATISTICS),)
            )
        self.statistics = statistics
        self.register_buffer("bias", torch.tensor([[[[bias]]]], dtype=torch.float32))
        weight = torch.from_numpy(statistic_weight.astype(np.float32))
        self.register_buffer("statistic_weight", weight[None, :, None, None])

    @classmethod
    def unfitted(cls, *, channels: int, dim: int, labels: int, scale: float) -> StatisticalSeenmask:
        """One that says seen everywhere, to load a fit into.

        Args:
            channels: C of the features.
            dim: j of the embedding.
            labels: S of train_seen, 2 or more.
            scale: Factor on cosines in the softmax.

        Raises:
            InputError: If there are fewer labels.
        """
        statistics = SeenStatistics.unfitted(
            channels=channels,
            dim=dim,
            labels=labels,
            components=min(COMPONENTS, channels),
            scale=scale,
        )
        return cls(statistics=statistics, statistic_weight=np.zeros(len(STATISTICS)), bias=1.0)

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        """(N, C, h, w) and (N, j, h, w) to (N, 2, h, w): scores of unseen and seen."""
        statistics = self.statistics(features, embedding)
        logit = F.conv2d(statistics, self.statistic_weight) + self.bias  # (N, 1, h, w)
        return torch.cat([-0.5 * logit, 0.5 * logit], dim=1)
