"""Random changes to a picture and its mask, the same whichever process makes them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from szn_runtime._cv import cv2
from szn_runtime.bundle import Preprocess
from szn_runtime.preprocess import plan
from szn_train.classes import VOID

__all__ = ["Augmentation"]


class _Picture(tv_tensors.Image):  # type: ignore[misc]
    """A picture (3, H, W) uint8 with a contrast of its own.

    torchvision's is around a mean of floating-point numbers, whose last bit depends on the number
    of threads, of which a process that prepares batches has one.
    """


@functional.register_kernel(functional.adjust_contrast, _Picture)  # type: ignore[untyped-decorator]
def _adjust_contrast(picture: Tensor, contrast_factor: float) -> Tensor:
    """The formula of torchvision around an exact mean."""
    grey = functional.rgb_to_grayscale(picture).as_subclass(Tensor)
    mean = int(grey.sum(dtype=torch.int64)) / grey.numel()
    moved = picture.as_subclass(Tensor) * contrast_factor + mean * (1 - contrast_factor)
    result: Tensor = tv_tensors.wrap(moved.clamp_(0, 255).to(torch.uint8), like=picture)
    return result


class Augmentation:
    """Random scale of 0.75 to 1.5 times the nominal size, crop, flip and colour.

    Randomness comes from torch's generator. What lies outside the frame is void and has the
    network's zero.

    Args:
        preprocess: Nominal size, mean, deviation and channel order.
        crop_hw: Size of what comes out.
        resize: False takes the frame's own size as nominal.
    """

    def __init__(
        self, preprocess: Preprocess, crop_hw: tuple[int, int], *, resize: bool = True
    ) -> None:
        self._long_side = preprocess.long_side if resize else None
        self._swap = preprocess.channel_order == "rgb"
        fill = {
            _Picture: [round(value) for value in preprocess.mean],
            tv_tensors.Mask: VOID,
        }
        self._geometric = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomCrop(crop_hw, pad_if_needed=True, fill=fill),
                v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3),
            ]
        )
        self._mean = torch.tensor(preprocess.mean)[:, None, None]
        self._std = torch.tensor(preprocess.std)[:, None, None]

    def __call__(
        self, image: NDArray[np.uint8], target: NDArray[np.uint8]
    ) -> tuple[Tensor, Tensor]:
        """A frame (3, h, w) float32 and a target (h, w) int64 of the crop's size.

        Args:
            image: (H, W, 3) uint8 BGR.
            target: (H, W) uint8 label indices.
        """
        scale = 0.75 * 2.0 ** float(torch.rand(()))  # log-uniform in 0.75 to 1.5
        nominal = self._long_side or max(image.shape[:2])
        layout = plan(image.shape[:2], long_side=max(round(nominal * scale), 1), multiple=1)
        height, width = layout.resized_hw
        shrinks = height < image.shape[0]
        resized = cv2.resize(
            image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
        labels = cv2.resize(target, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        ordered = resized[:, :, ::-1] if self._swap else resized
        picture = _Picture(torch.from_numpy(ordered.copy()).permute(2, 0, 1))  # HWC -> CHW
        picture, mask = self._geometric(picture, tv_tensors.Mask(torch.from_numpy(labels)))
        frame = (picture.as_subclass(Tensor).float() - self._mean) / self._std
        return frame, mask.as_subclass(Tensor).long()
