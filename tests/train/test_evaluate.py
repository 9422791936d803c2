from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from szn_runtime.errors import InputError, TrainingError
from szn_train.backbones import Backbone, BackboneInfo
from szn_train.checkpoint import write_json
from szn_train.classes import ClassSplit
from szn_train.config import TrainConfig
from szn_train.evaluate import GROUPS, MODES, Evaluation, evaluate, saved_evaluation
from szn_train.metrics import Scores, harmonic_mean, scores
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.progress import Progress
from szn_train.run import Run
from szn_train.semantic import LabelSpace
from tests.train import catalogue
from tests.train.catalogue import Pair

# Each class is a colour and a direction: seen ones point to more red, green or blue than grey,
# unseen ones to less, so that both heads are linear in the mean colour of a block.
NAMES = ("wall", "red", "green", "blue", "cyan", "magenta", "yellow")
DIRECTIONS = np.array(
    [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0], [0, 0, -1]]
)
SPLIT = ClassSplit(
    names=NAMES, void=("wall",), train_unseen=("cyan",), unseen=("magenta", "yellow")
)
BLOCK = 16
QUIET = Progress(quiet=True)


def stripes(*names: str, scale: int = 1) -> Pair:
    """A frame of vertical stripes, one block wide each, and its mask."""
    values = np.array([NAMES.index(name) for name in names], np.uint8)
    mask = np.tile(values.repeat(BLOCK * scale), (3 * BLOCK * scale, 1))
    rgb = (128 + 127 * DIRECTIONS)[mask].astype(np.uint8)
    return np.ascontiguousarray(rgb[:, :, ::-1]), mask


def run_of(root: Path, *, seen_sign: float = 1.0, split: ClassSplit = SPLIT) -> Run:
    """A run whose network is right by construction; with -1 its seenmask is always wrong."""
    info = BackboneInfo(
        name="blocks",
        channels=3,
        stride=BLOCK,
        node_offset=(BLOCK - 1) / 2,
        multiple=BLOCK,
        mean=(128.0,) * 3,
        std=(127.0,) * 3,
    )
    network = SeenmaskZeroShotNetwork(Backbone(nn.AvgPool2d(BLOCK), info), dim=3)
    with torch.no_grad():
        network.embedding_head.weight.copy_(torch.eye(3)[:, :, None, None])
        network.seenmask_head.weight[0] = -seen_sign
        network.seenmask_head.weight[1] = seen_sign
    config = TrainConfig(
        data=str(root),
        void=split.void,
        train_unseen=split.train_unseen,
        unseen=split.unseen,
        long_side=4 * BLOCK,
        dim=3,
    )
    rows = np.array([DIRECTIONS[NAMES.index(name)] for name in split.labels], np.float32)
    space = LabelSpace(source="colours", names=split.labels, embeddings=0.5 * rows)
    return Run(folder=root, config=config, split=split, space=space, network=network.eval())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    pairs = {
        "a": stripes("red", "green", "cyan", "blue"),
        "b": stripes("green", "magenta", "wall", "yellow"),
        "big": stripes("blue", "yellow", "red", "cyan", scale=3),
    }
    return catalogue.write_dataset(
        tmp_path / "data", {"val": pairs, "test": {"a": pairs["a"]}}, classes=NAMES
    )


def truth_counts() -> dict[str, int]:
    """Pixels of each label over the three images."""
    small, large = 3 * BLOCK * BLOCK, 9 * 3 * BLOCK * BLOCK
    return {
        "red": small + large,
        "green": 2 * small,
        "blue": small + large,
        "cyan": small + large,
        "magenta": small,
        "yellow": small + large,
    }


def test_perfect_predictions_score_one_hundred(root: Path) -> None:
    result = evaluate(run_of(root), progress=QUIET)
    assert result.images == 3
    expected = np.diag([truth_counts()[name] for name in SPLIT.labels])
    np.testing.assert_array_equal(result.confusions["SZN"], expected)
    np.testing.assert_array_equal(result.confusions["SZN-PS"], expected)
    assert result.seenmask_accuracy == 100
    for mode in MODES:
        for group in GROUPS:
            perfect = Scores(pa=100, ca=100, miou=100, wiou=100)
            assert result.scores("SZN", group, mode) == perfect
        assert result.harmonic_miou("SZN", mode) == 100


