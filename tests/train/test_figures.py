from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from szn_runtime._cv import cv2
from szn_runtime.errors import InputError, MissingDependencyError
from szn_train.classes import ClassSplit
from szn_train.evaluate import evaluate, open_split
from szn_train.figures import (
    Picture,
    bars_figure,
    confusion_figure,
    draw_evaluation,
    draw_predictions,
    history_figure,
    line_figure,
    new_figure,
    predictions_figure,
    save_figure,
)
from szn_train.figures.canvas import wrapped
from szn_train.figures.confusion import marked
from szn_train.figures.evaluation import file_name
from szn_train.progress import Progress
from szn_train.run import Run
from tests.train import catalogue
from tests.train.catalogue import SPLIT


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_drawn(paths: list[Path], stem: Path, data: str) -> None:
    """A PNG with some ink, a PDF, and the data."""
    assert paths == [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "pdf", data)]
    image = cv2.imread(str(paths[0]))
    assert image is not None
    assert min(image.shape[:2]) > 100
    assert image.min() < 100 < image.max()
    assert paths[1].read_bytes().startswith(b"%PDF-")


# canvas ---------------------------------------------------------------------------------------


def test_a_figure_is_written_with_its_data(tmp_path: Path) -> None:
    figure, axes = new_figure(3, 2, rows=2, columns=3)
    assert [len(row) for row in axes] == [3, 3]
    stem = tmp_path / "new" / "version-1.5"  # what looks like a suffix is none
    assert_drawn(save_figure(figure, stem, {"loss": float("nan")}), stem, "json")
    assert json.loads((tmp_path / "new" / "version-1.5.json").read_text()) == {"loss": None}
    assert_drawn(save_figure(figure, stem, [{"a": 1}, {"a": 2}]), stem, "csv")
    assert rows_of(tmp_path / "new" / "version-1.5.csv") == [{"a": "1"}, {"a": "2"}]


def test_the_same_figure_is_the_same_files(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        figure, [[axes]] = new_figure(3, 2)
        axes.plot([1, 2], [3, 4])
        paths = save_figure(figure, tmp_path / name, {"x": 1})
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]


def test_a_figure_without_data_is_refused(tmp_path: Path) -> None:
    figure, _ = new_figure(3, 2)
    with pytest.raises(InputError, match="figure empty has nothing to show"):
        save_figure(figure, tmp_path / "empty", [])
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r'not installed; pip install "szn\[train\]"'):
        new_figure(3, 2)


# confusion matrices ---------------------------------------------------------------------------


def test_a_confusion_matrix_holds_percent_of_its_rows(tmp_path: Path) -> None:
    confusion = np.array(
        [[8, 2, 0, 0, 0], [0, 5, 0, 0, 0], [0, 0, 0, 0, 0], [3, 0, 0, 1, 0], [1, 0, 6, 2, 1]]
    )
    stem = tmp_path / "confusion"
    assert_drawn(confusion_figure(confusion, SPLIT, stem, title="SZN"), stem, "csv")
    rows = rows_of(tmp_path / "confusion.csv")
    assert list(rows[0]) == ["truth", *SPLIT.labels]
    assert rows[4] == {
        "truth": "sheep", "grass": "10.0", "sky": "0.0", "cow": "60.0", "boat": "20.0",
        "sheep": "10.0",
    }  # fmt: skip
    assert rows[2]["grass"] == "nan"  # the truth shows no cow


def test_a_confusion_matrix_of_one_class(tmp_path: Path) -> None:
    split = ClassSplit(names=("grass",))
    paths = confusion_figure(np.array([[3]]), split, tmp_path / "one", title="FCN-JE")
    assert rows_of(paths[2]) == [{"truth": "grass", "grass": "100.0"}]


def test_labels_are_marked_by_their_set() -> None:
    assert [marked(SPLIT, label) for label in ("cow", "boat", "sheep")] == [
        "cow", "boat (t)", "sheep (u)",
    ]  # fmt: skip


# two-row figures ------------------------------------------------------------------------------


