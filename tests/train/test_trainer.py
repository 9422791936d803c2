from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from szn_runtime.errors import InputError, TrainingError
from szn_runtime.labels import LabelSet
from szn_runtime.sei import segment_grid
from szn_train.batches import Batches
from szn_train.cells import cell_labels
from szn_train.checkpoint import load_checkpoint, save_checkpoint, save_label_space
from szn_train.config import StepConfig, TrainConfig
from szn_train.datasets import open_dataset
from szn_train.embedding_refit import fit_embedding
from szn_train.evaluate import evaluate
from szn_train.history import History
from szn_train.model import upsample
from szn_train.optimizer import learning_rate
from szn_train.processes import Processes
from szn_train.progress import Progress
from szn_train.run import Run, open_run
from szn_train.semantic import label_space
from szn_train.step import TrainingStep
from szn_train.trainer import train
from szn_train.transforms import plain, preprocess_of
from tests.train import catalogue


def config_for(root: Path, **changes: object) -> TrainConfig:
    """Two epochs of each step on the tiny data set, with everything that has state."""
    step = StepConfig(
        epochs=2, batch_size=4, learning_rate=1e-3, optimizer="adamw", schedule="cosine",
        warmup=0.2, augment=True, ema=0.5,
    )  # fmt: skip
    words = root / "words.txt"
    words.write_text(
        "\n".join(
            f"{word} " + " ".join(f"{x:.6f}" for x in row)
            for word, row in zip(catalogue.WORDS, catalogue.word_vectors(), strict=True)
        )
        + "\n"
    )
    values: dict[str, object] = {
        "data": str(catalogue.write_dataset(root / "data")),
        "void": catalogue.VOID,
        "train_unseen": catalogue.TRAIN_UNSEEN,
        "unseen": catalogue.UNSEEN,
        "backbone": "efficientnet_lite0",
        "weights": "none",
        "stride": 32,
        "embeddings": str(words),
        "dim": 4,
        "loss": "cosine_ce",
        "long_side": 64,
        "crop_hw": (32, 64),
        "seenmask": "linear",
        "embedding_step": step,
        "seenmask_step": dataclasses.replace(step, augment=False, ema=0.0),
    }
    return TrainConfig(**(values | changes))  # type: ignore[arg-type]


class Killed(BaseException):
    """Stands for a process that is killed."""


class KilledAfter(Progress):
    """Progress that ends the run when a number of epochs have started."""

    def __init__(self, epochs: int) -> None:
        super().__init__(quiet=True)
        self._left = epochs

    def task(self, name: str, total: int):  # type: ignore[no-untyped-def]
        if self._left == 0:
            raise Killed
        self._left -= 1
        return super().task(name, total)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Run]:
    root = tmp_path_factory.mktemp("whole")
    config = config_for(root)
    return config, train(config, root / "run", progress=Progress(quiet=True))


def weights(run: Run) -> dict[str, Tensor]:
    return dict(run.network.state_dict())


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_killed_run_resumes_to_the_same_weights(
    whole: tuple[TrainConfig, Run], tmp_path: Path, epochs: int
) -> None:
    config, unbroken = whole
    with pytest.raises(Killed):
        train(config, tmp_path, progress=KilledAfter(epochs))
    assert not (tmp_path / "model.safetensors").exists()
    resumed = train(config, tmp_path, progress=Progress(quiet=True), resume=True)
    for name, tensor in weights(resumed).items():
        assert torch.equal(tensor, weights(unbroken)[name]), name
    assert (tmp_path / "history.csv").read_text().count("\n") == 5  # header and four epochs


