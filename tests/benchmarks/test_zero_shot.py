from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zero_shot
import zero_shot_runs
from click.testing import CliRunner
from numpy.typing import NDArray
from zero_shot_draws import (
    MIN_TEST,
    OBJECTS,
    SEEDS,
    STUFF,
    VOID_CLASSES,
    Draw,
    class_presence,
    draw_of,
    split_images,
    write_draw,
)
from zero_shot_methods import Fitting
from zero_shot_names import DEFAULT, Method, parse_method
from zero_shot_results import KEYS, numbers, spreads_and_means
from zero_shot_runs import Cells, DrawRuns

from szn_runtime.errors import InputError, UsageError
from szn_train.classes import VOID, ClassSplit
from szn_train.datasets import FolderDataset
from szn_train.evaluate import Evaluation
from szn_train.preset_files import load_preset
from szn_train.progress import Progress
from szn_train.semantic import LabelSpace
from tests.train import catalogue

CLASSES = (*STUFF, *OBJECTS, *VOID_CLASSES)
BACKGROUND = ("building", "tree", "water", "road")
PER_CLASS = 20


def presence() -> dict[str, NDArray[np.bool_]]:
    """Twenty images of each object on grass under a sky; faces and bodies share theirs."""
    found = {}
    for name in OBJECTS:
        for number in range(PER_CLASS):
            shown = {name, "grass", "sky", BACKGROUND[number % 4]}
            if name in {"face", "body"}:
                shown |= {"face", "body"} if number % 3 else {name}
            found[f"{name}{number}"] = np.array([c in shown for c in CLASSES])
    return found


DRAW = Draw(seed=5, train_unseen=("cow", "cat"), unseen=("sheep", "boat"))


# draws ----------------------------------------------------------------------------------------


def test_draws_are_two_and_two_of_the_objects() -> None:
    assert len(SEEDS) == len(set(SEEDS)) >= 5
    assert len(OBJECTS) == 15
    drawn = [draw_of(seed) for seed in SEEDS]
    for draw in drawn:
        names = draw.train_unseen + draw.unseen
        assert len(draw.train_unseen) == len(draw.unseen) == 2
        assert len(set(names)) == 4
        assert set(names) <= set(OBJECTS)
    assert len({draw.unseen for draw in drawn}) == len(drawn)
    # the published numbers belong to these
    assert drawn[0] == Draw(seed=1, train_unseen=("sheep", "dog"), unseen=("sign", "chair"))


def test_every_draw_of_msrc21_has_the_images_it_needs(data_dir: Path) -> None:
    root = data_dir / "msrc21"
    names = FolderDataset(root=root, split="train").class_names
    assert set(names) == set(CLASSES)
    found = class_presence(root)
    assert len(found) == 473
    for seed in SEEDS:
        draw = draw_of(seed)
        images = split_images(found, names, draw)
        assert sorted(i for ids in images.values() for i in ids) == sorted(found)
        for name in draw.train_unseen + draw.unseen:
            assert sum(found[i][names.index(name)] for i in images["test"]) >= MIN_TEST
    accepted = []
    for seed in range(max(SEEDS) + 1):
        try:
            split_images(found, names, draw_of(seed))
        except InputError:
            continue
        accepted.append(seed)
    assert tuple(accepted) == SEEDS  # the first that can be used, none picked


def test_images_of_a_draw() -> None:
    found = presence()
    images = split_images(found, CLASSES, DRAW)
    assert sorted(i for ids in images.values() for i in ids) == sorted(found)  # each once
    for name in OBJECTS:
        shown = {
            split: sum(found[i][CLASSES.index(name)] for i in images[split]) for split in images
        }
        total = sum(shown.values())
        least = max(MIN_TEST if name in DRAW.train_unseen + DRAW.unseen else 0, round(total / 4))
        assert shown["test"] >= least
        if name in DRAW.unseen:
            assert shown["hold"] == 0
        else:
            assert shown["hold"] >= round(total / 8)
    assert len(images["test"]) < 0.45 * len(found)
    assert split_images(dict(reversed(found.items())), CLASSES, DRAW) == images
    other = Draw(seed=6, train_unseen=DRAW.train_unseen, unseen=DRAW.unseen)
    assert split_images(found, CLASSES, other) != images