def picture() -> Picture:
    image, mask = catalogue.scene("grass", "sky", "sheep")
    truth = SPLIT.mask_lookup()[mask]
    truth[:4] = 255
    prediction = np.where(truth == 255, 0, truth)
    prediction[prediction == SPLIT.labels.index("sheep")] = SPLIT.labels.index("cow")
    return Picture(
        name="t8",
        image=image,
        truth=truth,
        prediction=prediction,
        seenmask=np.ones(truth.shape, bool),
    )


def test_a_two_row_figure_says_what_it_shows(tmp_path: Path) -> None:
    shown, stem = picture(), tmp_path / "t8"
    assert_drawn(predictions_figure(shown, SPLIT, stem, title="SZN"), stem, "json")
    data = json.loads((tmp_path / "t8.json").read_text())
    labelled = shown.truth != 255
    sheep = int((shown.truth == SPLIT.labels.index("sheep")).sum())
    assert sheep > 0
    assert data["size_hw"] == list(catalogue.SIZE_HW)
    assert data["void_pixels"] == 4 * catalogue.SIZE_HW[1]
    assert data["pixel_accuracy"] == pytest.approx(100 * (1 - sheep / labelled.sum()))
    assert data["seenmask_accuracy"] == data["pixel_accuracy"]  # it misses the sheep alone
    by_label = {entry["label"]: entry for entry in data["labels"]}
    assert by_label["sheep"] == {
        "label": "sheep", "set": "unseen", "true_pixels": sheep, "predicted_pixels": 0,
    }  # fmt: skip
    assert by_label["cow"]["predicted_pixels"] == sheep
    assert "boat" not in by_label


def test_a_two_row_figure_of_void_alone_has_no_accuracy(tmp_path: Path) -> None:
    shown = picture()
    shown.truth[:] = 255
    predictions_figure(shown, SPLIT, tmp_path / "void", title="SZN")
    data = json.loads((tmp_path / "void.json").read_text())
    assert data["pixel_accuracy"] is data["seenmask_accuracy"] is None


# curves and bars ------------------------------------------------------------------------------


def write_history(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_curves_of_a_history(tmp_path: Path) -> None:
    history = write_history(
        tmp_path / "history.csv",
        "step,epoch,loss,score\nembedding,1,0.9,20.5\nembedding,2,0.5,30.25\nseenmask,1,0.7,\n",
    )
    stem = tmp_path / "curves"
    assert_drawn(history_figure(history, stem, title="training"), stem, "csv")
    assert (tmp_path / "curves.csv").read_text() == history.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step,epoch,loss\n", "has no epoch"),
        ("step,epoch,loss\nembedding,1,low\n", "is damaged: got loss low"),
        ("step,epoch\nembedding,1\n", "is damaged: got loss None"),
        ("step,epoch,loss\nembedding,first,1\n", "is damaged"),
    ],
)
def test_a_damaged_history_is_refused(tmp_path: Path, text: str, message: str) -> None:
    history = write_history(tmp_path / "history.csv", text)
    with pytest.raises(InputError, match=message):
        history_figure(history, tmp_path / "curves", title="training")


def test_a_missing_history_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"history\.csv is missing"):
        history_figure(tmp_path / "history.csv", tmp_path / "curves", title="training")


@pytest.mark.parametrize("logarithmic", [True, False])
def test_lines_and_their_points(tmp_path: Path, logarithmic: bool) -> None:
    series = {"GloVe": [(2, 10.0), (50, 100.0)], "Google News (thesis)": [(2, 7.0)]}
    paths = line_figure(
        series, tmp_path / "v", title="variance", x="j", y="percent", logarithmic=logarithmic
    )
    assert_drawn(paths, tmp_path / "v", "csv")
    assert rows_of(paths[2]) == [
        {"series": "GloVe", "j": "2", "percent": "10.0"},
        {"series": "GloVe", "j": "50", "percent": "100.0"},
        {"series": "Google News (thesis)", "j": "2", "percent": "7.0"},
    ]


def test_bars_and_their_values(tmp_path: Path) -> None:
    series = {
        "FCN-JE": {"overall PA": 80.0, "unseen PA": float("nan")},
        "SZN (thesis)": {"unseen PA": 18.6},
    }
    paths = bars_figure(series, tmp_path / "b", title="(17, 2, 2)")
    assert_drawn(paths, tmp_path / "b", "csv")
    assert rows_of(paths[2]) == [
        {"series": "FCN-JE", "category": "overall PA", "percent": "80.0"},
        {"series": "SZN (thesis)", "category": "unseen PA", "percent": "18.6"},
    ]


