"""The networks of `preprocess.py`: the graph of each variant, open in a backend."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import click
from preprocess_graphs import with_levels_as_input
from preprocess_preparations import OURS, Array

from szn_runtime.backends._openvino_core import openvino_core
from szn_runtime.backends.base import usable_cores
from szn_runtime.bundle import Bundle
from szn_runtime.manifest import Manifest

__all__ = ["Network", "candidates", "networks"]

Network = Callable[[Array], list[Array]]
"""Gives the embedding's and the seenmask's grid of what a preparation made."""

_TYPES = {"fp32": "f32", "bf16": "bf16"}


def candidates() -> Iterator[tuple[str, str]]:
    """Backend and precision of all that is installed."""
    if importlib.util.find_spec("onnxruntime") is not None:
        yield "onnxruntime", "fp32"
    if importlib.util.find_spec("openvino") is not None:
        yield from (("openvino", precision) for precision in _TYPES)


def networks(
    bundle: Bundle, size_hw: tuple[int, int], backend: str, precision: str
) -> dict[str, Network]:
    """The graph of each variant, in one backend and precision.

    Raises:
        LookupError: If this machine lacks the precision.
    """
    manifest, model = bundle.manifest, bundle.model_bytes()
    models = {OURS: model, "in graph": with_levels_as_input(model, manifest, fold=False)}
    try:
        models["folded"] = with_levels_as_input(model, manifest, fold=True)
    except LookupError as error:
        click.echo(f"folded: not run: {error}")
    if backend == "onnxruntime":
        opened = {name: _open_onnxruntime(content, manifest) for name, content in models.items()}
    else:
        opened = {
            name: _open_openvino(content, manifest, size_hw, precision)
            for name, content in models.items()
        }
        opened["OpenVINO"] = _open_openvino(model, manifest, size_hw, precision, preprocessor=True)
    # these two differ from ours before the graph only
    return opened | dict.fromkeys(("numpy", "blobFromImage"), opened[OURS])


def _open_onnxruntime(model: bytes, manifest: Manifest) -> Network:
    """The ONNX file in onnxruntime on all cores."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name
    names = [manifest.embedding_name, manifest.seenmask_name]

    def run(frames: Array) -> list[Array]:
        grids: list[Array] = session.run(names, {source: frames})
        return grids

    return run


def _open_openvino(
    model: bytes,
    manifest: Manifest,
    size_hw: tuple[int, int],
    precision: str,
    *,
    preprocessor: bool = False,
) -> Network:
    """The ONNX file in OpenVINO on all cores, compiled for that size of input.

    Args:
        model: The ONNX file.
        manifest: Preprocessing and names.
        size_hw: Of the input.
        precision: "fp32" or "bf16".
        preprocessor: Whether to put PrePostProcessor before it.

    Raises:
        LookupError: If this machine lacks the precision.
    """
    import openvino as ov

    core = openvino_core()
    if precision.upper() not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise LookupError(f"OpenVINO has no {precision} here")
    loaded = core.read_model(model)
    planar = loaded.input(0).get_any_name() == manifest.input_name
    loaded.reshape([1, 3, *size_hw] if planar else [1, *size_hw, 3])
    if preprocessor:
        from openvino.preprocess import ColorFormat, PrePostProcessor

        wrapper = PrePostProcessor(loaded)
        frames, preprocess = wrapper.input(), manifest.preprocess
        frames.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        frames.tensor().set_color_format(ColorFormat.BGR)
        frames.model().set_layout(ov.Layout("NCHW"))
        steps = frames.preprocess().convert_element_type(ov.Type.f32)
        if preprocess.channel_order == "rgb":
            steps.convert_color(ColorFormat.RGB)
        steps.mean(list(preprocess.mean)).scale(list(preprocess.std))
        loaded = wrapper.build()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _TYPES[precision],
        "INFERENCE_NUM_THREADS": usable_cores(),
        "ENABLE_CPU_PINNING": False,
    }
    request = core.compile_model(loaded, "CPU", settings).create_infer_request()
    names = [manifest.embedding_name, manifest.seenmask_name]

    def run(frames: Array) -> list[Array]:
        request.set_input_tensor(ov.Tensor(frames, shared_memory=True))
        request.infer()
        return [request.get_tensor(name).data.copy() for name in names]

    return run
