from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from szn_export.gate_images import calibration_frames, gate_data, gate_ids
from szn_runtime.errors import InputError
from szn_train.classes import ClassSplit
from szn_train.datasets import Dataset
from szn_train.datasets.voc import VOC_CLASSES
from szn_train.run import Run
from tests.export.conftest import Exported
from tests.train import trees


@pytest.fixture
def voc_run(exported: Exported, tmp_path: Path) -> Run:
    """The tiny run, as if it had been trained on PASCAL VOC."""
    root = trees.write_voc_sbd(tmp_path / "pascal")
    config = dataclasses.replace(
        exported.run.config, data=str(root), dataset="voc", void=(), train_unseen=(), unseen=()
    )
    return dataclasses.replace(exported.run, config=config, split=ClassSplit(names=VOC_CLASSES))


def test_the_gate_reads_the_kind_of_data_set_of_the_run(voc_run: Run) -> None:
    data = gate_data(voc_run, images=None, count=2)
    masks = [mask for _, mask in trees.voc_pairs(trees.VAL).values()]
    assert data.truths is not None
    for truth, mask in zip(data.truths, (masks[0], masks[-1]), strict=True):
        np.testing.assert_array_equal(truth, mask)  # every class is a label, 255 stays void


def test_calibration_reads_the_training_split(exported: Exported, voc_run: Run) -> None:
    preprocess = exported.bundle.manifest.preprocess
    frames = calibration_frames(voc_run, preprocess, images=None, count=3)
    assert [frame.shape for frame in frames] == [(1, 3, 64, 64)] * 3


def test_a_data_set_that_is_gone_asks_for_photos(voc_run: Run) -> None:
    config = dataclasses.replace(voc_run.config, data="gone")
    with pytest.raises(InputError, match="data set gone is not there; give --images a folder of p"):
        gate_data(dataclasses.replace(voc_run, config=config), images=None, count=2)


class Masks:
    """Ten images of grass; 3, 5, 6 and 8 show the class of U as well."""

    ids = tuple(f"i{number}" for number in range(10))

    def __init__(self) -> None:
        self.read: list[str] = []

    def mask(self, image_id: str) -> NDArray[np.uint8]:
        self.read.append(image_id)
        mask = np.zeros((4, 4), np.uint8)
        mask[1, 2] = 2 if image_id in ("i3", "i5", "i6", "i8") else 1
        return mask


@pytest.mark.parametrize(
    ("unseen", "count", "expected"),
    [
        (("sheep",), 4, "0389"),  # two of U, the first and the last; two of the others
        (("sheep",), 1, "0"),
        (("sheep",), 100, "0123456789"),
        ((), 4, "0369"),
        (("boat",), 4, "0369"),  # no image shows it
    ],
)
def test_up_to_half_of_the_images_show_a_class_of_u(
    unseen: tuple[str, ...], count: int, expected: str
) -> None:
    split = ClassSplit(names=("grass", "tree", "sheep", "boat"), unseen=unseen)
    found = gate_ids(cast("Dataset", Masks()), split, count)
    assert found == [f"i{number}" for number in expected]


@pytest.mark.parametrize(("count", "read"), [(9, 10), (10, 0), (11, 0)])
def test_no_mask_is_looked_at_where_all_images_are_taken(count: int, read: int) -> None:
    masks = Masks()
    split = ClassSplit(names=("grass", "tree", "sheep"), unseen=("sheep",))
    assert len(gate_ids(cast("Dataset", masks), split, count)) == min(count, 10)
    assert masks.read == list(masks.ids[:read])
