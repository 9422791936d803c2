"""Artefacts in the libraries that will run them, beside the reference: rows of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from szn_export.gate import DEFAULT_BUDGETS, Budget, check, compare
from szn_export.reference import Reference
from szn_export.report import Row
from szn_runtime.backends import Backend, BackendOptions
from szn_runtime.backends.base import INT8_FILE
from szn_runtime.errors import BackendError, GateError, MissingDependencyError
from szn_runtime.manifest import Manifest
from szn_train.progress import Progress

__all__ = ["Runner", "engine_runner", "ir_runners", "measure", "onnx_runners", "pixels_runner"]

# what OpenVINO computes a file's precision in
_COMPUTED = {"fp32": ("fp32", "bf16", "fp16"), "int8": INT8_FILE}


@dataclass(frozen=True, kw_only=True, eq=False)
class Runner:
    """A way to run an artefact.

    Args:
        name: Library and precision.
        precision: That the budget is for.
        open: Loads the artefact.
        optional: Whether it may be left out where the library or the processor's ability is
            missing; the row is then "built, not run" for the only runner of an artefact.
        own: Whether it computes in the precision that the file is made for; OpenVINO also computes
            an FP32 file in bf16 and fp16, and what an INT8 file leaves in floating point in bf16,
            which the file is not to blame for.
    """

    name: str
    precision: str
    open: Callable[[], Backend]
    optional: bool = False
    own: bool = True


def onnx_runners(model: bytes, manifest: Manifest, precision: str) -> list[Runner]:
    """onnxruntime, and OpenVINO in every type that it computes the file in."""

    def onnxruntime() -> Backend:
        from szn_runtime.backends.onnxrt import OnnxRuntimeBackend

        return OnnxRuntimeBackend(model, manifest, BackendOptions(precision=precision))

    runners = [Runner(name=f"onnxruntime {precision}", precision=precision, open=onnxruntime)]
    return runners + [
        _openvino(model, None, manifest, each, own=each == precision)
        for each in _COMPUTED.get(precision, ())
    ]


def ir_runners(xml: bytes, weights: bytes, manifest: Manifest, precision: str) -> list[Runner]:
    """OpenVINO on its own format."""
    return [_openvino(xml, weights, manifest, precision)]


def pixels_runner(xml: bytes, weights: bytes, manifest: Manifest) -> Runner:
    """OpenVINO on its own format that takes pixels."""

    def pixels() -> Backend:
        from szn_export.pixels import PixelsBackend

        return PixelsBackend(xml, weights, manifest, BackendOptions())

    return Runner(name="openvino fp32, uint8 frames", precision="fp16", open=pixels)


def engine_runner(open_engine: Callable[[], Backend], precision: str) -> Runner:
    """TensorRT, where there is a GPU."""
    return Runner(
        name=f"tensorrt {precision}", precision=precision, open=open_engine, optional=True
    )


def _openvino(
    model: bytes, weights: bytes | None, manifest: Manifest, precision: str, *, own: bool = True
) -> Runner:
    def openvino() -> Backend:
        from szn_runtime.backends.openvino import OpenVinoBackend

        options = BackendOptions(precision=precision)
        return OpenVinoBackend(model, manifest, options, weights=weights)

    return Runner(
        name=f"openvino {precision}",
        precision="int8" if precision in INT8_FILE else precision,
        open=openvino,
        optional=True,
        own=own,
    )


def measure(
    reference: Reference,
    artefact: str,
    runners: Sequence[Runner],
    *,
    budgets: Mapping[str, Budget] = DEFAULT_BUDGETS,
    progress: Progress,
) -> list[Row]:
    """Run an artefact in each of its runners that is there.

    Args:
        reference: What it is compared with.
        artefact: Its name.
        runners: Ways to run it.
        budgets: Per precision.
        progress: Where the bars go.

    Returns:
        A row for each runner; one "built, not run" if none is there.
    """
    rows: list[Row] = []
    missing: list[str] = []
    for runner in runners:
        row = Row(
            artefact=artefact,
            runner=runner.name,
            precision=runner.precision,
            budget=budgets[runner.precision],
            own=runner.own,
        )
        try:
            backend = runner.open()
        except (BackendError, MissingDependencyError) as error:
            if not runner.optional:
                rows.append(row.failing(str(error)))
            missing.append(str(error) if len(runners) == 1 else f"{runner.name}: {error}")
            continue
        with backend:
            rows.append(_measured(reference, row, backend, progress))
    if not rows:
        first = runners[0]
        rows.append(
            Row(
                artefact=artefact,
                runner=first.name,
                precision=first.precision,
                budget=budgets[first.precision],
                problem="; ".join(missing),
            )
        )
    return rows


def _measured(reference: Reference, row: Row, backend: Backend, progress: Progress) -> Row:
    name = f"gate: {row.artefact} in {row.runner}"
    try:
        with progress.task(name, len(reference.batches)) as task:
            comparison, flips = compare(reference, backend, advance=task.advance)
    except (BackendError, GateError) as error:
        return row.failing(str(error))
    measured = row.measured(comparison, flips)
    try:
        check(comparison, row.budget, f"{row.artefact} in {row.runner}")
    except GateError as error:
        if row.own:
            return measured.failing(str(error))
        fix = "szn-run takes it only if --precision asks for it"
        return measured.failing(
            str(GateError(error.what, got=error.got, expected=error.expected, fix=fix))
        )
    return measured