def test_a_run_is_trained_resumed_and_read_with_the_words_of_its_labels(tmp_path: Path) -> None:
    config = config_for(tmp_path, label_words=(("sheep", ("goat",)), ("cow", ("horse", "cat"))))
    with pytest.raises(Killed):
        train(config, tmp_path / "run", progress=KilledAfter(3))
    Path(config.embeddings).unlink()  # the space is that of the run's first half
    run = train(config, tmp_path / "run", progress=Progress(quiet=True), resume=True)
    words = catalogue.write_words(tmp_path / "words.txt")
    spaces = [
        label_space(run.split.labels, source=str(words), dim=4, words=given)
        for given in (None, {"sheep": ("goat",), "cow": ("horse", "cat")})
    ]
    np.testing.assert_allclose(run.space.embeddings, spaces[1].embeddings, atol=1e-4)
    moved = np.abs(run.space.embeddings - spaces[0].embeddings).max(axis=1) > 0.1
    assert [name for name, has in zip(run.split.labels, moved, strict=True) if has] == [
        "cow",
        "sheep",
    ]
    saved = json.loads((run.folder / "config.json").read_text())["config"]
    assert saved["label_words"] == {"sheep": ["goat"], "cow": ["horse", "cat"]}
    assert run.config == config


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


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1)
    step = TrainingStep(
        "embedding", StepConfig(epochs=3), seed=1, network=network, body=[],
        heads=list(network.parameters()),
    )  # fmt: skip
    calls: list[int] = []

    def loss(frames: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        return network.weight.sum() * (float("nan") if len(calls) > 6 else 1.0)

    dataset = catalogue.write_dataset(tmp_path / "data")
    from szn_train.datasets import FolderDataset

    batches = Batches(
        FolderDataset(root=dataset, split="train"),
        catalogue.SPLIT,
        ("t0", "t1", "t2", "t3"),
        transform=lambda image, target: (torch.zeros(3, 4, 4), torch.zeros(4, 4).long()),
        batch_size=1,
    )
    with (
        History(tmp_path) as history,
        pytest.raises(TrainingError, match=r"loss of step 'embedding' is not finite in epoch 2, "),
    ):
        step.run(batches, loss, history, Progress(quiet=True))
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert [row["epoch"] for row in saved["history"]] == [1]


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


def test_a_checkpoint_of_another_network_is_refused(
    whole: tuple[TrainConfig, Run], tmp_path: Path
) -> None:
    config, run = whole
    (tmp_path / "checkpoint.pt").write_bytes((run.folder / "checkpoint.pt").read_bytes())
    other = dataclasses.replace(config, dim=3)
    expected = r"checkpoint\.pt does not fit its config\.json: got dim 4, expected dim 3; resume wi"
    with pytest.raises(TrainingError, match=expected):
        train(other, tmp_path, progress=Progress(quiet=True), resume=True)
    # checkpoints that do not say what wrote them are known by their tensors
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    save_checkpoint(tmp_path / "checkpoint.pt", {k: v for k, v in state.items() if k != "config"})
    space = label_space(run.split.labels, source=other.embeddings, dim=3)
    save_label_space(tmp_path / "label_space.npz", space)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt does not fit its config\.json$"):
        train(other, tmp_path, progress=Progress(quiet=True), resume=True)


@pytest.mark.parametrize(
    ("change", "fact"),
    [({"seed": 9}, "seed"), ({"unseen": ()}, "unseen"), ({"precision": "bf16"}, "precision")],
)
def test_a_checkpoint_of_another_configuration_is_refused(
    whole: tuple[TrainConfig, Run], tmp_path: Path, change: dict[str, Any], fact: str
) -> None:
    config, run = whole
    (tmp_path / "checkpoint.pt").write_bytes((run.folder / "checkpoint.pt").read_bytes())
    other = dataclasses.replace(config, **change)
    expected = rf"does not fit its config\.json: got {fact} .*, expected {fact} "
    with pytest.raises(TrainingError, match=expected) as caught:
        train(other, tmp_path, progress=Progress(quiet=True), resume=True)
    assert "\n" not in str(caught.value)


def test_a_data_set_may_move_between_both_halves_of_a_run(
    whole: tuple[TrainConfig, Run], tmp_path: Path
) -> None:
    config, unbroken = whole
    with pytest.raises(Killed):
        train(config, tmp_path / "run", progress=KilledAfter(2))
    moved = dataclasses.replace(config, data=str(catalogue.write_dataset(tmp_path / "moved")))
    resumed = train(moved, tmp_path / "run", progress=Progress(quiet=True), resume=True)
    for name, tensor in weights(resumed).items():
        assert torch.equal(tensor, weights(unbroken)[name]), name


def test_a_full_disk_is_one_line_and_loses_no_earlier_checkpoint(
    whole: tuple[TrainConfig, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, unbroken = whole
    writes = 0

    def full(descriptor: int) -> None:
        nonlocal writes
        writes += 1
        if (tmp_path / "history.csv").exists():  # the first epoch is on disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        expected = r"cannot be written \(No space left on device\); free space; --resume goes on"
        with pytest.raises(TrainingError, match=expected) as caught:
            train(config, tmp_path, progress=Progress(quiet=True))
    assert "\n" not in str(caught.value)
    assert writes == 6
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert [row["epoch"] for row in saved["history"]] == [1]
    assert list(tmp_path.glob(".*.tmp")) == []
    resumed = train(config, tmp_path, progress=Progress(quiet=True), resume=True)
    for name, tensor in weights(resumed).items():
        assert torch.equal(tensor, weights(unbroken)[name]), name


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
    step = StepConfig(epochs=3, batch_size=3, learning_rate=1e-3, early_stop=3)
    run = catalogue.train_tiny(tmp_path, embedding_step=step, seenmask_step=step)
    with (run.folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["embedding"] * 3 + ["seenmask"] * 3
    assert all(0 <= float(row["score"]) <= 100 for row in rows)
    best = load_checkpoint(run.folder / "best.pt")
    assert best["step"] == "seenmask"
    score = max(float(row["score"]) for row in rows if row["step"] == "seenmask")
    assert best["best"]["score"] == pytest.approx(score)
    for name, tensor in best["network"].items():
        assert torch.equal(weights(run)[name], tensor), name


@pytest.mark.slow
def test_the_thesis_protocol_goes_end_to_end(tmp_path: Path) -> None:
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

    monkeypatch.setattr("szn_train.trainer.Batches", batches)
    catalogue.train_tiny(tmp_path / "plain")
    catalogue.train_tiny(tmp_path / "exposed", exposure=1.0)
    alone, second, exposed, again = (set(ids) for ids in taken)
    assert alone == {"t0", "t1", "t2", "t3", "t4", "t5"}
    assert exposed == again == second == alone | {"t6", "t7"}


# the embedding head's refit ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def refitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Run]:
    root = tmp_path_factory.mktemp("refitted")
    config = config_for(root, refit_embedding=True)
    return config, train(config, root / "run", progress=Progress(quiet=True))


def test_a_refit_changes_the_embedding_head_alone(
    whole: tuple[TrainConfig, Run], refitted: tuple[TrainConfig, Run]
) -> None:
    ours, theirs = weights(refitted[1]), weights(whole[1])
    assert ours.keys() == theirs.keys()
    changed = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert changed == {"embedding_head.weight", "embedding_head.bias"}


def test_a_refit_is_of_the_images_of_train_seen_and_what_the_run_says(
    refitted: tuple[TrainConfig, Run], whole: tuple[TrainConfig, Run]
) -> None:
    config, run = refitted
    network = whole[1].network  # has the same features
    dataset = open_dataset(config, Path(config.data), "train")
    head = fit_embedding(
        network, dataset, run.split, run.space, ids=("t0", "t1", "t2", "t3", "t4", "t5"),
        transform=plain(preprocess_of(network.backbone.info, config.long_side)),
        scale=config.similarity_scale, seed=config.seed, progress=Progress(quiet=True),
    )  # fmt: skip
    found = weights(run)
    weight = found["embedding_head.weight"][:, :, 0, 0]
    np.testing.assert_allclose(weight, head.weight, atol=1e-6)
    np.testing.assert_allclose(found["embedding_head.bias"], head.bias, atol=1e-6)


@pytest.mark.parametrize("tasks", [2, 3, 4])  # two epochs, the refit, two epochs
def test_a_run_with_a_refit_that_is_killed_resumes_to_the_same_weights(
    refitted: tuple[TrainConfig, Run], tmp_path: Path, tasks: int
) -> None:
    config, unbroken = refitted
    with pytest.raises(Killed):
        train(config, tmp_path, progress=KilledAfter(tasks))
    resumed = train(config, tmp_path, progress=Progress(quiet=True), resume=True)
    for name, tensor in weights(resumed).items():
        assert torch.equal(tensor, weights(unbroken)[name]), name


def test_a_refit_is_not_done_again_once_the_seenmask_trains(
    refitted: tuple[TrainConfig, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, unbroken = refitted
    with pytest.raises(Killed):
        train(config, tmp_path, progress=KilledAfter(4))
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert saved["step"] == "seenmask"
    expected = weights(unbroken)["embedding_head.weight"]
    assert torch.equal(saved["network"]["embedding_head.weight"], expected)
    monkeypatch.delattr("szn_train.trainer.fit_embedding")
    resumed = train(config, tmp_path, progress=Progress(quiet=True), resume=True)
    assert torch.equal(weights(resumed)["embedding_head.weight"], expected)


def test_every_process_gets_the_refitted_head(
    refitted: tuple[TrainConfig, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Tensor] = []

    def broadcast(_: Processes, module: torch.nn.Conv2d) -> None:
        sent.append(module.weight.detach().clone())

    monkeypatch.setattr(Processes, "broadcast", broadcast)
    config, run = refitted
    with pytest.raises(Killed):
        train(config, tmp_path, progress=KilledAfter(3))  # in front of the seenmask
    (weight,) = sent
    assert torch.equal(weight, weights(run)["embedding_head.weight"])


def test_a_refit_and_weights_that_stop_early(tmp_path: Path) -> None:
    step = StepConfig(epochs=2, batch_size=3, learning_rate=1e-3, early_stop=2)
    steps = {"embedding_step": step, "seenmask_step": step}
    run = catalogue.train_tiny(tmp_path / "refit", **steps, refit_embedding=True)
    best = load_checkpoint(run.folder / "best.pt")
    assert best["step"] == "seenmask"
    for name, tensor in best["network"].items():
        assert torch.equal(weights(run)[name], tensor), name
    plain_run = catalogue.train_tiny(tmp_path / "plain", **steps)
    ours, theirs = weights(run), weights(plain_run)
    assert not torch.equal(ours["embedding_head.weight"], theirs["embedding_head.weight"])
    for name in (each for each in ours if each.startswith("backbone")):
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize(("refit", "ema"), [(False, 0.0), (True, 0.5)])
def test_a_run_killed_as_the_seenmask_overwrote_the_best_weights_resumes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refit: bool, ema: float
) -> None:
    config = config_for(tmp_path, refit_embedding=refit)
    config = dataclasses.replace(
        config,
        embedding_step=dataclasses.replace(config.embedding_step, early_stop=2),
        seenmask_step=dataclasses.replace(config.seenmask_step, early_stop=2, ema=ema),
    )
    unbroken = train(config, tmp_path / "unbroken", progress=Progress(quiet=True))
    save_best = History.save_best

    def killed(history: History, state: dict[str, Any]) -> None:
        save_best(history, state)
        if state["step"] == "seenmask":
            raise Killed

    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(History, "save_best", killed)
        with pytest.raises(Killed):
            train(config, folder, progress=Progress(quiet=True))
    assert load_checkpoint(folder / "best.pt")["step"] == "seenmask"
    rows = load_checkpoint(folder / "checkpoint.pt")["history"]
    assert [row["step"] for row in rows] == ["embedding"] * 2  # no epoch of the seenmask
    resumed = train(config, folder, progress=Progress(quiet=True), resume=True)
    for name, tensor in weights(resumed).items():
        assert torch.equal(tensor, weights(unbroken)[name]), name
    ours, theirs = (
        [
            {key: value for key, value in row.items() if key != "images_per_s"}
            for row in load_checkpoint(run.folder / "checkpoint.pt")["history"]
        ]
        for run in (resumed, unbroken)
    )
    assert ours == theirs


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


def test_resuming_nothing(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    with pytest.raises(TrainingError, match="has no checkpoint; train without --resume"):
        train(config, tmp_path / "run", progress=Progress(quiet=True), resume=True)


@pytest.mark.parametrize(("done", "share"), [(0.0, 0.01), (0.1, 1.0), (0.55, 0.5), (1.0, 0.0)])
def test_warm_up_and_cosine(done: float, share: float) -> None:
    step = StepConfig(epochs=1, learning_rate=2.0, schedule="cosine", warmup=0.1)
    assert learning_rate(step, done) == pytest.approx(2.0 * share, abs=1e-9)


def test_constant_schedule() -> None:
    step = StepConfig(epochs=1, learning_rate=0.5)
    assert {learning_rate(step, done) for done in (0.0, 0.5, 0.99)} == {0.5}


@pytest.fixture(scope="module")
def statistical(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Run]:
    root = tmp_path_factory.mktemp("statistical")
    config = catalogue.statistical_config(root)
    return config, train(config, root / "run", progress=Progress(quiet=True))


def test_a_seenmask_of_statistics_is_fitted_on_images_that_are_held_out(
    statistical: tuple[TrainConfig, Run],
) -> None:
    config, run = statistical
    selection = json.loads((run.folder / "selection.json").read_text())
    held = selection["hold"]
    assert len(held) >= 8
    assert selection["seenmask_images"] + len(held) == 48
    with (run.folder / "history.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["embedding"] * 2
    dataset = open_dataset(config, Path(config.data), "train")
    transform = plain(preprocess_of(run.network.backbone.info, config.long_side))
    seen = run.split.is_member(run.split.train_seen)
    called: dict[bool, list[float]] = {True: [], False: []}
    for image_id in held:
        image, mask = dataset.pair(image_id)
        frame, target = transform(image, run.split.mask_lookup()[mask])
        with torch.inference_mode():
            scores = run.network(frame[None]).seenmask[0].numpy()
        labels = cell_labels(target.numpy().astype(np.uint8), config.stride)
        for side in called:
            cells = (labels != 255) & (np.append(seen, np.zeros(256 - len(seen)))[labels] == side)
            called[side] += (scores[1] <= scores[0])[cells].tolist()
    assert np.mean(called[False]) > 0.8  # boats
    assert np.mean(called[True]) < 0.3


def test_a_run_that_is_killed_while_it_fits_ends_the_same(
    statistical: tuple[TrainConfig, Run], tmp_path: Path
) -> None:
    config, unbroken = statistical
    with pytest.raises(Killed):
        train(config, tmp_path, progress=KilledAfter(3))  # two epochs, and the known cells
    assert not (tmp_path / "model.safetensors").exists()
    resumed = train(config, tmp_path, progress=Progress(quiet=True), resume=True)
    for name, tensor in weights(resumed).items():
        assert torch.equal(tensor, weights(unbroken)[name]), name


def test_a_seenmask_of_statistics_reads_the_refitted_head(
    statistical: tuple[TrainConfig, Run], tmp_path: Path
) -> None:
    config, plain_run = statistical
    config = dataclasses.replace(config, refit_embedding=True)
    run = train(config, tmp_path / "whole", progress=Progress(quiet=True))
    ours, theirs = weights(run), weights(plain_run)
    for name in (each for each in ours if each.startswith("backbone")):
        assert torch.equal(ours[name], theirs[name]), name
    for name in ("embedding_head.weight", "seenmask_head.statistic_weight"):
        assert not torch.equal(ours[name], theirs[name])
    with pytest.raises(Killed):
        train(config, tmp_path / "broken", progress=KilledAfter(4))  # in the seenmask's fit
    resumed = train(config, tmp_path / "broken", progress=Progress(quiet=True), resume=True)
    for name, tensor in weights(resumed).items():
        assert torch.equal(tensor, ours[name]), name


def test_too_few_images_for_an_operating_point(tmp_path: Path) -> None:
    expected = r"operating point on: got 1, with hold_share 0.125, expected 8 or more; give --seenm"
    with pytest.raises(TrainingError, match=expected):
        catalogue.train_tiny(tmp_path, seenmask="statistics")
    assert not (tmp_path / "run").exists()


def test_a_single_label_of_train_seen_is_refused_before_training(tmp_path: Path) -> None:
    expected = r"statistics: got 1, expected 2 or more; give --seenmask linear, or shorten --train-"
    with pytest.raises(TrainingError, match=expected):
        catalogue.train_tiny(
            tmp_path, seenmask="statistics", void=("rock", "cow"), train_unseen=("boat", "sky")
        )
    assert not (tmp_path / "run").exists()


def test_a_step_that_does_not_run_needs_no_validation_split(tmp_path: Path) -> None:
    step = StepConfig(epochs=1, early_stop=1)
    changes = {"seenmask_step": step, "val_split": "nowhere"}
    config = catalogue.statistical_config(
        tmp_path, **changes, weights="none", embedding_step=StepConfig(epochs=1, batch_size=8)
    )
    train(config, tmp_path / "run", progress=Progress(quiet=True))
    linear = dataclasses.replace(config, seenmask="linear")
    with pytest.raises(InputError, match="has no split 'nowhere'"):
        train(linear, tmp_path / "linear", progress=Progress(quiet=True))