def test_a_draw_that_parts_what_belongs_together() -> None:
    draw = Draw(seed=0, train_unseen=("cow", "cat"), unseen=("face", "boat"))
    found = {
        i: row for i, row in presence().items() if not i.startswith("body") or int(i[4:]) % 3
    }  # bodies are never without a face
    with pytest.raises(InputError, match="draw 0: training images of 'body': got 0, expected >= 6"):
        split_images(found, CLASSES, draw)


def test_too_few_images_to_test() -> None:
    found = {i: row for i, row in presence().items() if i not in {f"boat{n}" for n in range(13)}}
    with pytest.raises(InputError, match="draw 5: test images of 'boat': got 7, expected >= 8"):
        split_images(found, CLASSES, DRAW)


def test_a_draw_shares_the_images(tmp_path: Path) -> None:
    root = catalogue.write_dataset(tmp_path / "data")
    for _ in range(2):  # the second time everything is there
        folder = write_draw(root, tmp_path / "draw", {"train": ("t0", "v1"), "test": ("t3",)})
        train = FolderDataset(root=folder, split="train")
        assert train.ids == ("t0", "v1")
        assert train.class_names == catalogue.CLASSES
        original = FolderDataset(root=root, split="val").pair("v1")
        for ours, theirs in zip(train.pair("v1"), original, strict=True):
            assert np.array_equal(ours, theirs)
    assert (folder / "images").is_symlink()


def test_runs_are_told_apart_by_what_they_are_trained_with(tmp_path: Path) -> None:
    def runs(**changes: Any) -> DrawRuns:
        values = {"epochs": 3, "precision": "bf16", "quick": False, **changes}
        return DrawRuns(
            tmp_path / "data", tmp_path / "runs", presence=presence(), class_names=CLASSES,
            progress=Progress(quiet=True), **values,
        )  # fmt: skip

    config = runs().config(DRAW)
    assert (config.train_unseen, config.unseen) == (("cow", "cat"), ("sheep", "boat"))
    assert (config.embedding_step.epochs, config.precision) == (3, "bf16")
    mini = load_preset("szn-mini")
    assert (config.loss, config.stride, config.crop_hw) == (
        mini["loss"], mini["stride"], tuple(mini["crop_hw"]),
    )  # fmt: skip
    own = tmp_path / "own.toml"
    own.write_text("dim = 7\n[embedding_step]\nlearning_rate = 0.5\n")
    changed = runs(recipe=f"szn-mini,{own}").config(DRAW)
    assert (changed.dim, changed.embedding_step.learning_rate) == (7, 0.5)
    assert changed.embedding_step.epochs == 3
    assert runs().folder(DRAW) == runs().folder(DRAW)
    others = [runs(epochs=4), runs(precision="fp32"), runs(quick=True), runs(recipe=str(own))]
    assert len({each.folder(DRAW) for each in (runs(), *others)}) == 5
    refit, plain = tmp_path / "refit.toml", tmp_path / "plain.toml"
    refit.write_text("refit_embedding = true\n")
    plain.write_text("refit_embedding = false\n")
    assert not runs(recipe=f"szn-mini,{plain}").config(DRAW).refit_embedding
    assert runs(recipe=f"szn-mini,{plain}").folder(DRAW) != runs().folder(DRAW)
    assert runs(recipe=f"szn-mini,{plain},{refit}").folder(DRAW) == runs().folder(DRAW)
    assert runs().folder(Draw(seed=5, train_unseen=("cow",), unseen=("cat",))) != runs().folder(
        DRAW
    )


# methods --------------------------------------------------------------------------------------


