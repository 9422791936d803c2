from __future__ import annotations

import numpy as np
import pytest

from szn_runtime.errors import InputError
from szn_runtime.segmentation import Segmentation
from tests.runtime import catalogue


def segmentation(labels: list[list[int]], dtype: type = np.uint8) -> Segmentation:
    label_map = np.array(labels, dtype)
    return catalogue.segmentation(label_map, seenmask=label_map < 3)


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
        with pytest.raises(InputError, match="label map, seenmask and frame differ in size"):
            catalogue.segmentation(good.labels, **wrong)


def test_confidence_is_found_when_it_is_asked_for() -> None:
    red = catalogue.colour_embedding(catalogue.COLOURS_RGB["red"])[:, None, None]
    result = catalogue.segmentation(np.array([[0, 4]], np.uint8), embedding=2 * red)
    labels = catalogue.colour_labels().embeddings.astype(float)
    expected = labels[[0, 4]] @ red[:, 0, 0] / np.linalg.norm(red)
    np.testing.assert_allclose(result.confidence, expected[None], atol=1e-6)
    assert result.confidence is result.confidence  # once
    given = np.zeros((1, 2), np.float32)
    assert catalogue.segmentation(result.labels, cosines=given).confidence is given


def test_unknown_pixels_have_a_name() -> None:
    names = (*catalogue.COLOURS_RGB, "unknown")
    seen = np.append(catalogue.colour_labels().seen, False)
    result = catalogue.segmentation(np.array([[0, 6, 6]], np.uint8), names=names, seen=seen)
    assert list(result.shares) == ["unknown", "red"]
    assert [region.label for region in result.regions(1)] == [6, 0]
    assert result.overlay().shape == (1, 3, 3)
