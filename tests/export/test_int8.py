"""How many layers of the INT8 files stay in floating point."""

from __future__ import annotations

import dataclasses

import pytest

from szn_export.config import ExportConfig
from szn_export.draft import Draft
from szn_export.gate import Budget
from szn_export.int8 import add_int8
from szn_export.report import Row
from szn_export.sensitivity import Sensitivity
from szn_train.progress import Progress
from tests.export.conftest import Exported, reference_on

ANY = Budget(label_flips=100, seenmask_flips=100)


@pytest.mark.parametrize(("passes_with", "refused"), [(3, []), (9, ["model.int8.onnx"])])
def test_more_layers_stay_in_floating_point_until_the_gate_says_yes(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, passes_with: int, refused: list[str]
) -> None:
    """By the budget that is searched for 1, 1, 3, 4 and 4 layers stay; the gate wants more."""
    budgets: list[float] = []
    measured: list[int] = []

    def within(_: object, budget: float) -> Sensitivity:
        budgets.append(budget)
        count = [1, 1, 3, 4, 4][len(budgets) - 1]
        return Sensitivity(
            keep_float=tuple("abcd"[:count]), table=(), cost_before=5, cost_after=0, budget=budget
        )

    def to_int8(model: bytes, *_: object, keep_float: tuple[str, ...], **__: object) -> bytes:
        measured.append(len(keep_float))
        return model

    def measure(*_: object, **__: object) -> list[Row]:
        return [
            Row(artefact="model.int8.onnx", runner="r", precision="int8", budget=ANY,
                problem="past", failed=measured[-1] < passes_with)
        ]  # fmt: skip

    monkeypatch.setattr("szn_export.int8.SensitivityPass.within", within)
    monkeypatch.setattr("szn_export.int8.to_int8", to_int8)
    monkeypatch.setattr("szn_export.int8.measure", measure)
    # files come when it is written
    manifest = dataclasses.replace(exported.bundle.manifest, files={})
    reference = reference_on(exported, 2)
    draft = Draft(manifest=manifest, files={"model.onnx": exported.bundle.model_bytes()})
    config = ExportConfig(precisions=("int8",), calibration_images=2)
    add_int8(exported.run, draft, reference, config, Progress(quiet=True))
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[0] == pytest.approx(0.9 * config.budgets["int8"].label_flips)
    assert measured == ([1, 3] if passes_with == 3 else [1, 3, 4])  # the same is not tried again
    assert draft.refused == refused
    assert len(draft.rows) == len(draft.notes) == 1  # of the last try alone
    if not refused:
        assert draft.manifest.artefacts[-1].facts["kept_float"] == ["a", "b", "c"]
