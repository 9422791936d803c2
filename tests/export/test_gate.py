from __future__ import annotations

import dataclasses
from types import TracebackType
from typing import Self

import numpy as np
import pytest
from numpy.typing import NDArray

from szn_export.gate import Budget, Comparison, check, compare
from szn_runtime.backends import Backend, Grids, open_backend
from szn_runtime.errors import GateError, UsageError
from szn_train.datasets import FolderDataset
from tests.export.conftest import Exported


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
