from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from szn_runtime.errors import InputError
from szn_runtime.labels import LabelSet
from szn_runtime.sei import segment_grid
from szn_train.backbones import BACKBONES, Backbone, vgg16
from szn_train.batches import Batches
from szn_train.checkpoint import load_checkpoint
from szn_train.config import StepConfig, TrainConfig
from szn_train.evaluate import evaluate
from szn_train.model import upsample
from szn_train.progress import Progress
from szn_train.run import Run, open_run
from szn_train.trainer import train
from tests.train import catalogue
from tests.train.killed import Killed, KilledAfter, weights


def test_the_seenmask_step_leaves_everything_else_alone(
    whole: tuple[TrainConfig, Run], tmp_path: Path
) -> None:
    config, run = whole
    with pytest.raises(Killed):
        train(config, tmp_path, progress=KilledAfter(2))  # before the seenmask step
    average = load_checkpoint(tmp_path / "checkpoint.pt")["average"]
    before = {name.removeprefix("module."): tensor for name, tensor in average.items()}
    names = [name for name in weights(run) if not name.startswith("seenmask_head")]
    assert len(names) > 200
    for name in names:
        assert torch.equal(weights(run)[name], before[name]), name
    assert not torch.equal(weights(run)["seenmask_head.weight"], before["seenmask_head.weight"])


def test_the_run_folder_tells_what_was_done(whole: tuple[TrainConfig, Run]) -> None:
    config, run = whole
    saved = json.loads((run.folder / "config.json").read_text())
    assert TrainConfig.from_dict(saved["config"]) == config
    assert saved["class_names"] == list(catalogue.CLASSES)
    selection = json.loads((run.folder / "selection.json").read_text())
    assert selection["tuple"] == [3, 1, 1]
    assert (selection["embedding_images"], selection["seenmask_images"]) == (6, 8)
    assert selection["dropped_unseen"] == 2
    assert list((run.folder / "events").iterdir())
    assert open_run(run.folder).space.names == run.space.names
    assert not run.network.training


def test_a_new_run_in_the_folder_of_an_old_one_starts_from_nothing(tmp_path: Path) -> None:
    run = catalogue.train_tiny(tmp_path)
    (run.folder / "eval-val.json").write_text("{}")
    first = weights(run)
    (run.folder / "notes.txt").write_text("mine")
    again = catalogue.train_tiny(tmp_path)
    assert again.folder == run.folder
    assert all(torch.equal(weights(again)[name], first[name]) for name in first)  # the same seed
    assert (run.folder / "history.csv").read_text().count("\n") == 3
    assert not (run.folder / "eval-val.json").exists()
    assert (run.folder / "notes.txt").read_text() == "mine"


def test_bad_data_leaves_an_older_run_as_it_was(
    whole: tuple[TrainConfig, Run], tmp_path: Path
) -> None:
    config, run = whole
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    data = catalogue.write_dataset(tmp_path / "data")
    (data / "masks" / "t4.png").unlink()
    broken = dataclasses.replace(config, data=str(data))
    with pytest.raises(InputError, match=r"mask .*t4\.png is missing"):
        train(broken, run.folder, progress=Progress(quiet=True))
    unknown = dataclasses.replace(config, embeddings=str(tmp_path / "none.txt"))
    with pytest.raises(InputError, match=r"no embeddings at .*none\.txt"):
        train(unknown, run.folder, progress=Progress(quiet=True))
    after = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    assert after == before


def test_mixed_precision_trains_in_bf16_and_keeps_its_weights_in_fp32(tmp_path: Path) -> None:
    step = StepConfig(epochs=4, batch_size=3, learning_rate=1e-4)
    # trained weights, whose activations are tame
    recipe: dict[str, Any] = {"weights": "imagenet", "embedding_step": step}
    mixed = catalogue.train_tiny(tmp_path / "bf16", precision="bf16", **recipe)
    plain = catalogue.train_tiny(tmp_path / "fp32", **recipe)
    assert {t.dtype for t in weights(mixed).values() if t.is_floating_point()} == {torch.float32}
    losses = []
    for run in (mixed, plain):
        with (run.folder / "history.csv").open() as file:
            losses.append([float(row["loss"]) for row in csv.DictReader(file)])
    assert losses[0] != losses[1]  # it was another arithmetic
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.3)  # eight pixels steer it all
    assert losses[0][3] < losses[0][0]


