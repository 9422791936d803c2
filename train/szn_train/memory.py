"""Out of memory as one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from szn_runtime.errors import TrainingError

__all__ = ["memory_for"]

_CPU_MESSAGES = ("can't allocate memory", "not enough memory")
"""What torch's CPU allocators say in a RuntimeError."""


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """A context for work that may need more memory than there is.

    Args:
        what: The work and its size, for the message.

    Raises:
        TrainingError: If memory runs out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(text in str(error) for text in _CPU_MESSAGES):
            raise
        raise TrainingError(
            f"out of memory for {what}",
            fix="lower batch_size and raise accumulation, lower long_side or crop_hw, or train "
            "with --precision bf16; --resume goes on from the last checkpoint",
        ) from error
