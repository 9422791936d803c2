from __future__ import annotations

import csv
import dataclasses
import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from szn_runtime.errors import InputError, TrainingError
from szn_train.backbones import Backbone
from szn_train.cell_sample import Cells, GridReader
from szn_train.cells import cell_labels
from szn_train.checkpoint import load_checkpoint
from szn_train.config import StepConfig, TrainConfig
from szn_train.datasets import open_dataset
from szn_train.embedding_refit import fit_embedding, most_cells
from szn_train.processes import Processes
from szn_train.progress import Progress
from szn_train.run import Run
from szn_train.trainer import train
from szn_train.transforms import plain, preprocess_of
from tests.train import catalogue
from tests.train.killed import Killed, KilledAfter, weights


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
    transform = plain(preprocess_of(network.backbone.info, config.long_side))
    grids = GridReader(network, dataset, run.split, transform, Progress(quiet=True))
    wanted = [(("t0", "t1", "t2", "t3", "t4", "t5"), most_cells(run.split))]
    (sample,) = grids.seen_features(wanted, seed=config.seed)
    head = fit_embedding(
        *sample, run.split, run.space, scale=config.similarity_scale, seed=config.seed
    )
    found = weights(run)
    weight = found["embedding_head.weight"][:, :, 0, 0]
    np.testing.assert_allclose(weight, head.weight, atol=1e-6)
    np.testing.assert_allclose(found["embedding_head.bias"], head.bias, atol=1e-6)


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


def test_a_seenmask_of_statistics_reads_the_refitted_head(
    statistical: tuple[TrainConfig, Run], refitted_statistical: tuple[TrainConfig, Run]
) -> None:
    ours, theirs = weights(refitted_statistical[1]), weights(statistical[1])
    for name in (each for each in ours if each.startswith("backbone")):
        assert torch.equal(ours[name], theirs[name]), name
    for name in ("embedding_head.weight", "seenmask_head.statistic_weight"):
        assert not torch.equal(ours[name], theirs[name])


@pytest.mark.parametrize("refits", [False, True])
def test_a_refit_costs_a_seenmask_of_statistics_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refits: bool
) -> None:
    """Those of train_unseen pass twice, all others once."""
    frozen, forward = 0, Backbone.forward

    def counted(backbone: Backbone, frames: Tensor) -> Tensor:
        nonlocal frozen
        frozen += 0 if backbone.training else len(frames)
        return forward(backbone, frames)

    monkeypatch.setattr(Backbone, "forward", counted)
    step = StepConfig(epochs=1, batch_size=8)
    config = catalogue.statistical_config(
        tmp_path, weights="none", embedding_step=step, refit_embedding=refits
    )
    run = train(config, tmp_path / "run", progress=Progress(quiet=True))
    selection = json.loads((run.folder / "selection.json").read_text())
    known, held = selection["seenmask_images"], len(selection["hold"])
    taught = known - selection["embedding_images"]
    assert min(taught, held) > 0
    assert frozen == known + taught + held


@pytest.mark.parametrize("refits", [False, True])
def test_samples_of_features_are_gone_before_further_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refits: bool
) -> None:
    samples: list[weakref.ref[np.ndarray]] = []
    held: list[tuple[str, int]] = []
    seen_features, read = GridReader.seen_features, GridReader.read

    def sampled(grids: GridReader, *args: Any, **options: Any) -> Any:
        found = seen_features(grids, *args, **options)
        samples.extend(weakref.ref(features) for _, features in found)
        return found

    def followed(grids: GridReader, ids: Any, what: str) -> Iterator[Cells]:
        held.append((what, sum(sample() is not None for sample in samples)))
        yield from read(grids, ids, what)

    monkeypatch.setattr(GridReader, "seen_features", sampled)
    monkeypatch.setattr(GridReader, "read", followed)
    config = catalogue.statistical_config(
        tmp_path,
        weights="none",
        embedding_step=StepConfig(epochs=1, batch_size=8),
        refit_embedding=refits,
    )
    train(config, tmp_path / "run", progress=Progress(quiet=True))
    assert len(samples) == 1 + refits
    assert held == [
        ("cells of train_seen", 0), ("cells of train_unseen", 0), ("cells of held-out images", 0)
    ]  # fmt: skip


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