_LONG = "The seenmask's loss with seen and unseen pixels weighed equally, (17, 2, 2)"


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        (_LONG, 4.5, 2),
        (_LONG, 6.1, 2),
        (_LONG, 16, 1),
        ("Baselines by the recipe of szn-mini, (21, 0, 0)", 4.5, 1),
        ("Size of train_unseen: cat; with boat; with dog and chair", 5.5, 1),
        ("Standard class density in another split, (17, 2, 2)", 4.5, 2),
    ],
)
def test_titles_fit_their_figure(text: str, width: float, lines: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure, [[axes]] = new_figure(width, 3)
    title = axes.set_title(wrapped(text, width))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = title.get_window_extent(canvas.get_renderer())
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    found = title.get_text().splitlines()
    assert len(found) == lines
    assert " ".join(found) == text
    assert all(line.count("(") == line.count(")") for line in found)


# a run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("FCN-JE (all labels)", "fcn-je-all-labels"), ("SZN-PS", "szn-ps"), ("***", "figure")],
)
def test_names_of_files(text: str, expected: str) -> None:
    assert file_name(text) == expected


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return catalogue.train_tiny(tmp_path_factory.mktemp("figures"))


def test_every_figure_of_a_run(run: Run, tmp_path: Path) -> None:
    evaluation = evaluate(run, progress=Progress(quiet=True))
    paths = draw_evaluation(run, evaluation, open_split(run), tmp_path, images=2)
    assert sorted(paths) == sorted(tmp_path.iterdir())
    stems = {path.name.rpartition(".")[0] for path in paths}
    assert stems == {
        "confusion-fcn-je", "confusion-fcn-je-all-labels", "confusion-szn", "confusion-szn-ps",
        "class-iou", "history", "variance", "szn-v2", "szn-v1",
    }  # fmt: skip
    variance = rows_of(tmp_path / "variance.csv")
    chosen = variance.pop()
    assert [float(row["j"]) for row in variance] == list(range(1, catalogue.WORD_LENGTH + 1))
    assert chosen["series"] == "this run: j = 4"
    assert run.space.explained_variance is not None
    kept = 100 * run.space.explained_variance
    assert float(chosen["percent of the variance"]) == pytest.approx(kept, abs=1e-3)
    # v2 shows sheep, which is U, v1 boat of train_unseen: they come first
    data = json.loads((tmp_path / "szn-v2.json").read_text())
    assert "unseen" in {entry["set"] for entry in data["labels"]}


def test_a_run_whose_words_or_history_are_gone_is_drawn_without(run: Run, tmp_path: Path) -> None:
    alone = replace(
        run,
        folder=tmp_path / "copied",
        config=replace(run.config, embeddings=str(tmp_path / "gone.txt")),
    )
    evaluation = evaluate(run, progress=Progress(quiet=True))
    paths = draw_evaluation(alone, evaluation, open_split(run), tmp_path / "f", images=0)
    stems = {path.name.rpartition(".")[0] for path in paths}
    assert {stem for stem in stems if not stem.startswith("confusion-")} == {"class-iou"}


@pytest.mark.parametrize("model", ["SZN-PS", "FCN-JE"])
def test_the_seenmask_of_other_models_is_their_own(run: Run, tmp_path: Path, model: str) -> None:
    draw_predictions(run, open_split(run), tmp_path, images=1, model=model)
    data = json.loads((tmp_path / f"{file_name(model)}-v2.json").read_text())
    unseen = sum(e["true_pixels"] for e in data["labels"] if e["set"] != "train_seen")
    total = sum(e["true_pixels"] for e in data["labels"])
    assert 0 < unseen < total
    # that of SZN-PS is the truth; FCN-JE never says unseen
    expected = 100.0 if model == "SZN-PS" else 100 * (1 - unseen / total)
    assert data["seenmask_accuracy"] == pytest.approx(expected)