def test_names_of_methods() -> None:
    assert parse_method("thesis") == Method(name="thesis", base="thesis")
    assert parse_method("stats/5@1.5") == Method(
        name="stats/5@1.5", base="stats", window=5, drop=1.5
    )
    assert parse_method("both@2.5%") == Method(name="both@2.5%", base="both", lost=0.025)
    assert len({parse_method(name).name for name in DEFAULT}) == len(DEFAULT)
    for name in ("thesis/4", "best", "stats@", "stats@5%x", ""):
        with pytest.raises(UsageError, match="no method"):
            parse_method(name)


SPLIT = ClassSplit(
    names=("grass", "sky", "car", "cow", "cat", "boat"),
    train_unseen=("cow", "cat"),
    unseen=("boat",),
)
SPACE = LabelSpace(source="t", names=SPLIT.labels, embeddings=np.eye(6, dtype=np.float32))


def drawn_cells(labels: tuple[int, ...], seed: int, images: int = 12) -> Cells:
    """Grids of 4 x 5 in vertical halves of two labels.

    Features: unseen classes lean to the last channel, each also to one of its own.
    Embeddings: near their label's if seen, short and undecided if not.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for image in range(images):
        left, right = labels[image % len(labels)], labels[(image * 2 + 1) % len(labels)]
        rows.append(np.array([[left] * 2 + [right] * 3] * 4, np.uint8).ravel())
    truth = np.concatenate(rows)
    features = rng.normal(size=(len(truth), 8)) * 0.7
    features[np.arange(len(truth)), truth] += 2
    features[truth >= 3, 7] += 1.5
    embedding = rng.normal(size=(len(truth), 6)) * 0.2
    embedding[np.arange(len(truth)), np.minimum(truth, 2)] += np.where(truth < 3, 2, 0.6)
    seenmask = np.stack([np.zeros(len(truth)), rng.normal(size=len(truth)) + 1], axis=1)
    return Cells(
        ids=tuple(f"i{n}" for n in range(images)),
        grids_hw=np.array([[4, 5]] * images),
        features=features.astype(np.float16),
        embedding=embedding.astype(np.float32),
        seenmask=seenmask.astype(np.float32),
        labels=truth,
    )


@pytest.fixture(scope="module")
def fitting() -> Fitting:
    return Fitting(
        train=drawn_cells((0, 1, 2, 3, 4), 0, 30),
        hold=drawn_cells((0, 1, 2, 0, 3, 4), 1, 24),
        split=SPLIT,
        space=SPACE,
        scale=10.0,
        components=4,
    )


@pytest.mark.parametrize("base", ["linear", "stats", "both", "gap"])
def test_methods_find_a_class_that_they_have_never_met(fitting: Fitting, base: str) -> None:
    test = drawn_cells((0, 1, 2, 5), 2)
    fitted = fitting.fit(parse_method(f"{base}@5%"))
    logits = fitted.logits(test)
    assert logits.shape == test.labels.shape
    assert np.mean(logits[test.labels == 5] <= 0) > 0.6
    assert np.mean(logits[test.labels < 3] <= 0) < 0.2
    assert fitted.facts["hold_lost"] is not None
    assert fitted.facts["hold_lost"] <= 0.05
    auc = fitted.facts["left_out_auc"]
    assert auc is not None
    assert auc > 0.8


def test_the_thesis_seenmask_is_the_trainers(fitting: Fitting) -> None:
    test = drawn_cells((0, 1, 2, 5), 2)
    fitted = fitting.fit(parse_method("thesis"))
    difference = test.seenmask[:, 1] - test.seenmask[:, 0]
    np.testing.assert_allclose(fitted.logits(test), difference, rtol=1e-6)
    assert fitted.facts["bias"] == 0
    assert fitted.facts["left_out_auc"] is None
    moved = fitting.fit(parse_method("thesis@10%"))
    np.testing.assert_allclose(
        moved.logits(test), difference + moved.facts["bias"], rtol=1e-5, atol=1e-5
    )


def test_a_wider_window_is_a_mean(fitting: Fitting) -> None:
    test = drawn_cells((0, 1, 2, 5), 2)
    narrow = fitting.fit(parse_method("linear")).logits(test)
    wide = fitting.fit(parse_method("linear/3")).logits(test)
    first = narrow[:20].reshape(4, 5)
    assert wide[6] == pytest.approx(first[0:3, 0:3].mean(), rel=1e-4)  # node (1, 1)
    assert wide[0] == pytest.approx(first[0:2, 0:2].mean(), rel=1e-4)


def test_an_operating_point_by_what_it_costs(fitting: Fitting) -> None:
    free = fitting.fit(parse_method("stats@0.0")).facts
    dear = fitting.fit(parse_method("stats@10")).facts
    assert free["hold_fcn_je_miou"] is not None
    assert free["hold_miou"] is not None
    assert dear["hold_miou"] is not None
    assert free["hold_miou"] >= free["hold_fcn_je_miou"]
    assert free["hold_fcn_je_miou"] - 10 <= dear["hold_miou"]
    assert dear["bias"] is not None
    assert free["bias"] is not None
    assert dear["bias"] < free["bias"]


def test_held_out_logits_are_of_models_without_the_image(fitting: Fitting) -> None:
    method = parse_method("stats")
    held = fitting._held_out(method, SPLIT.train_unseen)
    full = fitting._model(method, SPLIT.train_unseen, None)(
        fitting._inputs(fitting.hold, method, SPLIT.train_unseen, None)
    )
    assert not np.allclose(held, full)
    assert np.corrcoef(held, full)[0, 1] > 0.95


# results --------------------------------------------------------------------------------------


def test_numbers_by_hand() -> None:
    split = ClassSplit(names=("a", "b", "c"), train_unseen=("b",), unseen=("c",))
    fcn = np.array([[8, 0, 0], [4, 0, 0], [10, 0, 0]])
    perfect = np.array([[8, 0, 0], [0, 4, 0], [0, 2, 8]])
    szn = np.array([[7, 1, 0], [2, 2, 0], [4, 0, 6]])
    found = numbers(
        Evaluation(
            split=split,
            images=1,
            confusions={"FCN-JE": fcn, "SZN-PS": perfect, "SZN": szn},
            seenmask_accuracy=50.0,
        )
    )
    assert set(KEYS) <= set(found)
    seen, unseen = 100 * 7 / 14, 60.0
    expected = {
        "train_seen_miou": seen, "unseen_miou": unseen, "unseen_pa": 60.0, "ps_unseen_pa": 80.0,
        "harmonic_miou": 2 * seen * unseen / (seen + unseen), "recovered_share": 0.75,
        "fcn_je_train_seen_miou": 100 * 8 / 22, "seen_lost": 1 / 8, "seenmask_accuracy": 50.0,
    }  # fmt: skip
    assert {key: found[key] for key in expected} == pytest.approx(expected)


def test_means_leave_out_what_is_missing() -> None:
    draws: list[Mapping[str, Mapping[str, float | None]]] = [
        {"m": {"unseen_pa": 10.0, "recovered_share": None}},
        {"m": {"unseen_pa": 40.0, "recovered_share": 0.5}, "n": {"unseen_pa": math.nan}},
    ]
    means, spreads = spreads_and_means(draws)
    assert means == {"m": {"unseen_pa": 25.0, "recovered_share": 0.5}}
    assert spreads["m"]["unseen_pa"] == pytest.approx(30 / math.sqrt(2))
    assert spreads["m"]["recovered_share"] == 0


# the command ----------------------------------------------------------------------------------


def write_scenes(root: Path) -> None:
    """The images of `presence`, each class a colour of its own."""
    colours = np.random.default_rng(0).integers(0, 256, (len(CLASSES), 3))
    pairs = {}
    for seed, (image_id, shown) in enumerate(presence().items()):
        mask = np.full((32, 48), CLASSES.index("grass"), np.uint8)
        mask[:8] = CLASSES.index("sky")
        values = [v for v in np.flatnonzero(shown) if CLASSES[v] in OBJECTS]
        for place, value in enumerate(values):
            mask[14:, 24 * place : 24 * place + 48 // len(values)] = value
        others = [v for v in np.flatnonzero(shown) if CLASSES[v] in BACKGROUND]
        for place, value in enumerate(others):
            mask[0:8, 16 * place : 16 * place + 16] = value
        mask[31] = VOID
        noise = np.random.default_rng(seed).integers(-9, 10, (*mask.shape, 3))
        image = np.clip(colours[np.minimum(mask, len(CLASSES) - 1)] + noise, 0, 255)
        pairs[image_id] = (image.astype(np.uint8), mask)
    ids = list(pairs)
    catalogue.write_dataset(
        root,
        {"train": {i: pairs[i] for i in ids[:200]}, "val": {i: pairs[i] for i in ids[200:]}},
        classes=CLASSES,
    )


@pytest.mark.slow
def test_a_draw_from_images_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scenes(tmp_path / "msrc21")
    words = catalogue.write_words(tmp_path / "words.txt")
    quick = {
        "long_side": 48, "crop_hw": [32, 32], "weights": "none", "embeddings": str(words), "dim": 4,
        "embedding_step": {"epochs": 1}, "seenmask_step": {"epochs": 1},
    }  # fmt: skip
    monkeypatch.setattr(zero_shot_runs, "_QUICK", quick)
    recipe = Path(zero_shot.__file__).with_name("zero_shot_glove.toml")  # labels by their names
    arguments = ["--recipe", str(recipe),
                 "--data-root", str(tmp_path), "--runs", str(tmp_path / "runs"), "--quick",
                 "--quiet", "--draws", "1", "--json", str(tmp_path / "z.json")]  # fmt: skip
    result = CliRunner().invoke(
        zero_shot.main, [*arguments, "--methods", "thesis,thesis@5%,stats/3@1.5"]
    )
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads((tmp_path / "z.json").read_text())
    assert [row["method"] for row in report["rows"]] == ["thesis", "thesis@5%", "stats/3@1.5"]
    assert (report["refit"], report["label_words"]) == (None, None)
    [draw] = report["draws"]
    assert (draw["seed"], draw["unseen"]) == (1, ["sign", "chair"])
    for row in report["rows"]:
        assert set(KEYS) <= set(row)
        assert {key: report["means"][row["method"]][key] for key in KEYS if row[key] is not None}
    assert len({row["ps_unseen_pa"] for row in report["rows"]}) == 1

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(zero_shot_runs, "train", refuse)
    monkeypatch.setattr(zero_shot_runs, "_grids", refuse)
    again = CliRunner().invoke(zero_shot.main, [*arguments, "--methods", "thesis"])
    assert again.exit_code == 0, again.output
    after = json.loads((tmp_path / "z.json").read_text())
    assert after["rows"] == report["rows"][:1]
    table = tmp_path / "meanings.json"
    table.write_text(json.dumps({"chair": ["sofa"]}))
    monkeypatch.setattr(zero_shot, "refitted", lambda run, cells, _: (run, cells))
    asked = [*arguments, "--methods", "thesis", "--refit", "4x20", "--label-words", str(table)]
    assert CliRunner().invoke(zero_shot.main, asked).exit_code == 0
    after = json.loads((tmp_path / "z.json").read_text())
    assert (after["refit"], after["label_words"]) == ("4x20", "meanings.json")


def test_draws_that_there_are_not() -> None:
    assert zero_shot.chosen_seeds(None) == SEEDS
    assert zero_shot.chosen_seeds("3,1,3") == (3, 1)
    for text in ("0", "1;3", ""):
        with pytest.raises(UsageError, match="expected some of 1, 3, 4, 6, 9"):
            zero_shot.chosen_seeds(text)
