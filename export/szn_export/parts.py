"""Trunk and heads as artefacts of their own, which one after the other are the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from szn_export.config import ExportConfig
from szn_export.draft import Draft
from szn_export.gate import Budget
from szn_export.measuring import Runner, measure
from szn_export.reference import Reference
from szn_export.report import Row
from szn_export.split import FEATURES, PARTS, inputs_of, sizes_of, split_onnx
from szn_export.to_onnx import EMBEDDING, FRAMES, SEENMASK
from szn_runtime.backends import Backend, BackendOptions, Grids
from szn_runtime.backends.base import check_frames
from szn_runtime.manifest import Artefact
from szn_runtime.onnx_guard import check_onnx
from szn_train.progress import Progress

if TYPE_CHECKING:
    from szn_export.to_tensorrt import TensorRTConfig
    from szn_runtime.backends._engine import Profile

__all__ = ["PartsBackend", "add_parts"]

# heads compute in floating point in the INT8 graph too, and its trunk is of no use without them
_PRECISIONS = ("fp32", "fp16")


class PartsBackend(Backend):
    """The parts in onnxruntime, run one after the other.

    Args:
        parts: What `split_onnx` gives.
        options: Threads.
    """

    name = "onnxruntime"
    precision = "fp32"
    device = "cpu"
    provider = "CPUExecutionProvider"
    requests = 1
    input_dtype = "float32"
    input_layout = "NCHW"

    def __init__(self, parts: Mapping[str, bytes], options: BackendOptions) -> None:
        import onnxruntime as ort

        settings = ort.SessionOptions()
        settings.intra_op_num_threads = self.threads = options.cpu_threads
        self._inputs = {name: inputs_of(part) for name, part in parts.items()}
        self._sessions = {
            name: ort.InferenceSession(part, settings, providers=[self.provider])
            for name, part in parts.items()
        }

    def infer(self, frames: NDArray[np.float32]) -> Grids:
        """Run trunk and heads; see `Backend.infer`."""
        check_frames(frames)
        tensors: dict[str, Any] = {FRAMES: frames}
        for name, end in PARTS.items():
            feed = {start: tensors[start] for start in self._inputs[name]}
            (tensors[end],) = self._sessions[name].run([end], feed)
        return Grids(embedding=tensors[EMBEDDING], seenmask=tensors[SEENMASK])

    def close(self) -> None:
        """Release the sessions."""
        self._sessions.clear()


def add_parts(draft: Draft, reference: Reference, config: ExportConfig, progress: Progress) -> None:
    """The graph's parts, if run one after the other they are the whole; and an engine of each.

    Raises:
        ExportError: If the graph cannot be split, or an engine cannot be built.
        MissingDependencyError: If a library that an engine needs is not installed.
    """
    parts = split_onnx(draft.files["model.onnx"])
    for name, part in parts.items():
        check_onnx(part, source=f"{name}.onnx")
    runner = Runner(
        name="onnxruntime fp32, one after the other",
        precision="fp32",
        open=lambda: PartsBackend(parts, BackendOptions()),
    )
    names = [f"{name}.onnx" for name in parts]
    rows = measure(reference, ", ".join(names), [runner], budgets=config.budgets, progress=progress)
    draft.rows += rows
    if any(row.refuses for row in rows):
        draft.refused += names
        progress.line("the parts are past their budget and left out")
        return
    for name, part in parts.items():
        _add(draft, name, part, "fp32")
    if config.tensorrt is not None:
        for precision in (p for p in config.made if p in _PRECISIONS):
            _add_engines(
                draft, parts, config.tensorrt, config.budgets[precision], precision, progress
            )


def _add(draft: Draft, name: str, content: bytes, precision: str) -> None:
    file = f"{name}.onnx" if precision == "fp32" else f"{name}.{precision}.onnx"
    kind = f"onnx-{name.replace('_', '-')}"
    artefact = Artefact(kind=kind, precision=precision, file=file, opset=draft.opset, facts={})
    draft.add(artefact, {file: content})


def _add_engines(
    draft: Draft,
    parts: Mapping[str, bytes],
    settings: TensorRTConfig,
    budget: Budget,
    precision: str,
    progress: Progress,
) -> None:
    """An engine of each part, and the ONNX files that they are built from."""
    from szn_export.precision import to_fp16
    from szn_export.to_tensorrt import engine_from_onnx
    from szn_runtime.backends.tensors import Expected

    frames = settings.profile(draft.manifest.preprocess)
    grids = _grid_profile(parts["fcn"], frames)
    channels = {FRAMES: 3, FEATURES: grids.min[1], EMBEDDING: draft.manifest.dim, SEENMASK: 2}
    for name, end in PARTS.items():
        part, starts = parts[name], inputs_of(parts[name])
        if precision == "fp16":
            part = to_fp16(part)
            check_onnx(part, source=f"{name}.fp16.onnx")
            _add(draft, name, part, precision)
        progress.line(f"building the TensorRT engine of {name}, {precision}")
        engine, facts = engine_from_onnx(
            part,
            draft.manifest,
            settings,
            precision=precision,
            expected=Expected(
                inputs={start: channels[start] for start in starts}, outputs={end: channels[end]}
            ),
            profile=frames if FRAMES in starts else grids,
            progress=progress.line,
        )
        file = f"{name}.{precision}.engine"
        draft.add(
            Artefact(
                kind=f"tensorrt-{name.replace('_', '-')}",
                precision=precision,
                file=file,
                facts=facts.to_json(),
            ),
            {file: engine},
        )
        draft.rows.append(
            Row(
                artefact=file,
                runner=f"tensorrt {precision}",
                precision=precision,
                budget=budget,
                problem="an engine of a part is run by whoever puts the parts together",
            )
        )


def _grid_profile(fcn: bytes, frames: Profile) -> Profile:
    """Shapes of the features that belong to the frames of a profile."""
    from szn_runtime.backends._engine import Profile

    least, usual, most = (sizes_of(fcn, shape) for shape in (frames.min, frames.opt, frames.max))
    return Profile(min=least, opt=usual, max=most)