def test_both_steps_may_stop_early_by_the_validation_split(tmp_path: Path) -> None:
    step = StepConfig(epochs=2, batch_size=3, learning_rate=1e-3, early_stop=2)
    run = catalogue.train_tiny(tmp_path, embedding_step=step, seenmask_step=step)
    with (run.folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["embedding"] * 2 + ["seenmask"] * 2
    assert all(0 <= float(row["score"]) <= 100 for row in rows)
    best = load_checkpoint(run.folder / "best.pt")
    assert best["step"] == "seenmask"
    score = max(float(row["score"]) for row in rows if row["step"] == "seenmask")
    assert best["best"]["score"] == pytest.approx(score)
    for name, tensor in best["network"].items():
        assert torch.equal(weights(run)[name], tensor), name


def narrow_vgg16(**options: Any) -> Backbone:
    """VGG16 whose fc6 and fc7 have 8 channels: 1.5 GB of weights and Adam's state less to write."""
    wide = vgg16(**options)
    layers = list(wide.body.children())
    fc6, fc7 = (n for n, layer in enumerate(layers) if getattr(layer, "out_channels", 0) == 4096)
    layers[fc6] = nn.Conv2d(512, 8, 7, padding=layers[fc6].padding)
    layers[fc7] = nn.Conv2d(8, 8, 1)
    return Backbone(nn.Sequential(*layers), dataclasses.replace(wide.info, channels=8))


def test_the_thesis_protocol_goes_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the folder format; `tests/test_thesis_protocol.py` has VOC and the network's own width."""
    monkeypatch.setitem(BACKBONES, "vgg16", narrow_vgg16)
    data = catalogue.write_dataset(tmp_path / "data")
    (data / "splits" / "few.txt").write_text("t1\nt6\n")  # one image a step
    words = catalogue.write_words(tmp_path / "words.txt")
    values = {
        "data": str(data), "protocol": "thesis", "weights": "none", "train_split": "few",
        "embeddings": str(words), "dim": 4, "void": ["rock"], "train_unseen": ["boat"],
        "unseen": ["sheep"], "embedding_step": {"epochs": 1}, "seenmask_step": {"epochs": 1},
    }  # fmt: skip
    run = train(TrainConfig.from_dict(values), tmp_path / "run", progress=Progress(quiet=True))
    info = run.network.backbone.info
    assert (info.node_offset, info.channel_order, info.std) == (12.5, "bgr", (1.0, 1.0, 1.0))
    assert evaluate(run, progress=Progress(quiet=True)).images == 4


def test_weights_of_another_run_start_a_new_one(tmp_path: Path) -> None:
    first = catalogue.train_tiny(tmp_path / "first")
    frozen = StepConfig(epochs=1, batch_size=3, learning_rate=1e-12)
    again = catalogue.train_tiny(
        tmp_path / "again", weights=str(first.folder / "model.safetensors"), embedding_step=frozen
    )
    for name, value in first.network.named_parameters():
        if name.startswith("backbone"):
            torch.testing.assert_close(again.network.get_parameter(name), value)


def test_without_train_unseen_there_is_no_second_step(tmp_path: Path) -> None:
    run = catalogue.train_tiny(tmp_path, train_unseen=(), unseen=("sheep", "boat"))
    assert run.split.sizes == (3, 0, 2)
    rows = (run.folder / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["embedding"]


def test_both_sides_of_the_seenmask_can_weigh_the_same(tmp_path: Path) -> None:
    plain = catalogue.train_tiny(tmp_path / "plain")
    balanced = catalogue.train_tiny(tmp_path / "balanced", balance_seenmask=True)
    ours, theirs = weights(balanced), weights(plain)
    changed = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert changed == {"seenmask_head.weight", "seenmask_head.bias"}
    # seen pixels are the many: weighing them less makes the mask say unseen more
    bias = [w["seenmask_head.bias"][1] - w["seenmask_head.bias"][0] for w in (ours, theirs)]
    assert bias[0] < bias[1]


def test_exposure_trains_the_first_step_on_train_unseen_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[str, ...]] = []

    def batches(dataset: Any, split: Any, ids: tuple[str, ...], **options: Any) -> Any:
        taken.append(ids)
        return Batches(dataset, split, ids, **options)

    monkeypatch.setattr("szn_train.two_steps.Batches", batches)
    catalogue.train_tiny(tmp_path / "plain")
    catalogue.train_tiny(tmp_path / "exposed", exposure=1.0)
    alone, second, exposed, again = (set(ids) for ids in taken)
    assert alone == {"t0", "t1", "t2", "t3", "t4", "t5"}
    assert exposed == again == second == alone | {"t6", "t7"}


def test_fcn_s_scores_every_label_and_sei_takes_the_highest(tmp_path: Path) -> None:
    step = StepConfig(epochs=12, batch_size=3, learning_rate=3e-3)
    run = catalogue.train_tiny(
        tmp_path, loss="cross_entropy", embeddings="one-hot", dim=20, embedding_step=step
    )
    assert run.config.dim == 5  # the number of labels, whatever was asked for
    saved = json.loads((run.folder / "config.json").read_text())
    assert saved["config"]["dim"] == 5
    np.testing.assert_array_equal(run.space.embeddings, np.eye(5))
    with (run.folder / "history.csv").open() as file:
        losses = [float(r["loss"]) for r in csv.DictReader(file) if r["step"] == "embedding"]
    assert losses[-1] < 0.7 * losses[0]
    labels = LabelSet(names=run.space.names, embeddings=run.space.unit, seen=np.ones(5, np.bool_))
    scores = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(1))
    geometry = run.network.geometry
    found, _ = segment_grid(scores.numpy(), None, labels, geometry=geometry, size_hw=(128, 192))
    expected = upsample(scores[None], (128, 192), geometry)[0].argmax(dim=0)
    assert (found == expected.numpy()).all()