def test_fcn_je_never_says_what_it_was_not_trained_on(root: Path) -> None:
    result = evaluate(run_of(root), progress=QUIET)
    confusion, counts = result.confusions["FCN-JE"], truth_counts()
    seen = [SPLIT.labels.index(name) for name in SPLIT.train_seen]
    unseen = [SPLIT.labels.index(name) for name in SPLIT.train_unseen + SPLIT.unseen]
    assert confusion[:, unseen].sum() == 0
    assert confusion.sum() == sum(counts.values())  # every labelled pixel has some label
    assert [confusion[row, row] for row in seen] == [counts[SPLIT.labels[row]] for row in seen]
    share = sum(counts[name] for name in SPLIT.train_seen) / sum(counts.values())
    assert result.scores("FCN-JE", "overall").pa == pytest.approx(100 * share)
    assert result.scores("FCN-JE", "unseen").pa == 0
    assert result.scores("FCN-JE", "train_seen").pa == 100
    assert result.harmonic_miou("FCN-JE") == 0


def test_fcn_je_of_the_thesis_code_chooses_among_all_labels(root: Path) -> None:
    # the embedding knows every class, and the seenmask, which is wrong, has no say
    result = evaluate(run_of(root, seen_sign=-1), progress=QUIET)
    expected = np.diag([truth_counts()[name] for name in SPLIT.labels])
    np.testing.assert_array_equal(result.confusions["FCN-JE (all labels)"], expected)
    assert tuple(result.confusions) == ("FCN-JE", "FCN-JE (all labels)", "SZN", "SZN-PS")


def test_szn_trusts_its_seenmask_and_szn_ps_the_truth(root: Path) -> None:
    result = evaluate(run_of(root, seen_sign=-1), progress=QUIET)
    assert result.seenmask_accuracy == 0
    assert result.scores("SZN", "overall").pa == 0
    assert result.scores("SZN-PS", "overall").pa == 100


def test_a_split_without_unseen_classes_has_fcn_je_alone(root: Path) -> None:
    split = ClassSplit(names=NAMES, void=("wall",))
    result = evaluate(run_of(root, split=split), progress=QUIET)
    assert list(result.confusions) == ["FCN-JE"]
    assert result.scores("FCN-JE", "overall").miou == 100
    assert result.seenmask_accuracy is None
    assert math.isnan(result.scores("FCN-JE", "unseen").pa)
    assert math.isnan(result.harmonic_miou("FCN-JE"))


