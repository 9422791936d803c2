from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor
from torch.compiler import is_exporting

from szn_export.config import ExportConfig
from szn_export.export import export
from szn_export.gate import DEFAULT_BUDGETS, Budget, Comparison, Flips, check, compare
from szn_export.quality import GateData, Quality
from szn_export.reference import reference_of
from szn_runtime.backends import Backend, Grids, open_backend
from szn_runtime.errors import GateError, InputError, UsageError
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_train.backbones import BackboneInfo
from szn_train.model import Grids as ModelGrids
from szn_train.model import SeenmaskZeroShotNetwork
from szn_train.progress import Progress
from szn_train.transforms import preprocess_of
from tests.export.conftest import Exported, reference_on, small_network
from tests.runtime.catalogue import fake_backend


class Broken(Backend):
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


def run_gate(exported: Exported, **changes: object) -> tuple[Comparison, list[Flips]]:
    reference = reference_on(exported, 50)
    with open_backend("onnxruntime", exported.bundle) as backend:
        return compare(reference, Broken(backend, **changes))  # type: ignore[arg-type]


def test_a_good_artefact_passes(exported: Exported) -> None:
    comparison, flips = run_gate(exported)
    assert comparison.images == 4
    assert comparison.frames == 6  # all at the nominal size, a third of them at each other one
    assert comparison.batches == (1, 3)
    assert len(comparison.sizes_hw) > 1
    assert comparison.label_flips == comparison.seenmask_flips == 0
    assert 0 <= comparison.embedding_mean <= comparison.embedding_max < 1e-3
    assert flips == []
    assert comparison.quality == comparison.reference_quality
    assert comparison.quality is not None
    assert set(comparison.quality.miou) == {"FCN-JE", "SZN", "SZN-PS"}
    check(comparison, Budget(label_flips=0, seenmask_flips=0, miou_points=0), "model")


def test_a_wrong_artefact_is_caught(exported: Exported) -> None:
    comparison, flips = run_gate(exported, turn=3.0)
    assert comparison.label_flips > 1
    assert [f.share for f in flips] == sorted((f.share for f in flips), reverse=True)
    assert 0 < flips[0].share <= 1
    with pytest.raises(
        GateError, match=r"label flips: got \d+\.\d+ % .* at most 0\.01 %"
    ) as caught:
        check(comparison, DEFAULT_BUDGETS["fp32"], "model")
    assert caught.value.exit_code == 3


def test_another_grid_is_caught_first(exported: Exported) -> None:
    with pytest.raises(GateError, match=r"output embedding has another shape for . frames of"):
        run_gate(exported, crop=True)


def test_the_numbers_by_hand() -> None:
    # Two labels at right angles, and a network that says 3 for the one and 4 for the other. The
    # artefact says 4.5 for the first, so that every label flips; one of two seenmasks flips.
    info = BackboneInfo(
        name="constant", channels=3, stride=16, node_offset=7.5, multiple=16,
        mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
    )  # fmt: skip

    def constant(frames: NDArray[np.float32], first: float, unseen: float) -> Grids:
        shape = (len(frames), 1, frames.shape[2] // 16, frames.shape[3] // 16)
        grid = np.ones(shape, np.float32)
        return Grids(
            embedding=np.concatenate([np.float32(first) * grid, 4 * grid], axis=1),
            seenmask=np.concatenate([np.float32(unseen) * grid, grid], axis=1),
        )

    class Constant(Broken):
        def infer(self, frames: NDArray[np.float32]) -> Grids:
            return constant(frames, 4.5, 1.25 if frames.max() > 0 else 0)

    labels = LabelSet(names=("a", "b"), embeddings=np.eye(2), seen=np.array([True, True]))
    images = [np.full((16, 32, 3), value, np.uint8) for value in (0, 200)]
    images.append(np.zeros((48, 32, 3), np.uint8))

    def measured(
        labels: LabelSet, images: list[np.ndarray], scales: tuple[float, ...]
    ) -> Comparison:
        reference = reference_of(
            lambda frames: constant(frames, 3.0, 0.0),
            GateData(images=images),
            labels=labels,
            preprocess=preprocess_of(info, 32),
            geometry=preprocess_geometry(info),
            scales=scales,
            batch_size=1,
        )
        return compare(reference, Constant(fake_backend(dim=2, stride=16)))[0]

    assert measured(labels, images, (2.0,)) == Comparison(
        images=3,
        frames=4,  # the second image at twice the size as well
        sizes_hw=((16, 32), (32, 32), (32, 64)),
        batches=(1,),
        embedding_max=1.5,
        embedding_mean=0.75,
        embedding_scale=4.0,
        seenmask_max=1.25,
        label_flips=100.0,
        seenmask_flips=0.0,  # all labels are seen: the seenmask is ignored
    )
    labels = LabelSet(names=("a", "b"), embeddings=np.eye(2), seen=np.array([True, False]))
    comparison = measured(labels, images[:2], ())
    # PyTorch says seen everywhere, hence label a; the artefact says unseen in the bright image
    assert comparison.label_flips == comparison.seenmask_flips == 50.0


def preprocess_geometry(info: BackboneInfo) -> GridGeometry:
    return GridGeometry.square(info.stride, info.node_offset)


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
        match=r"model\.onnx in onnxruntime fp32 differs from PyTorch: label flips: got .*nothing w",
    ) as caught:
        export(run, target, ExportConfig(vocabulary_size=2), progress=Progress(quiet=True))
    assert caught.value.exit_code == 3
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
    assert target.exists() == older


