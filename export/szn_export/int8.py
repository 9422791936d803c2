"""The graph in eight bits, with as few layers in floating point as its budget asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from szn_export.artefacts import gate_facts, take
from szn_export.calibration import Calibration, calibrate
from szn_export.config import ExportConfig
from szn_export.draft import Draft
from szn_export.gate_images import calibration_frames
from szn_export.measuring import measure, onnx_runners
from szn_export.precision import Target, to_int8
from szn_export.reference import Reference
from szn_export.report import Row
from szn_export.sensitivity import Sensitivity, SensitivityPass, sensitivity_markdown
from szn_runtime.backends import BackendOptions
from szn_runtime.bundle import Artefact
from szn_runtime.labels import LabelSet
from szn_runtime.onnx_guard import check_onnx
from szn_runtime.sei import segment_grid
from szn_train.progress import Progress
from szn_train.run import Run

__all__ = ["add_int8"]

# of the calibration images: enough to rank layers, few enough to do it for every layer
_SENSITIVITY_IMAGES = 12
# with more layers in floating point INT8 is no faster than FP32
_MOST_FLOAT_LAYERS = 12
# of the budget of label flips, what INT8 may cost on calibration images: a little less than all, as
# others will cost a little more; then less and less, where the gate's images say no
_SEARCHES = (0.9, 0.75, 0.6, 0.45, 0.3)


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """An INT8 file of a bundle, and what runs it."""

    kind: str
    target: Target
    file: str


_CPU = _Variant(kind="onnx", target="cpu", file="model.int8.onnx")
_TENSORRT = _Variant(kind="onnx-tensorrt", target="tensorrt", file="model.int8.tensorrt.onnx")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidate:
    """An INT8 file, the search that it comes from, and what the gate measured."""

    found: Sensitivity
    content: bytes
    rows: list[Row]

    @property
    def passes(self) -> bool:
        return not any(row.refuses for row in self.rows)


def add_int8(
    run: Run, draft: Draft, reference: Reference, config: ExportConfig, progress: Progress
) -> None:
    """The graph in eight bits: for the CPU, and another one for TensorRT if engines are wanted."""
    frames = calibration_frames(
        run,
        draft.manifest.preprocess,
        images=config.calibration,
        count=config.calibration_images,
    )
    maker = _Maker(
        draft=draft,
        reference=reference,
        config=config,
        progress=progress,
        calibration=_calibrated(draft.files["model.onnx"], frames, progress),
        cost=_LabelFlips(draft, reference.labels, frames),
    )
    for variant in (_CPU,) if config.tensorrt is None else (_CPU, _TENSORRT):
        maker.add(variant)


def _calibrated(
    source: bytes, frames: Sequence[NDArray[np.float32]], progress: Progress
) -> Calibration:
    progress.line(f"calibrating INT8 on {len(frames)} images")
    with progress.task("calibrate", len(frames)) as task:

        def told() -> Iterator[NDArray[np.float32]]:
            for frame in frames:
                yield frame
                task.advance()

        return calibrate(source, told())


@dataclass(frozen=True, kw_only=True, eq=False)
class _Maker:
    """Makes INT8 files of the FP32 graph until the gate takes one."""

    draft: Draft
    reference: Reference
    config: ExportConfig
    progress: Progress
    calibration: Calibration
    cost: Callable[[bytes], float]

    def add(self, variant: _Variant) -> None:
        """Take the first candidate that passes into the bundle, else leave out the last one."""
        for candidate in self._candidates(variant):
            if candidate.passes:
                break
            self.progress.line(
                f"{variant.file} is past its budget with {len(candidate.found.keep_float)} layers "
                "in floating point"
            )
        self.draft.notes.append(f"{variant.file}: {sensitivity_markdown(candidate.found)}")
        artefact = Artefact(
            kind=variant.kind,
            precision="int8",
            file=variant.file,
            opset=self.draft.opset,
            facts={
                "calibration": {
                    "images": self.calibration.frames,
                    "method": self.calibration.method,
                },
                "kept_float": list(candidate.found.keep_float),
                "gate": gate_facts(candidate.rows),
            },
        )
        files = {variant.file: candidate.content}
        take(self.draft, self.progress, artefact, files, candidate.rows)

    def _candidates(self, variant: _Variant) -> Iterator[_Candidate]:
        """At least one, each with other layers in floating point than the one before."""
        self.progress.line(f"{variant.file}: looking for layers that cost too much")
        source = self.draft.files["model.onnx"]
        # each for its own: signed activations cost more labels than unsigned ones
        search = SensitivityPass(
            source,
            self.calibration,
            self.cost,
            target=variant.target,
            most=_MOST_FLOAT_LAYERS,
            progress=self.progress.line,
        )
        kept: tuple[str, ...] | None = None
        for share in _SEARCHES:
            found = search.within(share * self.config.budgets["int8"].label_flips)
            if found.keep_float == kept:
                continue  # as before: no more layers may stay, or no fewer need to
            kept = found.keep_float
            content = to_int8(source, self.calibration, target=variant.target, keep_float=kept)
            check_onnx(content)
            yield _Candidate(found=found, content=content, rows=self._measure(variant, content))

    def _measure(self, variant: _Variant, content: bytes) -> list[Row]:
        runners = onnx_runners(content, self.draft.manifest, "int8")
        if variant.target == "tensorrt":
            runners = runners[:1]  # onnxruntime computes it, if slowly
        return measure(
            self.reference,
            variant.file,
            runners,
            budgets=self.config.budgets,
            progress=self.progress,
        )


class _LabelFlips:
    """Percent of label flips of an INT8 file against FP32, on some calibration frames."""

    def __init__(
        self, draft: Draft, labels: LabelSet, frames: Sequence[NDArray[np.float32]]
    ) -> None:
        step = max(1, len(frames) // _SENSITIVITY_IMAGES)
        self._frames = frames[::step][:_SENSITIVITY_IMAGES]
        self._manifest, self._labels = draft.manifest, labels
        self._expected = self._maps(draft.files["model.onnx"], "fp32")

    def __call__(self, model: bytes) -> float:
        pairs = zip(self._maps(model, "int8"), self._expected, strict=True)
        return 100 * float(np.mean([(ours != theirs).mean() for ours, theirs in pairs]))

    def _maps(self, model: bytes, precision: str) -> list[NDArray[np.integer]]:
        """Labels (H, W) of every frame."""
        from szn_runtime.backends.onnxrt import OnnxRuntimeBackend

        maps = []
        options = BackendOptions(precision=precision)
        with OnnxRuntimeBackend(model, self._manifest, options) as backend:
            for frame in self._frames:
                grids = backend.infer(frame)
                labels, _ = segment_grid(
                    grids.embedding[0],
                    grids.seenmask[0],
                    self._labels,
                    geometry=self._manifest.grid_geometry,
                    size_hw=(frame.shape[2], frame.shape[3]),
                )
                maps.append(labels)
        return maps
