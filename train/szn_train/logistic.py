"""Weighted logistic regression, small enough for a grid's cells on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from szn_runtime.errors import InputError

__all__ = ["Logistic", "fit_logistic"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Logistic:
    """`logit = inputs @ weight + bias`, on the inputs as they come.

    Attributes:
        weight: (F,) float64.
        bias: A number.
    """

    weight: NDArray[np.float64]
    bias: float

    def __call__(self, inputs: NDArray[np.floating]) -> NDArray[np.float32]:
        """Logits (P,) float32 of inputs (P, F)."""
        logits: NDArray[np.float32] = inputs.astype(np.float32, copy=False) @ self.weight.astype(
            np.float32
        ) + np.float32(self.bias)
        return logits


def fit_logistic(
    inputs: NDArray[np.floating],
    positive: NDArray[np.bool_],
    weights: NDArray[np.floating],
    *,
    l2: float = 1e-2,
    iterations: int = 100,
) -> Logistic:
    """Minimise the weighted mean cross-entropy plus `l2 / 2` times the squared weights.

    Inputs are standardised inside, and the penalty is on those weights, so that it does not depend
    on units. The problem is convex: L-BFGS from zero gives one answer.

    Args:
        inputs: (P, F).
        positive: (P,) which side each is on.
        weights: (P,) how much each counts; scaled to a sum of 1.
        l2: Strength of the penalty, > 0.
        iterations: Of L-BFGS, at most.

    Raises:
        InputError: If one side is empty, shapes do not fit or a number is not finite.
    """
    if inputs.ndim != 2 or positive.shape != inputs.shape[:1] or weights.shape != positive.shape:
        raise InputError(
            "logistic regression",
            got=f"inputs {inputs.shape}, sides {positive.shape}, weights {weights.shape}",
            expected="(P, F), (P,), (P,)",
        )
    if not (positive.any() and (~positive).any()):
        raise InputError("logistic regression needs both sides", got="one of them empty")
    x = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))
    if not bool(torch.isfinite(x).all()):
        raise InputError("inputs of the logistic regression are not finite")
    w = torch.from_numpy(np.asarray(weights, np.float32))
    w = w / w.sum()
    mean = w @ x  # (F,)
    std = (w @ (x - mean).square()).sqrt().clamp_min(1e-6)
    x = (x - mean) / std
    side = torch.from_numpy(positive.astype(np.float32))
    theta = torch.zeros(x.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [theta], max_iter=iterations, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logit = x @ theta[:-1] + theta[-1]
        loss = w @ F.binary_cross_entropy_with_logits(logit, side, reduction="none")
        total = loss + 0.5 * l2 * theta[:-1].square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = theta.detach().double()
    weight = found[:-1] / std.double()
    return Logistic(weight=weight.numpy(), bias=float(found[-1] - weight @ mean.double()))