GOOD = Comparison(
    images=1, frames=1, sizes_hw=((32, 32),), batches=(1,), embedding_max=0, embedding_mean=0,
    embedding_scale=1, seenmask_max=0, label_flips=0, seenmask_flips=0,
)  # fmt: skip


def test_numbers_that_are_none_never_pass() -> None:
    budget = Budget(label_flips=100, seenmask_flips=100)
    check(GOOD, budget, "model")
    with pytest.raises(GateError, match="seenmask flips"):
        check(dataclasses.replace(GOOD, seenmask_flips=float("nan")), budget, "model")


def quality(je: float, harmonic: float) -> Quality:
    return Quality(
        miou={
            "FCN-JE": {"train_seen": je, "unseen": 0.0, "harmonic": 0.0},
            "SZN": {"train_seen": 1.0, "unseen": 1.0, "harmonic": 1.0},
            "SZN-PS": {"train_seen": 50.0, "unseen": 50.0, "harmonic": harmonic},
        }
    )


def test_points_of_miou() -> None:
    budget = DEFAULT_BUDGETS["int8"]

    def lost(je: float, harmonic: float) -> Comparison:
        return dataclasses.replace(
            GOOD, quality=quality(je, harmonic), reference_quality=quality(70.0, 60.0)
        )

    check(lost(68.5, 58.5), budget, "model")
    check(lost(75.0, 60.0), budget, "model")
    with pytest.raises(GateError, match=r"worse than PyTorch: FCN-JE mIoU: got 1\.60 points less"):
        check(lost(68.4, 60.0), budget, "model")
    with pytest.raises(GateError, match=r"SZN-PS harmonic mIoU: got 2\.00 points .*at most 1\.5"):
        check(lost(70.0, 58.0), budget, "model")
    with pytest.raises(GateError, match="FCN-JE mIoU: got nan points"):
        check(lost(float("nan"), 60.0), budget, "model")
    # images without a class of U say nothing of the harmonic mean
    unknown = dataclasses.replace(
        GOOD, quality=quality(70.0, float("nan")), reference_quality=quality(70.0, float("nan"))
    )
    check(unknown, budget, "model")


@pytest.mark.parametrize("percent", [-1, 101])
def test_budgets_are_percents(percent: float) -> None:
    with pytest.raises(UsageError, match="budget label_flips: got"):
        Budget(label_flips=percent, seenmask_flips=0)


def test_data_that_does_not_fit() -> None:
    with pytest.raises(InputError, match="the gate has no images"):
        GateData(images=[])
    image, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    with pytest.raises(InputError, match="masks do not fit its images"):
        GateData(images=[image], truths=[mask])
