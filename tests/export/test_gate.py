from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.compiler import is_exporting

from szn_export.export import ExportConfig, export
from szn_export.gate import Budget, Comparison, check, compare
from szn_runtime.backends import Backend, Grids, open_backend
from szn_runtime.errors import GateError, UsageError
from szn_runtime.labels import LabelSet
from szn_train.backbones import Backbone, BackboneInfo
from szn_train.datasets import FolderDataset
from szn_train.model import Grids as ModelGrids
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.progress import Progress
from szn_train.transforms import preprocess_of
from tests.export.conftest import Exported, small_network
from tests.runtime.catalogue import fake_backend


class Broken:
    """A backend whose answer is changed on its way."""

    name, precision, threads, provider = "broken", "fp32", 1, "none"

    def __init__(self, backend: Backend, *, turn: float = 0.0, crop: bool = False) -> None:
        self._backend, self._turn, self._crop = backend, turn, crop

    def infer(self, frames: NDArray[np.float32]) -> Grids:
        grids = self._backend.infer(frames)
        embedding = grids.embedding + np.float32(self._turn) * np.roll(grids.embedding, 1, axis=1)
        seenmask = grids.seenmask
        if self._crop:
            embedding, seenmask = embedding[..., :-1], seenmask[..., :-1]
        return Grids(
            embedding=np.ascontiguousarray(embedding), seenmask=np.ascontiguousarray(seenmask)
        )

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def run_gate(exported: Exported, **changes: object) -> Comparison:
    dataset = FolderDataset(root=exported.folder.parent / "data", split="val")
    with open_backend("onnxruntime", exported.bundle) as backend:
        return compare(
            exported.run.network,
            Broken(backend, **changes),  # type: ignore[arg-type]
            [dataset.image(image_id) for image_id in dataset.ids],
            labels=exported.bundle.label_set(),
            preprocess=exported.bundle.manifest.preprocess,
        )


def test_a_good_artefact_passes(exported: Exported) -> None:
    comparison = run_gate(exported)
    assert comparison.images == 4
    assert comparison.frames == 12  # at three sizes
    assert comparison.batches == (1, 3)
    assert comparison.label_flips == comparison.seenmask_flips == 0
    assert 0 <= comparison.embedding_mean <= comparison.embedding_max < 1e-3
    check(comparison, Budget(label_flips=0, seenmask_flips=0), "model")


def test_a_wrong_artefact_is_caught(exported: Exported) -> None:
    comparison = run_gate(exported, turn=3.0)
    assert comparison.label_flips > 1
    with pytest.raises(
        GateError, match=r"label flips: got \d+\.\d+ % .* at most 0\.01 %"
    ) as caught:
        check(comparison, Budget(label_flips=0.01, seenmask_flips=0.01), "model")
    assert caught.value.exit_code == 3


def test_another_grid_is_caught_first(exported: Exported) -> None:
    with pytest.raises(GateError, match="output embedding has another shape"):
        run_gate(exported, crop=True)


def test_the_numbers_by_hand() -> None:
    # Two labels at right angles, and a network that says 3 for the one and 4 for the other. The
    # artefact says 4.5 for the first, so that every label flips; one of two seenmasks flips.
    info = BackboneInfo(
        name="constant", channels=3, stride=16, node_offset=7.5, multiple=16,
        mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
    )  # fmt: skip
    network = SeenmaskZeroShotNetwork(Backbone(nn.AvgPool2d(16), info), dim=2)
    with torch.no_grad():
        for head in (network.embedding_head, network.seenmask_head):
            head.weight.zero_()
        network.embedding_head.bias.copy_(torch.tensor([3.0, 4.0]))  # type: ignore[union-attr]
        network.seenmask_head.bias.copy_(torch.tensor([0.0, 1.0]))  # type: ignore[union-attr]

    class Constant(Broken):
        def infer(self, frames: NDArray[np.float32]) -> Grids:
            shape = (len(frames), 1, frames.shape[2] // 16, frames.shape[3] // 16)
            grid = np.ones(shape, np.float32)
            unseen = grid * (1.25 if frames.max() > 0 else 0)
            return Grids(
                embedding=np.concatenate([4.5 * grid, 4 * grid], axis=1),
                seenmask=np.concatenate([unseen, grid], axis=1),
            )

    labels = LabelSet(names=("a", "b"), embeddings=np.eye(2), seen=np.array([True, True]))
    images = [np.full((16, 32, 3), value, np.uint8) for value in (0, 200)]
    images.append(np.zeros((48, 32, 3), np.uint8))
    comparison = compare(
        network,
        Constant(fake_backend(dim=2, stride=16)),
        images,
        labels=labels,
        preprocess=preprocess_of(info, 32),
        scales=(1.0, 2.0),
        batch_size=1,
    )
    assert comparison == Comparison(
        images=3,
        frames=6,
        sizes_hw=((16, 32), (32, 32), (32, 64), (64, 48)),
        batches=(1,),
        embedding_max=1.5,
        embedding_mean=0.75,
        embedding_scale=4.0,
        seenmask_max=1.25,
        label_flips=100.0,
        seenmask_flips=0.0,  # all labels are seen: the seenmask is ignored
    )
    labels = LabelSet(names=("a", "b"), embeddings=np.eye(2), seen=np.array([True, False]))
    comparison = compare(
        network,
        Constant(fake_backend(dim=2, stride=16)),
        images[:2],
        labels=labels,
        preprocess=preprocess_of(info, 32),
        scales=(1.0,),
        batch_size=1,
    )
    # PyTorch says seen everywhere, hence label a; the artefact says unseen in the bright image
    assert comparison.label_flips == comparison.seenmask_flips == 50.0


class Drifting(SeenmaskZeroShotNetwork):
    """A network that exports other than it runs, as a wrong translation would."""

    def forward(self, frames: Tensor) -> ModelGrids:
        grids = super().forward(frames)
        return grids._replace(embedding=-grids.embedding if is_exporting() else grids.embedding)


@pytest.mark.parametrize("older", [False, True])
def test_past_the_budget_nothing_is_written(
    exported: Exported, tmp_path: Path, older: bool
) -> None:
    run = dataclasses.replace(exported.run, network=small_network(Drifting))
    target = tmp_path / "bundle"
    if older:
        shutil.copytree(exported.folder, target)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        GateError,
        match=r"model\.onnx \(fp32\) differs from PyTorch: label flips: got .*nothing was",
    ) as caught:
        export(run, target, ExportConfig(vocabulary_size=2), progress=Progress(quiet=True))
    assert caught.value.exit_code == 3
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
    assert target.exists() == older


def test_numbers_that_are_none_never_pass() -> None:
    good = Comparison(
        images=1, frames=1, sizes_hw=((32, 32),), batches=(1,), embedding_max=0, embedding_mean=0,
        embedding_scale=1, seenmask_max=0, label_flips=0, seenmask_flips=0,
    )  # fmt: skip
    budget = Budget(label_flips=100, seenmask_flips=100)
    check(good, budget, "model")
    with pytest.raises(GateError, match="seenmask flips"):
        check(dataclasses.replace(good, seenmask_flips=float("nan")), budget, "model")


@pytest.mark.parametrize("percent", [-1, 101])
def test_budgets_are_percents(percent: float) -> None:
    with pytest.raises(UsageError, match="budget label_flips: got"):
        Budget(label_flips=percent, seenmask_flips=0)
