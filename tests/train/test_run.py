from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from szn_runtime.errors import InputError, TrainingError, UsageError
from szn_train.checkpoint import load_weights, save_label_space, save_weights
from szn_train.run import Run, build_network, class_split, open_run, saved_config
from szn_train.semantic import LabelSpace, label_space
from tests.train import catalogue
from tests.train.catalogue import CLASSES


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as training leaves it, without the training."""
    root = tmp_path_factory.mktemp("run")
    words = catalogue.write_words(root / "words.txt")
    config = catalogue.tiny_config(root / "data", words)
    folder = root / "run"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"config": config.to_dict(), "class_names": CLASSES})
    )
    torch.manual_seed(0)
    save_weights(
        folder / "model.safetensors",
        build_network(config, catalogue.SPLIT, weights="none").state_dict(),
    )
    space = label_space(catalogue.SPLIT.labels, source=str(words), dim=4)
    save_label_space(folder / "label_space.npz", space)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_run_is_opened_for_use(finished: Path) -> None:
    run = open_run(finished)
    assert isinstance(run, Run)
    assert run.split == catalogue.SPLIT
    assert run.space.names == catalogue.SPLIT.labels
    assert run.config.dim == 4
    assert not any(module.training for module in run.network.modules())
    weights = load_weights(finished / "model.safetensors")
    state = run.network.state_dict()
    assert set(weights) == set(state)
    assert all(torch.equal(state[name], weights[name]) for name in weights)


def test_a_network_is_channels_last(finished: Path) -> None:
    weight = open_run(finished).network.get_parameter("backbone.body.network.conv_stem.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_a_run_that_names_no_seenmask_has_a_linear_one(folder: Path) -> None:
    path = folder / "config.json"
    saved = json.loads(path.read_text())
    for key in ("seenmask", "hold_share", "seenmask_drop"):
        del saved["config"][key]
    path.write_text(json.dumps(saved))
    run = open_run(folder)
    assert run.config.seenmask == "linear"
    assert isinstance(run.network.seenmask_head, torch.nn.Conv2d)


def test_a_seenmask_of_statistics_has_the_shapes_of_its_run(finished: Path) -> None:
    config, _ = saved_config(finished)
    other = dataclasses.replace(config, seenmask="statistics")
    network = build_network(other, catalogue.SPLIT)
    shapes = {k: tuple(v.shape[:2]) for k, v in network.seenmask_head.state_dict().items()}
    assert shapes["statistics.labels"] == (3, 4)
    assert shapes["statistics.directions"] == (65, 1280)
    assert shapes["statistics.class_means"] == (3, 64)
    with torch.inference_mode():
        grids = network.eval()(torch.randn(1, 3, 64, 96))
    assert grids.seenmask.shape == (1, 2, 2, 3)
    assert (grids.seenmask[:, 1] > grids.seenmask[:, 0]).all()  # seen, until it is fitted
    # without a class to fit it on it is the thesis'
    none = dataclasses.replace(other, train_unseen=())
    split = class_split(none, CLASSES)
    assert isinstance(build_network(none, split).seenmask_head, torch.nn.Conv2d)


@pytest.mark.parametrize("dim", [2, 7])
def test_a_network_has_the_dimensions_of_its_configuration(finished: Path, dim: int) -> None:
    config, _ = saved_config(finished)
    other = type(config)(**{**vars(config), "dim": dim, "stride": 16, "crop_hw": (64, 64)})
    with torch.device("meta"):
        network = build_network(other, catalogue.SPLIT, weights="none")
    assert network.geometry.stride_yx == (16, 16)
    grids = network(torch.zeros(1, 3, 32, 48, device="meta"))
    assert grids.embedding.shape == (1, dim, 2, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", r"is not a run folder: expected config\.json"),
        ("model.safetensors", "has no finished weights"),
        ("label_space.npz", r"label_space\.npz is missing or damaged"),
    ],
)
def test_a_missing_file_is_named(folder: Path, name: str, message: str) -> None:
    (folder / name).unlink()
    with pytest.raises(TrainingError, match=message):
        open_run(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "label_space.npz"])
def test_a_truncated_file_is_named(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(TrainingError, match=rf"{name} is .*damaged \(") as caught:
        open_run(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [{}, {"config": []}, {"config": {}, "class_names": "cow"}])
def test_json_of_something_else_is_no_run(folder: Path, values: dict[str, object]) -> None:
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(TrainingError, match=r"config\.json is damaged: expected 'config' and"):
        open_run(folder)


def edit(folder: Path, **changes: object) -> None:
    saved = json.loads((folder / "config.json").read_text())
    saved["config"] |= changes
    (folder / "config.json").write_text(json.dumps(saved))


def test_weights_of_another_network_are_refused(folder: Path) -> None:
    edit(folder, dim=5)
    with pytest.raises(TrainingError, match=r"model\.safetensors does not fit its config\.json"):
        open_run(folder)


def test_labels_of_another_run_are_refused(folder: Path) -> None:
    edit(folder, void=[])
    with pytest.raises(TrainingError, match=r"label_space\.npz does not fit its config\.json"):
        open_run(folder)


def test_values_that_were_edited_are_checked(folder: Path) -> None:
    edit(folder, stride=7)
    with pytest.raises(UsageError, match="configuration: stride: got 7"):
        open_run(folder)
    edit(folder, stride=32, unseen=["zebra"])
    with pytest.raises(InputError, match="class 'zebra' of unseen is not in the data set"):
        open_run(folder)


def test_a_label_space_without_a_direction_is_refused(folder: Path) -> None:
    good = open_run(folder).space
    broken = LabelSpace(source="x", names=good.names, embeddings=good.embeddings.copy())
    broken.embeddings[2] = 0
    save_label_space(folder / "label_space.npz", broken)
    with pytest.raises(InputError, match="label 'cow' has no direction"):
        open_run(folder)
