from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from szn_runtime.errors import TrainingError
from szn_train.backbones import Backbone, BackboneInfo
from szn_train.classes import ClassSplit
from szn_train.datasets import FolderDataset, select
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.progress import Progress
from szn_train.seen_statistics import STATISTICS, SeenStatistics, fit_statistics
from szn_train.seenmask_fit import CellTable, SeenCells, _Sample, fit_seenmask, fit_table
from szn_train.semantic import LabelSpace
from szn_train.transforms import plain, preprocess_of
from tests.train import catalogue

SPLIT = ClassSplit(names=("a", "b", "c", "d", "e"), train_unseen=("d",), unseen=("e",))
UNIT = np.eye(3, dtype=np.float32)


def drawn(labels: tuple[int, ...], seed: int, images: int = 24) -> tuple[np.ndarray, ...]:
    """Features, embeddings, labels and image numbers: seen ones around their own axis, d and e
    around others, one of them never fitted on."""
    rng = np.random.default_rng(seed)
    truth = np.tile(np.repeat(np.array(labels, np.uint8), 5), images)
    features = rng.normal(size=(len(truth), 8)) * 0.6
    features[np.arange(len(truth)), truth] += 2
    features[truth >= 3, 7] += 1.5
    embedding = rng.normal(size=(len(truth), 3)) * 0.2
    embedding[np.arange(len(truth)), np.minimum(truth, 2)] += np.where(truth < 3, 2, 0.6)
    number = np.repeat(np.arange(images), 5 * len(labels))
    return features.astype(np.float32), embedding.astype(np.float32), truth, number


@pytest.fixture(scope="module")
def statistics() -> SeenStatistics:
    features, _, labels, _ = drawn((0, 1, 2), 0)
    return fit_statistics(features, labels, UNIT, scale=10.0, components=4)


def table(statistics: SeenStatistics, labels: tuple[int, ...], seed: int) -> CellTable:
    features, embedding, truth, images = drawn(labels, seed)
    return CellTable(
        statistics=statistics.of_cells(features, embedding),
        nearest=(embedding @ UNIT.T).argmax(axis=1),
        labels=truth,
        images=images,
    )


@pytest.mark.parametrize("drop", [0.0, 1.5, 8.0])
def test_a_fit_finds_a_class_that_it_has_never_met_at_the_price_that_was_named(
    statistics: SeenStatistics, drop: float
) -> None:
    hold = table(statistics, (0, 0, 1, 2, 3), 1)
    found = fit_table(statistics, table(statistics, (3,), 2), hold, SPLIT, drop=drop)
    assert found.fcn_je_miou - drop <= found.miou + 1e-9
    features, embedding, truth, _ = drawn((0, 1, 2, 3, 4), 3)
    x, e = (torch.from_numpy(a.T.copy())[None, :, :, None] for a in (features, embedding))
    with torch.inference_mode():
        scores = found.head(x, e)[0, :, :, 0].numpy()
    unseen = scores[1] <= scores[0]
    assert unseen[truth < 3].mean() == pytest.approx(found.lost, abs=0.03)
    assert unseen[truth == 3].mean() == pytest.approx(found.found, abs=0.05)
    assert unseen[truth == 4].mean() > {0.0: 0.2, 1.5: 0.6, 8.0: 0.7}[drop]


def test_the_same_cells_give_the_same_fit(statistics: SeenStatistics) -> None:
    tables = table(statistics, (3,), 2), table(statistics, (0, 1, 2), 1)
    one, two = (fit_table(statistics, *tables, SPLIT, drop=1.5).head.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_price_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    logits = np.array([-1.0, 1.0, 2.0, -3.0, 3.0, 4.0])
    cells = SeenCells(labels=labels, nearest=labels, count=2)
    assert cells.perfect == 100
    assert cells.miou(logits) == 100 * (2 / 4 + 2 / 2) / 2
    for drop, lost in ((0.0, []), (13.0, [3]), (26.0, [0, 3])):
        bias = cells.bias(logits, drop)
        assert np.flatnonzero(logits + bias <= 0).tolist() == lost
    # a cell that had the wrong label anyway costs nothing
    wrong = SeenCells(labels=labels, nearest=np.array([0, 0, 0, 1, 1, 1]), count=2)
    assert wrong.perfect == pytest.approx(100 * (3 / 4 + 2 / 3) / 2)
    assert wrong.miou(logits) == pytest.approx(100 * (2 / 4 + 2 / 2) / 2)
    assert logits[3] + wrong.bias(logits, 0.0) <= 0


@pytest.mark.parametrize(
    ("hold", "said"),
    [
        ((3,), "0 held-out cells of train_seen, 120 of train_unseen"),
        ((0, 1), "240 held-out cells of train_seen, 0 of train_unseen"),
    ],
)
def test_a_side_without_cells(statistics: SeenStatistics, hold: tuple[int, ...], said: str) -> None:
    none = table(statistics, (), 2)
    with pytest.raises(TrainingError, match=rf"{said}; give --seenmask linear"):
        fit_table(statistics, none, table(statistics, hold, 1), SPLIT, drop=1.5)


def test_a_sample_is_bounded_even_and_repeatable() -> None:
    def sampled() -> tuple[np.ndarray, np.ndarray]:
        sample = _Sample([0, 1], 100, seed=3)
        for image in range(50):
            labels = np.array([0] * 60 + [1] + [7] * 20, np.uint8)
            features = np.full((len(labels), 2), image, np.float32)
            sample.add(features, labels)
            assert sum(len(k) for part in sample._kept.values() for k, _ in part) <= 260
        return sample.taken()

    features, labels = sampled()
    assert np.bincount(labels).tolist() == [100, 50]
    assert features.dtype == np.float16
    assert features[labels == 0, 0].mean() == pytest.approx(24.5, abs=4)  # from all images alike
    again = sampled()
    np.testing.assert_array_equal(again[0], features)


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
        found = fit_seenmask(
            network,
            dataset,
            split,
            space,
            train_ids=chosen.seenmask_ids,
            taught_ids=[i for i in chosen.seenmask_ids if i not in kept],
            hold_ids=chosen.hold_ids,
            transform=plain(preprocess_of(info, 64)),
            scale=10.0,
            drop=1.5,
            seed=0,
            progress=Progress(quiet=True),
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
