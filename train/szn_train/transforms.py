"""From image and mask to tensors: the runtime's own preprocessing, or augmented crops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from szn_runtime._cv import cv2
from szn_runtime.bundle import Preprocess
from szn_runtime.preprocess import Layout, normalise_into, plan
from szn_train.backbones import BackboneInfo
from szn_train.classes import VOID

__all__ = ["Transform", "augmented", "layout_of", "plain", "preprocess_of"]

Transform = Callable[[NDArray[np.uint8], NDArray[np.uint8]], tuple[Tensor, Tensor]]
"""Image (H, W, 3) BGR and label indices (H, W) to a frame (3, H', W') float32 and a target
(H', W') int64. It is pickled where other processes prepare batches."""


def preprocess_of(info: BackboneInfo, long_side: int) -> Preprocess:
    """The backbone's preprocessing as the bundle's manifest states it."""
    return Preprocess(
        mean=info.mean,
        std=info.std,
        channel_order=info.channel_order,
        long_side=long_side,
        multiple=info.multiple,
    )


def layout_of(frame_hw: tuple[int, int], preprocess: Preprocess, *, resize: bool = True) -> Layout:
    """Sizes on the way to the network: of a frame that is resized, or keeps its own size."""
    long_side = preprocess.long_side if resize else max(frame_hw)
    return plan(frame_hw, long_side=long_side, multiple=preprocess.multiple)


def plain(preprocess: Preprocess, *, resize: bool = True) -> Transform:
    """The runtime's preprocessing: whole frame, padded right and bottom; the mask with void."""
    return _Plain(preprocess=preprocess, resize=resize)


def augmented(
    preprocess: Preprocess, crop_hw: tuple[int, int], *, resize: bool = True
) -> Transform:
    """Random scale, crop, flip and colour: `szn_train.augmentation.Augmentation`."""
    from szn_train.augmentation import Augmentation  # torchvision takes long to import

    return Augmentation(preprocess, crop_hw, resize=resize)


@dataclass(frozen=True, kw_only=True)
class _Plain:
    """What `plain` gives; an object, because it goes to the processes that prepare batches."""

    preprocess: Preprocess
    resize: bool

    def __call__(
        self, image: NDArray[np.uint8], target: NDArray[np.uint8]
    ) -> tuple[Tensor, Tensor]:
        layout = layout_of((image.shape[0], image.shape[1]), self.preprocess, resize=self.resize)
        frame = np.empty((3, *layout.padded_hw), dtype=np.float32)
        normalise_into(image, layout, self.preprocess, frame)
        height, width = layout.resized_hw
        padded = np.full(layout.padded_hw, VOID, dtype=np.uint8)
        padded[:height, :width] = cv2.resize(
            target, (width, height), interpolation=cv2.INTER_NEAREST_EXACT
        )
        return torch.from_numpy(frame), torch.from_numpy(padded).long()