@pytest.mark.parametrize("loss", ["cosine", "mse", "cosine_ce"])
def test_one_hot_embeddings_go_with_every_loss(tmp_path: Path, loss: str) -> None:
    run = catalogue.train_tiny(tmp_path, loss=loss, embeddings="one-hot")
    assert run.config.dim == 5
    assert evaluate(run, progress=Progress(quiet=True)).images == 4


@pytest.mark.parametrize(("loss", "epochs"), [("cosine", 6), ("mse", 12), ("cosine_ce", 6)])
def test_the_loss_falls_on_real_photos(
    data_dir: Path, tmp_path: Path, loss: str, epochs: int
) -> None:
    msrc, few = data_dir / "msrc21", tmp_path / "few"
    (few / "splits").mkdir(parents=True)
    for name in ("images", "masks", "classes.txt"):
        (few / name).symlink_to(msrc / name)
    (few / "splits" / "all.txt").write_text("\n".join(
        (msrc / "splits" / "train.txt").read_text().split()[::33][:12]
    ))  # fmt: skip
    config = TrainConfig(
        data=str(few),
        train_split="all",
        val_split="all",
        void=("horse", "mountain"),
        backbone="efficientnet_lite0",
        embeddings="glove",
        loss=loss,  # type: ignore[arg-type]
        long_side=128,
        embedding_step=StepConfig(
            epochs=epochs, batch_size=3, learning_rate=1e-3, optimizer="adamw"
        ),
    )
    run = train(config, tmp_path / "run", progress=Progress(quiet=True))
    with (run.folder / "history.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.6 * losses[0]
    result = evaluate(run, progress=Progress(quiet=True))
    assert result.images == 12
    assert result.scores("FCN-JE", "overall").pa > 50
