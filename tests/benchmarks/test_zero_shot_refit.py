from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zero_shot
from zero_shot_draws import OBJECTS, STUFF
from zero_shot_refit import Refit, parse_refit, refitted
from zero_shot_runs import Cells

from szn_runtime.errors import UsageError
from szn_train.classes import ClassSplit
from szn_train.config import TrainConfig
from szn_train.label_words import read_label_words
from szn_train.run import Run, build_network
from szn_train.semantic import LabelSpace, label_space

SPLIT = ClassSplit(
    names=("grass", "sky", "car", "cow", "cat", "boat"),
    train_unseen=("cow", "cat"),
    unseen=("boat",),
)
WORDS = Path("benchmarks/label_words.json")


def cells(seed: int) -> Cells:
    """One row of nodes an image, an image a label; the features say which label it is."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(6), 40).astype(np.uint8)
    features = rng.normal(size=(len(labels), 8)) * 0.3
    features[np.arange(len(labels)), labels] += 2
    return Cells(
        ids=tuple(f"i{n}" for n in range(6)),
        grids_hw=np.array([[1, 40]] * 6),
        features=features.astype(np.float16),
        embedding=np.zeros((len(labels), 3), np.float32),
        seenmask=np.zeros((len(labels), 2), np.float32),
        labels=labels,
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = TrainConfig(
        data="d", dim=3, loss="cosine_ce", backbone="efficientnet_lite0", weights="none",
        train_unseen=SPLIT.train_unseen, unseen=SPLIT.unseen,
    )  # fmt: skip
    return Run(
        folder=tmp_path,
        config=config,
        split=SPLIT,
        space=LabelSpace(
            source="t", names=SPLIT.labels, embeddings=np.ones((6, 3), dtype=np.float32)
        ),
        network=build_network(config, SPLIT),
    )


@pytest.fixture
def words_file(tmp_path: Path) -> Path:
    """Word vectors in which every label of the split and some words more have one."""
    rng = np.random.default_rng(5)
    path = tmp_path / "words.txt"
    words = [*SPLIT.labels, "lawn", "auto", *(f"w{n}" for n in range(40))]
    lines = [f"{word} {' '.join(f'{x:.5f}' for x in rng.normal(size=8))}" for word in words]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_cells_of_seen_labels_end_nearest_their_own(run: Run, words_file: Path) -> None:
    refit = Refit(dim=6, scale=20.0, embeddings=str(words_file))
    parts = {"train": cells(0), "test": cells(1)}
    moved, found = refitted(run, parts, refit)
    assert (moved.config.dim, moved.config.similarity_scale) == (6, 20.0)
    assert moved.space.names == run.space.names
    assert found["test"].embedding.shape == (240, 6)
    seen = np.flatnonzero(found["test"].labels < 3)
    nearest = (found["test"].embedding[seen] @ moved.space.unit[:3].T).argmax(1)
    assert (nearest == found["test"].labels[seen]).mean() > 0.95
    assert found["test"].features is parts["test"].features
    assert run.space.embeddings.shape == (6, 3)  # the run itself stays as it is


def test_words_move_their_label_alone(run: Run, words_file: Path) -> None:
    words = {"grass": ("lawn",), "car": ("auto",), "nowhere": ("lawn",)}
    refit = Refit(dim=6, scale=20.0, words=words, embeddings=str(words_file))
    moved, _ = refitted(run, {"train": cells(0)}, refit)
    plain = label_space(SPLIT.labels, source=str(words_file), dim=6)
    same = (moved.space.embeddings == plain.embeddings).all(axis=1)
    assert same.tolist() == [False, True, False, True, True, True]


@pytest.mark.parametrize(("text", "expected"), [("50x20", (50, 20.0)), ("2x0.5", (2, 0.5))])
def test_dimensions_and_scale(text: str, expected: tuple[int, float]) -> None:
    assert parse_refit(text) == expected


@pytest.mark.parametrize("text", ["50", "x20", "1x20", "50x0", "50x-1", "50 x 20"])
def test_what_is_no_refit(text: str) -> None:
    with pytest.raises(UsageError, match="expected dimensions and scale, such as 50x20"):
        parse_refit(text)


def test_the_words_of_the_repo_are_words_of_msrc21() -> None:
    words = read_label_words(WORDS)
    assert words["chair"] == ["armchair", "stool", "seat", "furniture"]
    labels = {*STUFF, *OBJECTS}
    assert set(words) == labels
    assert not any(word in labels for meant in words.values() for word in meant)


def test_words_come_with_a_refit() -> None:
    with pytest.raises(UsageError, match="none without --refit"):
        zero_shot.chosen_refit(None, WORDS)
    assert zero_shot.chosen_refit(None, None) is None
    refit = zero_shot.chosen_refit("50x20", WORDS)
    assert refit is not None
    assert (refit.dim, refit.scale) == (50, 20.0)
    assert refit.words == read_label_words(WORDS)
