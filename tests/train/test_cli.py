from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from szn_train.checkpoint import read_json
from szn_train.classes import ClassSplit
from szn_train.cli import _config, eval_main, train_main
from szn_train.config import TrainConfig
from szn_train.datasets.context import CONTEXT_CLASSES
from szn_train.datasets.voc import VOC_CLASSES
from szn_train.preset_files import load_preset, preset_names
from tests.train import catalogue, trees


def run_train(*arguments: object) -> Result:
    return CliRunner().invoke(train_main, ["--quiet", *map(str, arguments)])


def one_line(result: Result) -> str:
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.output
    return lines[0]


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    words = catalogue.write_words(tmp_path / "words.txt")
    path.write_text(
        f"""
        void = ["rock"]
        train_unseen = ["boat"]
        unseen = ["sheep"]
        backbone = "efficientnet_lite0"
        weights = "none"
        embeddings = "{words}"
        dim = 4
        seenmask = "linear"
        long_side = 64
        [embedding_step]
        epochs = 7
        batch_size = 3
        [seenmask_step]
        epochs = 1
        """
    )
    return path


def test_train_then_eval(tmp_path: Path, preset: Path) -> None:
    data = catalogue.write_dataset(tmp_path / "data")
    out = tmp_path / "run"
    result = run_train("--data", data, "--preset", preset, "--epochs", 1, "--out", out)
    assert result.exit_code == 0, result.output
    config = TrainConfig.from_dict(read_json(out / "config.json")["config"])
    assert config.embedding_step.epochs == 1  # the option overrides the preset
    assert config.embedding_step.batch_size == 3  # which overrides the default
    first = json.loads((out / "eval-val.json").read_text())
    assert first["images"] == 4
    models = {"FCN-JE", "FCN-JE (all labels)", "SZN", "SZN-PS"}
    assert set(first["scores"]["standard"]) == models
    names = {"", ".classes", ".confusion", ".errors"}
    assert {p.name for p in out.glob("eval-*.csv")} == {f"eval-val{name}.csv" for name in names}
    # FCN-JE chooses among train_seen only
    labels, confusion = first["labels"], first["confusions"]["FCN-JE"]
    for name in ("boat", "sheep"):
        assert sum(row[labels.index(name)] for row in confusion) == 0
    again = CliRunner().invoke(eval_main, [str(out), "--quiet", "--split", "val"])
    assert again.exit_code == 0, again.output
    assert json.loads((out / "eval-val.json").read_text()) == first
    missing = CliRunner().invoke(eval_main, [str(out), "--quiet", "--split", "test"])
    assert missing.exit_code == 1
    assert "has no split 'test': expected one of train, val" in one_line(missing)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return catalogue.train_tiny(tmp_path_factory.mktemp("trained")).folder


def test_eval_prints_where_pixels_went_and_draws(trained: Path, tmp_path: Path) -> None:
    arguments = [str(trained), "--quiet", "--errors", "sheep", "--figures", str(tmp_path / "f")]
    result = CliRunner().invoke(eval_main, arguments)
    assert result.exit_code == 0, result.output
    assert "where the pixels of sheep (unseen) went" in result.output
    errors = json.loads((trained / "eval-val.errors.json").read_text())
    sheep = errors["SZN-PS"]["sheep"]
    assert sum(each["percent"] for each in sheep) == pytest.approx(100)
    assert {each["label"] for each in sheep} <= {"boat", "sheep"}  # the seenmask is the truth
    drawn = {path.name for path in (tmp_path / "f").iterdir()}
    assert {"confusion-szn-ps.png", "confusion-fcn-je-all-labels.pdf", "history.csv"} <= drawn
    assert {f"szn-v{n}.{kind}" for n in range(4) for kind in ("png", "pdf", "json")} <= drawn
    assert f"{len(drawn)} files of figures written to" in result.output


def test_eval_refuses_a_class_that_is_no_label_before_it_starts(trained: Path) -> None:
    result = CliRunner().invoke(eval_main, [str(trained), "--quiet", "--errors", "shep"])
    assert result.exit_code == 1
    assert one_line(result) == "Error: 'shep' is not a label of the run; use one such as sheep"


