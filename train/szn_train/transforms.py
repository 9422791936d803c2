"""From image and mask to tensors: the runtime's own preprocessing, or augmented crops."""

from __future__ import annotations

from collections.abc import Callable

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
(H', W') int64."""


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

    def transform(image: NDArray[np.uint8], target: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        layout = layout_of((image.shape[0], image.shape[1]), preprocess, resize=resize)
        frame = np.empty((3, *layout.padded_hw), dtype=np.float32)
        normalise_into(image, layout, preprocess, frame)
        height, width = layout.resized_hw
        padded = np.full(layout.padded_hw, VOID, dtype=np.uint8)
        padded[:height, :width] = cv2.resize(
            target, (width, height), interpolation=cv2.INTER_NEAREST_EXACT
        )
        return torch.from_numpy(frame), torch.from_numpy(padded).long()

    return transform


def augmented(
    preprocess: Preprocess, crop_hw: tuple[int, int], *, resize: bool = True
) -> Transform:
    """Random scale of 0.75 to 1.5 times the nominal size, crop, flip and colour.

    Randomness comes from torch's generator. What lies outside the frame is void and has the
    network's zero.
    """
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    swap = preprocess.channel_order == "rgb"
    fill = {
        tv_tensors.Image: [round(value) for value in preprocess.mean],
        tv_tensors.Mask: VOID,
    }
    geometric = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomCrop(crop_hw, pad_if_needed=True, fill=fill),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3),
        ]
    )
    mean = torch.tensor(preprocess.mean)[:, None, None]
    std = torch.tensor(preprocess.std)[:, None, None]

    def transform(image: NDArray[np.uint8], target: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        scale = 0.75 * 2.0 ** float(torch.rand(()))  # log-uniform in 0.75 to 1.5
        layout = plan(
            image.shape[:2],
            long_side=max(
                round((preprocess.long_side if resize else max(image.shape[:2])) * scale), 1
            ),
            multiple=1,
        )
        height, width = layout.resized_hw
        shrinks = height < image.shape[0]
        resized = cv2.resize(
            image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
        labels = cv2.resize(target, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        ordered = resized[:, :, ::-1] if swap else resized
        picture = tv_tensors.Image(torch.from_numpy(ordered.copy()).permute(2, 0, 1))  # HWC -> CHW
        picture, mask = geometric(picture, tv_tensors.Mask(torch.from_numpy(labels)))
        frame = (picture.as_subclass(Tensor).float() - mean) / std
        return frame, mask.as_subclass(Tensor).long()

    return transform
