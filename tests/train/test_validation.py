from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from szn_train.backbones import Backbone, BackboneInfo
from szn_train.datasets import FolderDataset
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.processes import Processes
from szn_train.semantic import LabelSpace
from szn_train.validation import Validation
from tests.train import catalogue

LABELS = catalogue.SPLIT.labels  # grass, sky, cow, boat, sheep


class Oracle(SeenmaskZeroShotNetwork):
    """Says at each node what it is told to: a label and whether it is seen."""

    def __init__(self, label: str, *, seen: bool) -> None:
        info = BackboneInfo(
            name="pool", channels=3, stride=16, node_offset=7.5, multiple=16,
            mean=(0.0,) * 3, std=(1.0,) * 3,
        )  # fmt: skip
        super().__init__(Backbone(nn.AvgPool2d(16), info), dim=len(LABELS))
        with torch.no_grad():
            for head in (self.embedding_head, self.seenmask_head):
                head.weight.zero_()
            embedding, mask = torch.zeros(len(LABELS)), torch.tensor([1.0, 0.0])
            embedding[LABELS.index(label)] = 1
            self.embedding_head.bias.copy_(embedding)  # type: ignore[union-attr]
            self.seenmask_head.bias.copy_(mask.flip(0) if seen else mask)  # type: ignore[union-attr]


def validation_of(root: Path, images: dict[str, catalogue.Pair], **changes: Any) -> Validation:
    catalogue.write_dataset(root, {"val": images})
    config = catalogue.tiny_config(root, root / "words.txt", **changes)
    space = LabelSpace(source="x", names=LABELS, embeddings=np.eye(len(LABELS), dtype=np.float32))
    dataset = FolderDataset(root=root, split="val")
    return Validation(config, dataset, catalogue.SPLIT, space, Processes())


def image_of(*rows: str) -> catalogue.Pair:
    """A grey image of 16 x 16 pixels a row's class."""
    mask = np.repeat([catalogue.CLASSES.index(name) for name in rows], 16)
    mask = np.tile(mask[:, None], (1, 16)).astype(np.uint8)
    return np.full((*mask.shape, 3), 90, np.uint8), mask


def test_the_first_step_is_scored_on_train_seen_alone(tmp_path: Path) -> None:
    # half grass, a quarter sky, a quarter of train_unseen, U and void that must not count
    images = {"a": image_of("grass", "grass", "sky", "boat", "sheep", "rock")}
    validation = validation_of(tmp_path, images)
    # grass everywhere: IoU 2/3 of grass, 0 of sky, cow does not appear
    score = validation.embedding(Oracle("grass", seen=True))
    assert score == pytest.approx(100 * (2 / 3) / 2)
    # a label of train_unseen cannot be called: the tie goes to the first of train_seen
    assert validation.embedding(Oracle("boat", seen=True)) == pytest.approx(score)
    assert validation.embedding(Oracle("sky", seen=True)) == pytest.approx(50 / 3)


def test_the_second_step_is_scored_by_the_harmonic_mean_and_never_on_u(tmp_path: Path) -> None:
    only = {"a": image_of("grass", "boat", "sheep", "rock")}
    validation = validation_of(tmp_path, only)
    # all grass: IoU 1/2 of grass, 0 of boat
    assert validation.seenmask(Oracle("grass", seen=True)) == 0
    # all unseen: boat wins everywhere, as U is no label
    assert validation.seenmask(Oracle("sheep", seen=False)) == 0
    more = {"a": image_of("grass", "boat"), "b": image_of("grass", "sheep", "sheep")}
    own_size = validation_of(tmp_path / "more", more, resize=False)
    assert own_size.seenmask(Halves()) == 100


class Halves(Oracle):
    """Grass, seen, in the first 16 rows; boat, unseen, below."""

    def __init__(self) -> None:
        super().__init__("grass", seen=True)

    def forward(self, frames: Tensor) -> Any:
        grids = super().forward(frames)
        grids.embedding[:, :, 1:] = 0
        grids.embedding[:, LABELS.index("boat"), 1:] = 1
        grids.seenmask[:, :, 1:] = grids.seenmask[:, :, 1:].flip(1)
        return grids


def test_frames_are_resized_as_in_training(tmp_path: Path) -> None:
    # at 64 pixels the network's first 16 rows are the first 8 of the image
    images = {"a": image_of("grass", "boat")}
    score = validation_of(tmp_path, images, long_side=64).seenmask(Halves())
    assert score == pytest.approx(100 * 2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))


def test_a_split_without_the_classes_has_no_score(tmp_path: Path) -> None:
    validation = validation_of(tmp_path, {"a": image_of("grass", "sheep")})
    assert np.isnan(validation.seenmask(Oracle("grass", seen=True)))
    assert validation.embedding(Oracle("grass", seen=True)) == 100
