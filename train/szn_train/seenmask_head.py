"""A seenmask from frozen features and statistics of the grid, as one module that exports.

The thesis' own seenmask (section 4.3) is the case without statistics and smoothing.
"""

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
    """Logit linear in features and statistics, averaged over neighbouring nodes.

    Args:
        feature_weight: (C,) or None to leave the features out.
        statistics: What computes the statistics, or None to leave them out.
        statistic_weight: (8,) weights of `STATISTICS`; needed with `statistics`.
        bias: Of the logit; greater means more seen pixels.
        window: Nodes along each side of the mean, odd.

    Raises:
        InputError: If nothing is weighed, shapes do not fit or the window is even.
    """

    feature_weight: Tensor | None
    statistic_weight: Tensor | None
    bias: Tensor

    def __init__(
        self,
        *,
        feature_weight: NDArray[np.floating] | None = None,
        statistics: SeenStatistics | None = None,
        statistic_weight: NDArray[np.floating] | None = None,
        bias: float = 0.0,
        window: int = 1,
    ) -> None:
        super().__init__()
        if feature_weight is None and statistics is None:
            raise InputError("a seenmask of nothing", expected="features, statistics or both")
        if (statistics is None) != (statistic_weight is None):
            raise InputError("statistics of a seenmask and their weights come together")
        if statistic_weight is not None and statistic_weight.shape != (len(STATISTICS),):
            raise InputError(
                "weights of the statistics", got=statistic_weight.shape, expected=(len(STATISTICS),)
            )
        if window < 1 or window % 2 == 0:
            raise InputError("window of nodes", got=window, expected="1, 3, 5, ...")
        self.statistics, self.window = statistics, window
        self.register_buffer("bias", torch.tensor([[[[bias]]]], dtype=torch.float32))
        for name, weight in (
            ("feature_weight", feature_weight), ("statistic_weight", statistic_weight),
        ):  # fmt: skip
            row = None if weight is None else torch.from_numpy(np.asarray(weight, np.float32))
            self.register_buffer(name, None if row is None else row[None, :, None, None].clone())

    @classmethod
    def unfitted(cls, *, channels: int, dim: int, labels: int, scale: float) -> StatisticalSeenmask:
        """One of statistics alone that says seen everywhere, to load a fit into.

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
        terms = []
        if self.feature_weight is not None:
            terms.append(F.conv2d(features, self.feature_weight))
        if self.statistics is not None and self.statistic_weight is not None:
            terms.append(F.conv2d(self.statistics(features, embedding), self.statistic_weight))
        logit = sum(terms[1:], start=terms[0]) + self.bias  # (N, 1, h, w)
        if self.window > 1:
            logit = F.avg_pool2d(
                logit, self.window, stride=1, padding=self.window // 2, count_include_pad=False
            )
        return torch.cat([-0.5 * logit, 0.5 * logit], dim=1)