def test_split_and_data_may_be_others(root: Path, tmp_path: Path) -> None:
    assert evaluate(run_of(root), split_name="test", progress=QUIET).images == 1
    other = catalogue.write_dataset(
        tmp_path / "other", {"val": {"c": stripes("red", "cyan")}}, classes=NAMES
    )
    result = evaluate(run_of(root), data=other, progress=QUIET)
    assert result.images == 1
    assert result.confusions["SZN"].sum() == 2 * 3 * BLOCK * BLOCK


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((*NAMES[:-1], "orange"), r"other classes than the run: got orange, yellow in one of them"),
        ((NAMES[1], NAMES[0], *NAMES[2:]), r"other classes than the run: got another order"),
    ],
)
def test_a_data_set_of_other_classes_is_refused(
    root: Path, tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    other = catalogue.write_dataset(
        tmp_path / "other", {"val": {"c": stripes("red")}}, classes=names
    )
    with pytest.raises(InputError, match=message):
        evaluate(run_of(root), data=other, progress=QUIET)


def test_a_missing_data_set_says_what_to_check(root: Path) -> None:
    with pytest.raises(InputError, match=r"no data set at nowhere.*check --data"):
        evaluate(run_of(root), data=Path("nowhere"), progress=QUIET)


def test_images_of_any_size_are_scored_at_their_own_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = {
        f"{height}x{width}": (
            rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
            rng.integers(0, len(NAMES), (height, width), dtype=np.uint8),
        )
        for height, width in ((1, 1), (7, 90), (64, 17), (33, 33))
    }
    root = catalogue.write_dataset(tmp_path / "data", {"val": pairs}, classes=NAMES)
    result = evaluate(run_of(root), progress=QUIET)
    labelled = sum(int((mask != NAMES.index("wall")).sum()) for _, mask in pairs.values())
    assert {int(c.sum()) for c in result.confusions.values()} == {labelled}


# the numbers of an evaluation -----------------------------------------------------------------


def an_evaluation() -> Evaluation:
    rng = np.random.default_rng(4)

    def confusion() -> NDArray[np.int64]:
        return rng.integers(0, 50, (6, 6))

    return Evaluation(
        split=SPLIT,
        images=2,
        confusions={"FCN-JE": confusion(), "SZN": confusion(), "SZN-PS": confusion()},
        seenmask_accuracy=80.0,
    )


def test_groups_are_the_thesis_subsets() -> None:
    result = an_evaluation()
    members = {
        "overall": [0, 1, 2, 3, 4, 5],
        "seen": [0, 1, 2, 3],  # with train_unseen, as the thesis has it
        "train_seen": [0, 1, 2],
        "unseen": [4, 5],  # U alone
    }
    assert tuple(members) == GROUPS
    for mode in MODES:
        for group, indices in members.items():
            subset = np.isin(np.arange(6), indices)
            expected = scores(result.confusions["SZN"], subset, mode)
            assert result.scores("SZN", group, mode) == expected


def test_the_harmonic_mean_is_that_of_train_seen_and_u() -> None:
    result = an_evaluation()
    for mode in MODES:
        expected = harmonic_mean(
            result.scores("SZN", "train_seen", mode).miou, result.scores("SZN", "unseen", mode).miou
        )
        assert result.harmonic_miou("SZN", mode) == expected


def test_the_dictionary_and_the_table_say_the_same() -> None:
    result = an_evaluation()
    values, rows = result.to_dict(), result.rows()
    assert len(rows) == len(MODES) * 3 * len(GROUPS)
    for row in rows:
        of_model = values["scores"][row["mode"]][row["model"]]
        expected = {**of_model[row["group"]], "harmonic_miou": of_model["harmonic_miou"]}
        assert {k: v for k, v in row.items() if k not in {"mode", "model", "group"}} == expected
    assert values["tuple"] == [3, 1, 2]
    assert values["labels"] == list(SPLIT.labels)
    assert values["confusions"]["SZN"] == result.confusions["SZN"].tolist()


def test_the_dictionary_is_json_also_without_scores(tmp_path: Path) -> None:
    result = dataclasses.replace(
        an_evaluation(),
        confusions={"FCN-JE": np.zeros((6, 6), np.int64)},
        seenmask_accuracy=None,
    )
    write_json(tmp_path / "eval.json", result.to_dict())
    back = json.loads((tmp_path / "eval.json").read_text())
    assert back["seenmask_accuracy"] is None
    assert back["scores"]["standard"]["FCN-JE"]["overall"]["pa"] is None
    assert back["scores"]["thesis"]["FCN-JE"]["harmonic_miou"] is None


def test_scores_of_any_labels_are_those_of_their_rows() -> None:
    result = an_evaluation()
    for mode in MODES:
        expected = scores(result.confusions["SZN"], np.arange(6) == 5, mode)
        assert result.scores_of("SZN", ("yellow",), mode) == expected
    assert result.scores_of("SZN", SPLIT.unseen) == result.scores("SZN", "unseen")


def test_class_rows_say_the_set_and_the_iou_of_each_class() -> None:
    confusion = np.diag([10, 0, 4, 6, 0, 3])
    confusion[0, 5] = 10  # ten pixels of red were called yellow
    result = dataclasses.replace(an_evaluation(), confusions={"SZN": confusion})
    rows = {row["class"]: row for row in result.class_rows()}
    assert list(rows) == list(SPLIT.labels)
    assert rows["red"] == {
        "model": "SZN", "class": "red", "set": "train_seen", "pixels": 20,
        "iou": 50.0, "recall": 50.0, "precision": 100.0,
    }  # fmt: skip
    assert rows["cyan"]["set"] == "train_unseen"
    assert (rows["yellow"]["set"], rows["yellow"]["recall"]) == ("unseen", 100.0)
    assert rows["yellow"]["iou"] == rows["yellow"]["precision"] == pytest.approx(100 * 3 / 13)
    assert math.isnan(float(rows["green"]["iou"]))


def test_an_evaluation_comes_back_from_its_dictionary() -> None:
    result = an_evaluation()
    back = Evaluation.from_dict(json.loads(json.dumps(result.to_dict())), SPLIT)
    assert (back.split, back.images, back.seenmask_accuracy) == (SPLIT, 2, 80.0)
    assert list(back.confusions) == list(result.confusions)
    for model, matrix in result.confusions.items():
        np.testing.assert_array_equal(back.confusions[model], matrix)
        assert back.confusions[model].dtype == np.int64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["red"]}, "is of other labels than the run"),
        ({"confusions": {"SZN": [[1]]}}, "is of other labels than the run"),
        ({"confusions": None}, r"is damaged \(AttributeError\)"),
        ({"images": "many"}, r"is damaged \(ValueError\)"),
    ],
)
def test_a_dictionary_of_another_evaluation_is_refused(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        Evaluation.from_dict({**an_evaluation().to_dict(), **change}, SPLIT)


def test_the_evaluation_that_a_folder_keeps(tmp_path: Path) -> None:
    config = TrainConfig(
        data="d", void=SPLIT.void, train_unseen=SPLIT.train_unseen, unseen=SPLIT.unseen
    )
    write_json(tmp_path / "config.json", {"config": config.to_dict(), "class_names": list(NAMES)})
    with pytest.raises(TrainingError, match=r"not a run folder: expected eval-val\.json"):
        saved_evaluation(tmp_path, "val")
    write_json(tmp_path / "eval-val.json", an_evaluation().to_dict())
    assert saved_evaluation(tmp_path, "val").to_dict() == an_evaluation().to_dict()