def test_options_of_the_embedding_step_reach_its_optimiser(tmp_path: Path, preset: Path) -> None:
    data = catalogue.write_dataset(tmp_path / "data")
    out = tmp_path / "run"
    result = run_train(
        "--data", data, "--preset", preset, "--epochs", 1, "--out", out, "--loss", "mse",
        "--optimizer", "sgd", "--momentum", 0.5, "--learning-rate", 0.01,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    step = TrainConfig.from_dict(read_json(out / "config.json")["config"]).embedding_step
    assert (step.optimizer, step.momentum, step.learning_rate) == ("sgd", 0.5, 0.01)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "nowhere"], 1, "no data set at nowhere"),
        ([], 2, "no data set is named; give --data DIR"),
        (
            ["--data", "nowhere", "--preset", "huge"],
            2,
            "no preset 'huge': expected camvid, context-31-2-2, ",
        ),
        (["--data", "nowhere", "--dim", "1"], 2, "dim: got 1, expected 2 or more"),
        (["--data", "nowhere", "--workers", "-1"], 2, "workers: got -1, expected auto, or an"),
        (["--data", "nowhere", "--workers", "auto"], 1, "no data set at nowhere"),
        (["--data", "nowhere", "--stride", "12"], 2, "stride: got 12, expected 32, 16 or 8"),
        (["--resume", "--seed", "3"], 2, "--resume goes on with the run's own configuration"),
        (["--resume"], 1, "is not a run folder"),
        (["--resume", "--random-train-unseen", "2"], 2, "got --random-train-unseen; give"),
        (["--resume", "--drop-void"], 2, "got --drop-void; give"),
        (["--resume", "--check-data"], 2, "--check-data and --resume exclude each other"),
        (["--data", "d", "--contact-sheet", "s.png"], 2, "drawn by --check-data; give both"),
        (["--data", "d", "--dataset", "voc"], 1, "no data set at d: expected a folder"),
    ],
)
def test_bad_options(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    result = run_train("--out", tmp_path / "run", *arguments)
    assert result.exit_code == code
    assert message in one_line(result)


def test_bad_data_is_one_line(tmp_path: Path, preset: Path) -> None:
    data = catalogue.write_dataset(tmp_path / "data", classes=(*catalogue.CLASSES[:4],))
    result = run_train("--data", data, "--preset", preset, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "'rock' of void is not in the data set" in one_line(result)


def damage_index(data: Path) -> None:
    catalogue.write_png(data / "masks" / "t2.png", np.full((48, 64), 77, np.uint8))


def damage_size(data: Path) -> None:
    catalogue.write_png(data / "masks" / "t2.png", np.zeros((48, 60), np.uint8))


def damage_image(data: Path) -> None:
    (data / "images" / "t2.png").write_text("no image")


def damage_colour(data: Path) -> None:
    catalogue.write_png(data / "masks" / "t2.png", np.zeros((48, 64, 3), np.uint8))


def damage_split(data: Path) -> None:
    (data / "splits" / "train.txt").write_text("")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_index, "has an index outside classes.txt: got 77, expected 0 to 5"),
        (damage_size, "image and mask 't2' differ in size: got image 64 x 48, mask 60 x 48"),
        (damage_image, "is not an image that OpenCV decodes"),
        (damage_colour, "is not a map of class indices: got mode RGB"),
        (damage_split, "train.txt is empty"),
    ],
)
def test_a_damaged_data_set_is_one_line(
    tmp_path: Path, preset: Path, damage: Callable[[Path], None], message: str
) -> None:
    data = catalogue.write_dataset(tmp_path / "data")
    damage(data)
    result = run_train("--data", data, "--preset", preset, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert message in one_line(result)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_is_one_line(tmp_path: Path, preset: Path) -> None:
    data = catalogue.write_dataset(tmp_path / "data")
    out = tmp_path / "run"
    result = run_train("--data", data, "--preset", preset, "--out", out, "--learning-rate", "1e30")
    assert result.exit_code == 1
    expected = r"loss of step 'embedding' is not finite in epoch \d, batch \d: got nan; low"
    assert re.search(expected, one_line(result))
    assert not (out / "model.safetensors").exists()
    unfinished = CliRunner().invoke(eval_main, [str(out), "--quiet"])
    assert unfinished.exit_code == 1
    assert "has no finished weights; finish the run with --resume" in one_line(unfinished)


@pytest.mark.parametrize(
    "arguments",
    [["--preset", "thesis"], ["--data", "elsewhere"], ["--epochs", "3"], ["--void", ""]],
)
def test_resume_takes_no_other_options(tmp_path: Path, arguments: list[str]) -> None:
    result = run_train("--out", tmp_path / "run", "--resume", *arguments)
    assert result.exit_code == 2
    expected = f"--resume goes on with the run's own configuration: got {arguments[0]}; give"
    assert expected in one_line(result)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--loss", "hinge"],
        ["--workers", "x"],
        ["--weights", "voc"],
        ["--threads", "0"],
        ["--epochs", "x"],
        ["--nope"],
    ],
)
def test_options_that_click_refuses_leave_nothing(tmp_path: Path, arguments: list[str]) -> None:
    result = run_train("--out", tmp_path / "run", *arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


def test_a_preset_with_a_wrong_table_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("embedding_step = 3\n")
    result = run_train("--data", "d", "--preset", path, "--epochs", 1, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "preset [embedding_step]: got 3, expected a table" in one_line(result)


def test_a_protocol_takes_the_place_of_a_presets_recipe(preset: Path) -> None:
    # the backbone would be the preset's, and refuse caffe's padding
    config = _config(Path("d"), str(preset), {"protocol": "thesis", "learning_rate": 1e-4})
    assert (config.backbone, config.void, config.dim) == ("vgg16", ("rock",), 4)
    assert (config.embedding_step.epochs, config.embedding_step.learning_rate) == (30, 1e-4)
    assert _config(Path("d"), str(preset), {}).embedding_step.epochs == 7
    assert _config(Path("d"), str(preset), {"protocol": "modern"}).embedding_step.epochs == 7


def test_every_preset_builds() -> None:
    assert {"szn-mini", "thesis"} <= set(preset_names())
    for name in preset_names():
        config = TrainConfig.from_dict({**load_preset(name), "data": "somewhere"})
        assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_key_of_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("strides = 32\n")
    result = run_train("--data", tmp_path, "--preset", path, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "unknown key 'strides'" in one_line(result)


def test_a_run_without_a_folder_is_refused() -> None:
    result = run_train("--data", "d")
    assert result.exit_code == 2
    assert "no run folder is named; give --out DIR" in one_line(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unseen", "sheep,boat"], "class 'boat' is in train_unseen and in unseen"),
        (["--unseen", "sheep,grass,sky"], "split 'train' of .* leaves no image for the embedding"),
        (["--void", ""], "label 'gizmo': 'gizmo' is not in words.txt; use another word"),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_classes_that_cannot_be_trained_are_one_line(
    tmp_path: Path, preset: Path, arguments: list[str], message: str, check: bool
) -> None:
    data = catalogue.write_dataset(tmp_path / "data", classes=(*catalogue.CLASSES[:5], "gizmo"))
    void = [] if "--void" in arguments else ["--void", "gizmo"]
    purpose = ["--check-data"] if check else ["--out", tmp_path / "run"]
    result = run_train("--data", data, "--preset", preset, *void, *arguments, *purpose)
    assert result.exit_code == 1
    assert re.search(message, one_line(result))
    assert not (tmp_path / "run").exists()


def test_random_train_unseen_is_drawn_printed_and_stored(tmp_path: Path, preset: Path) -> None:
    data = catalogue.write_dataset(tmp_path / "data")
    out = tmp_path / "run"
    arguments = ["--data", data, "--preset", preset, "--out", out, "--epochs", 1, "--seed", 3]
    result = CliRunner().invoke(
        train_main, [*map(str, arguments), "--random-train-unseen", "1", "--unseen", "sheep"]
    )
    split = ClassSplit(names=catalogue.CLASSES, void=("rock",), unseen=("sheep",))
    drawn = split.with_random_train_unseen(1, 3).train_unseen
    assert f"train_unseen, drawn with seed 3: {drawn[0]}" in result.stderr
    assert result.exit_code == 0, result.output
    assert read_json(out / "config.json")["config"]["train_unseen"] == list(drawn)


def test_random_and_named_train_unseen_exclude_each_other(tmp_path: Path, preset: Path) -> None:
    data = catalogue.write_dataset(tmp_path / "data")
    result = run_train(
        "--data", data, "--preset", preset, "--out", tmp_path / "run",
        "--train-unseen", "boat", "--random-train-unseen", 1,
    )  # fmt: skip
    assert result.exit_code == 2
    assert "--train-unseen and --random-train-unseen exclude each other" in one_line(result)
    result = run_train(
        "--data", data, "--preset", preset, "--out", tmp_path / "run", "--random-train-unseen", 9
    )
    assert result.exit_code == 1
    assert "expected 1 to 3 of the 4 seen classes" in one_line(result)


def test_check_data_prints_what_is_there(tmp_path: Path, preset: Path) -> None:
    data = catalogue.write_dataset(tmp_path / "data")
    sheet = tmp_path / "sheet.png"
    result = run_train("--data", data, "--preset", preset, "--check-data", "--contact-sheet", sheet)
    assert result.exit_code == 0, result.output
    assert "seenmask: 8 images kept; dropped 2 with a class of U" in result.output
    assert "train_unseen" in result.output
    assert result.output.splitlines()[-1] == "no problem that would end a training run"
    assert sheet.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_check_data_lists_all_and_ends_with_the_first_fatal_problem(
    tmp_path: Path, preset: Path
) -> None:
    data = catalogue.write_dataset(tmp_path / "data")
    damage_image(data)
    (data / "masks" / "v1.png").unlink()
    result = run_train("--data", data, "--preset", preset, "--check-data")
    assert result.exit_code == 1
    assert "t2.png is not an image that OpenCV decodes" in one_line(result)
    assert "v1.png is missing" in result.stdout
    assert "class 'cow' is in 4 images of split 'train' only" in result.stdout


@pytest.mark.parametrize("recipe", [True, False])
def test_the_refit_of_the_embedding_is_switched_on_and_off(
    tmp_path: Path, preset: Path, recipe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[TrainConfig] = []
    monkeypatch.setattr("szn_train.cli._check_data", lambda config, *_: told.append(config))
    own = tmp_path / "own.toml"
    own.write_text(f"refit_embedding = {str(recipe).lower()}\n")
    for option in ([], ["--refit-embedding"], ["--no-refit-embedding"]):
        result = run_train("--data", "d", "--preset", f"{preset},{own}", "--check-data", *option)
        assert result.exit_code == 0, result.output
    assert [config.refit_embedding for config in told] == [recipe, True, False]
    result = run_train("--data", "d", "--refit-embedding", "--loss", "mse", "--check-data")
    assert result.exit_code == 2
    assert "refit_embedding is about cosines: got loss 'mse'" in one_line(result)
    assert "give --no-refit-embedding" in one_line(result)


@pytest.mark.parametrize("option", ["--seenmask-epochs", "--seenmask-learning-rate"])
def test_options_of_a_linear_seenmask_are_not_for_another(
    tmp_path: Path, preset: Path, option: str
) -> None:
    data = catalogue.write_dataset(tmp_path / "data")
    options = ["--data", data, "--preset", preset, option, 1, "--check-data"]
    result = run_train(*options, "--seenmask", "statistics")
    assert result.exit_code == 2
    assert f"{option} is about a linear seenmask: got seenmask 'statistics'" in one_line(result)
    assert "give --seenmask linear" in one_line(result)
    assert run_train(*options, "--seenmask", "linear").exit_code == 0


def test_voc_is_checked_trained_on_and_evaluated(tmp_path: Path) -> None:
    root = trees.write_voc_sbd(tmp_path / "pascal")
    words = tmp_path / "words.txt"
    words.write_text("".join(f"{n} {i % 3} {i % 5} {i}\n" for i, n in enumerate(VOC_CLASSES, 1)))
    out = tmp_path / "run"
    options = ["--data", root, "--preset", "voc-17-2-2", "--embeddings", words, "--dim", 3]
    few = "operating point on: got 1, with hold_share 0.125, expected 8 or more"
    result = run_train(*options, "--check-data")
    assert result.exit_code == 1
    assert few in one_line(result)
    assert "classes (17, 2, 2), 10 images" in result.output
    assert "held out of both: 1 images" in result.output
    result = run_train(*options, "--check-data", "--seenmask", "linear")
    assert result.exit_code == 0, result.output
    assert "held out" not in result.output
    options += ["--out", out, "--weights", "none", "--long-side", 48, "--epochs", 1]
    result = run_train(*options)
    assert result.exit_code == 1
    assert few in one_line(result)
    assert not out.exists()
    result = run_train(*options, "--seenmask", "linear", "--seenmask-epochs", 1)
    assert result.exit_code == 0, result.output
    assert read_json(out / "config.json")["config"]["seenmask"] == "linear"
    assert read_json(out / "config.json")["class_names"] == list(VOC_CLASSES)
    assert read_json(out / "eval-val.json")["images"] == len(trees.VAL)
    again = CliRunner().invoke(eval_main, [str(out), "--quiet", "--split", "voc-trainval"])
    assert again.exit_code == 0, again.output
    saved = read_json(out / "eval-voc-trainval.json")
    assert saved["images"] == len(trees.VAL) + len(trees.SBD_VAL)
    assert saved["tuple"] == [17, 2, 2]


def test_context_without_void_is_evaluated(tmp_path: Path) -> None:
    root = trees.write_context(tmp_path / "pascal")
    words = tmp_path / "words.txt"
    words.write_text(
        "".join(f"{n} {i % 3} {i % 5} {i}\n" for i, n in enumerate(CONTEXT_CLASSES, 1))
    )
    out = tmp_path / "run"
    result = run_train(
        "--data", root, "--preset", "context-33-0-0", "--embeddings", words, "--dim", 3,
        "--out", out, "--weights", "none", "--long-side", 64, "--epochs", 1, "--drop-void",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    facts = read_json(out / "selection.json")
    assert (facts["embedding_images"], facts["dropped_void"]) == (2, 2)
    # of the two images of val, one has a row of void
    assert read_json(out / "eval-val.json")["images"] == 1


def test_a_file_of_words_is_taken_instead_of_the_preset_s(tmp_path: Path, preset: Path) -> None:
    with preset.open("a") as file:
        file.write('[label_words]\ncow = ["horse"]\nsky = ["bird"]\n')
    words = tmp_path / "label_words.json"
    words.write_text('{"cow": ["goat"]}')
    for given, expected in (
        ({}, (("cow", ("horse",)), ("sky", ("bird",)))),
        ({"label_words": str(words)}, (("cow", ("goat",)),)),
        ({"label_words": ""}, ()),
    ):
        assert _config(Path("d"), str(preset), dict(given)).label_words == expected


def test_words_that_do_not_fit_are_one_line(tmp_path: Path, preset: Path) -> None:
    data = catalogue.write_dataset(tmp_path / "data")
    words = tmp_path / "label_words.json"
    arguments = ["--data", data, "--preset", preset, "--label-words", words]
    for content, purpose, message in (
        ("[]", ["--check-data"], "label_words.json holds no words of labels: expected {"),
        ('{"cow": ["hoarse"]}', ["--check-data"], "label 'hoarse': 'hoarse' is not in"),
        ('{"cow": ["hoarse"]}', ["--out", tmp_path / "run"], "label 'hoarse': 'hoarse' is not in"),
    ):
        words.write_text(content)
        result = run_train(*arguments, *purpose)
        assert result.exit_code == 1
        assert message in one_line(result)
    result = run_train(*arguments, "--embeddings", "one-hot", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "label_words are looked up in word vectors: got embeddings 'one-hot'" in one_line(result)
