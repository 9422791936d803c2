"""The photo that benchmarks run on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szn_runtime.sources.images import read_image

__all__ = ["photo"]


def photo(path: Path | None = None) -> NDArray[np.uint8]:
    """A photo, (H, W, 3) uint8 BGR.

    Args:
        path: Of an image file, None for scikit-learn's sample photo.

    Raises:
        SourceError: If the file cannot be read or is no image.
    """
    if path is not None:
        return read_image(path)
    from sklearn.datasets import load_sample_images

    image: NDArray[np.uint8] = load_sample_images().images[0]  # RGB
    return np.ascontiguousarray(image[:, :, ::-1])
