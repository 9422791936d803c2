from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from szn_runtime.errors import TrainingError
from szn_train.memory import memory_for


def out_on_the_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    "work", [lambda: torch.empty(2**52), lambda: np.empty(2**55), out_on_the_gpu]
)
def test_whoever_runs_out_of_memory_it_is_one_line(work: Callable[[], object]) -> None:
    expected = r"^out of memory for a batch; lower batch_size .*--resume goes on from the last"
    with pytest.raises(TrainingError, match=expected) as caught, memory_for("a batch"):
        work()
    assert "\n" not in str(caught.value)


def test_enough_memory_is_no_error() -> None:
    with memory_for("a batch"):
        kept = torch.ones(3)
    assert kept.sum() == 3


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), ValueError("x"), OSError("y")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), memory_for("a batch"):
        raise error
