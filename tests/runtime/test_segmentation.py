from __future__ import annotations

import numpy as np
import pytest

from szn_runtime.errors import InputError
from szn_runtime.segmentation import Segmentation
from tests.runtime import catalogue


def segmentation(labels: list[list[int]], dtype: type = np.uint8) -> Segmentation:
    label_map = np.array(labels, dtype)
    return Segmentation(
        labels=label_map,
        label_set=catalogue.colour_labels(),
        seenmask=label_map < 3,
        image_bgr=np.zeros((*label_map.shape, 3), np.uint8),
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_shares_are_of_present_labels_largest_first(dtype: type) -> None:
    result = segmentation([[0, 5, 5, 5], [0, 2, 4, 5]], dtype)
    assert list(result.shares.items()) == [
        ("blue", 0.5),
        ("red", 0.25),
        ("white", 0.125),
        ("green", 0.125),
    ]
    assert result.names == tuple(catalogue.COLOURS_RGB)


def test_sizes_that_do_not_belong_together() -> None:
    good = segmentation([[0, 1]])
    for wrong in (
        {"seenmask": np.zeros((2, 1), bool)},
        {"image_bgr": np.zeros((2, 1, 3), np.uint8)},
        {"image_bgr": np.zeros((1, 2), np.uint8)},
    ):
        parts = {
            "labels": good.labels,
            "label_set": good.label_set,
            "seenmask": good.seenmask,
            "image_bgr": good.image_bgr,
        }
        with pytest.raises(InputError, match="label map, seenmask and frame differ in size"):
            Segmentation(**{**parts, **wrong})
