from __future__ import annotations

import numpy as np
import pytest
import torch

from szn_runtime.errors import TrainingError
from szn_train.classes import ClassSplit
from szn_train.seen_statistics import SeenStatistics, fit_statistics
from szn_train.seenmask_regression import CellTable, SeenCells, fit_table

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
