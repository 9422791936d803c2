from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from szn_runtime.errors import TrainingError
from szn_train.backbones import Backbone, BackboneInfo
from szn_train.cell_sample import Cells, GridReader
from szn_train.datasets import FolderDataset, select
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.progress import Progress
from szn_train.seen_statistics import STATISTICS, fit_statistics
from szn_train.seenmask_fit import MOST_CELLS, _table, fit_seen, fit_seenmask
from szn_train.seenmask_regression import CellTable
from szn_train.semantic import LabelSpace
from szn_train.transforms import plain, preprocess_of
from tests.train import catalogue

UNIT = np.eye(3, dtype=np.float32)[:2]


def images(count: int) -> Iterator[Cells]:
    """Of each image 60 cells of label 3, one of 4 and 20 of 0, numbered in their first feature."""
    rng = np.random.default_rng(5)
    for image in range(count):
        features = rng.normal(size=(81, 4)).astype(np.float32)
        features[:, 0] = 100 * image + np.arange(81)
        labels = np.array([3] * 60 + [4] + [0] * 20, np.uint8)
        yield Cells(features=features, embedding=features[:, :3], labels=labels)


def tabled(count: int, most: int | None) -> CellTable:
    features = np.random.default_rng(0).normal(size=(40, 4))
    statistics = fit_statistics(features, np.repeat([0, 1], 20), UNIT, scale=10.0, components=2)
    return _table(images(count), statistics, UNIT, np.array([3, 4]), most, seed=3)


@pytest.mark.parametrize("most", [1200, 5000])
def test_cells_up_to_the_bound_all_stay_in_order(most: int) -> None:
    whole, found = tabled(20, None), tabled(20, most)
    assert np.bincount(found.labels)[3:].tolist() == [1200, 20]
    for column in ("statistics", "nearest", "labels", "images"):
        np.testing.assert_array_equal(getattr(found, column), getattr(whole, column))


def test_more_cells_are_an_even_and_repeatable_sample() -> None:
    found = tabled(50, 100)
    assert np.bincount(found.labels)[3:].tolist() == [100, 50]
    assert (np.diff(found.images) >= 0).all()
    assert found.images[found.labels == 3].mean() == pytest.approx(24.5, abs=4)
    whole = tabled(50, None)
    norms = STATISTICS.index("feature_norm")
    assert np.isin(found.statistics[:, norms], whole.statistics[:, norms]).all()
    rows = np.flatnonzero(np.isin(whole.statistics[:, norms], found.statistics[:, norms]))
    np.testing.assert_array_equal(found.images, whole.images[rows])  # rows stay together
    again = tabled(50, 100)
    np.testing.assert_array_equal(again.statistics, found.statistics)


def test_a_network_on_images(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The mean colour of 4 x 4 pixels is the feature; sheep are white, and nothing fitted is."""
    root = catalogue.write_dataset(
        tmp_path_factory.mktemp("fit") / "data", catalogue.many_scenes(4)
    )
    dataset = FolderDataset(root=root, split="train")
    info = BackboneInfo(
        name="pool", channels=3, stride=4, node_offset=1.5, multiple=4,
        mean=(127.5,) * 3, std=(127.5,) * 3,
    )  # fmt: skip
    network = SeenmaskZeroShotNetwork(Backbone(nn.AvgPool2d(4), info), dim=3).eval()
    split = catalogue.SPLIT
    colours = np.array([catalogue.COLOURS_RGB[n] for n in split.labels], np.float32) / 127.5 - 1
    space = LabelSpace(names=split.labels, embeddings=colours, source="colours")
    with torch.no_grad():
        network.embedding_head.weight.copy_(torch.eye(3)[:, :, None, None])
    chosen = select(dataset, split, hold_share=0.25, seed=1)
    kept = set(chosen.embedding_ids)

    def fit() -> nn.Module:
        transform = plain(preprocess_of(info, 64))
        grids = GridReader(network, dataset, split, transform, Progress(quiet=True))
        (sample,) = grids.seen_features([(chosen.seenmask_ids, MOST_CELLS)], seed=0)
        found = fit_seenmask(
            fit_seen(*sample, split, space, scale=10.0),
            grids,
            split,
            space,
            taught_ids=[i for i in chosen.seenmask_ids if i not in kept],
            hold_ids=chosen.hold_ids,
            drop=1.5,
            seed=0,
        )
        assert found.found > 0.95
        assert found.lost < 0.1
        assert "of those of train_unseen; mIoU of train_seen" in found.line()
        return found.head

    head = fit()
    assert head.statistics.directions.shape == (4, 3, 1, 1)
    image, mask = catalogue.scene("sky", "grass", "sheep", seed=77)
    frame, _ = plain(preprocess_of(info, 64))(image, mask)
    with torch.inference_mode():
        features = network.backbone(frame[None])
        scores = head(features, network.embedding_head(features))[0]
    unseen = (scores[1] <= scores[0]).numpy()
    truth = mask[2::4, 2::4]
    assert unseen[truth == catalogue.CLASSES.index("sheep")].mean() > 0.9
    assert unseen[truth == catalogue.CLASSES.index("sky")].mean() < 0.2
    again = fit().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in head.state_dict().items())
    assert len(STATISTICS) == head.statistic_weight.numel()


def test_statistics_need_a_cell_of_train_seen() -> None:
    split = catalogue.SPLIT
    space = LabelSpace(
        names=split.labels, embeddings=np.eye(len(split.labels), dtype=np.float32), source="t"
    )
    none = np.zeros(0, np.uint8), np.zeros((0, 3), np.float16)
    with pytest.raises(TrainingError, match="no cell of the grid shows a class of train_seen; giv"):
        fit_seen(*none, split, space, scale=10.0)
