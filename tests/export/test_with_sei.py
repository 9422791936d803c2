from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from szn_export.with_sei import LABELS, with_sei
from szn_runtime.backends._openvino_core import openvino_core
from szn_runtime.bundle import Bundle, Manifest, default_bundle_path
from szn_runtime.errors import ExportError
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_runtime.preprocess import Normaliser, plan
from szn_runtime.sei import segment_grid

Array = NDArray[Any]
Run = Callable[[bytes, Array], dict[str, Array]]


def run_onnxruntime(model: bytes, frames: Array) -> dict[str, Array]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"frames": frames}), strict=True))


def run_openvino(model: bytes, frames: Array) -> dict[str, Array]:
    pytest.importorskip("openvino")
    settings_ = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    core = openvino_core()
    compiled = core.compile_model(core.read_model(model), "CPU", settings_)
    result = compiled({"frames": frames})
    return {output.any_name: result[output].copy() for output in compiled.outputs}


RUNTIMES = pytest.mark.parametrize("run", [run_onnxruntime, run_openvino], ids=["ort", "openvino"])


@pytest.fixture(scope="module")
def mini() -> Bundle:
    return Bundle.open(default_bundle_path())


def manifest(mini: Manifest, *, dim: int, stride: int, offset: float) -> Manifest:
    preprocess = dataclasses.replace(mini.preprocess, long_side=4 * stride, multiple=stride)
    return dataclasses.replace(
        mini, dim=dim, stride=stride, node_offset=offset, preprocess=preprocess
    )


def network(dim: int, stride: int, *, grow: int = 0, seed: int = 0, opset: int = 20) -> bytes:
    """Patches of `stride` pixels times random weights; `grow` more nodes after the last one."""
    rng = np.random.default_rng(seed)
    nodes, weights = [], []
    for name, channels in (("embedding", dim), ("seenmask", 2)):
        values = rng.normal(size=(channels, 3, stride, stride)).astype(np.float32) / stride
        weights.append(numpy_helper.from_array(values, f"{name}_weight"))
        pads = [0, 0, grow * stride, grow * stride]
        nodes.append(
            helper.make_node(
                "Conv", ["frames", f"{name}_weight"], [name], strides=[stride] * 2, pads=pads
            )
        )
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("frames", 1, ["batch", 3, "height", "width"])],
        [
            helper.make_tensor_value_info("embedding", 1, ["batch", dim, "rows", "columns"]),
            helper.make_tensor_value_info("seenmask", 1, ["batch", 2, "rows", "columns"]),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    helper.set_model_props(model, {"szn.name": "tiny"})
    return bytes(model.SerializeToString())


def label_set(count: int, dim: int, seen: Sequence[bool] | None = None, seed: int = 1) -> LabelSet:
    return LabelSet(
        names=tuple(f"label {i}" for i in range(count)),
        embeddings=np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32),
        seen=np.arange(count) % 2 == 0 if seen is None else np.array(seen),
    )


def dense(grid: Array, geometry: GridGeometry, size_hw: tuple[int, int]) -> Array:
    """(C, h, w) to (C, H, W) float64, border nodes repeated."""

    def shares(axis: int) -> Array:
        nodes = grid.shape[1 + axis]
        pixels = np.arange(size_hw[axis]) - geometry.offset_yx[axis]
        at = (pixels / geometry.stride_yx[axis]).clip(0, nodes - 1)
        return (1 - np.abs(at[:, None] - np.arange(nodes))).clip(0)

    return np.einsum("yr,xc,krc->kyx", shares(0), shares(1), grid.astype(np.float64))


def unexplained(
    ours: Array, theirs: Array, embedding: Array, seenmask: Array, labels: LabelSet,
    geometry: GridGeometry, *, bias: float = 0.0, slack: float = 2e-6,
) -> int:  # fmt: skip
    """Pixels that differ though neither scores nor seenmask are within rounding of a tie."""
    size_hw = ours.shape
    rows = labels.embeddings.astype(np.float64)
    scores = np.einsum("kj,jyx->kyx", rows, dense(embedding, geometry, size_hw))
    gap = np.abs(
        np.take_along_axis(scores, ours[None].astype(np.int64), 0)
        - np.take_along_axis(scores, theirs[None].astype(np.int64), 0)
    )[0]
    mask = dense(seenmask, geometry, size_hw)
    doubt = np.abs(mask[1] - mask[0] + bias) <= slack * (np.abs(seenmask).max() + abs(bias) + 1)
    same_side = labels.seen[ours] == labels.seen[theirs]
    # a node's weight may be off by the rounding of a pixel's position, in units of a node
    tie = gap <= slack * (1 + max(embedding.shape[1:])) * np.linalg.norm(embedding, axis=0).max()
    return int(((ours != theirs) & ~np.where(same_side, tie, doubt)).sum())


@RUNTIMES
@settings(max_examples=25)
@given(
    stride=st.sampled_from([1, 2, 3, 4, 8]),
    shift=st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.5, 0.25]),
    parts=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    batch=st.integers(1, 3),
    count=st.integers(1, 6),
    sides=st.sampled_from(["both", "seen", "unseen"]),
    fixed=st.booleans(),
    bias=st.sampled_from([0.0, 0.7]),
    seed=st.integers(0, 5),
)
def test_the_label_map_is_the_runtimes(
    run: Run, mini: Bundle, stride: int, shift: float, parts: tuple[int, int], batch: int,
    count: int, sides: str, fixed: bool, bias: float, seed: int,
) -> None:  # fmt: skip
    facts = manifest(mini.manifest, dim=3, stride=stride, offset=(stride - 1) / 2 + shift)
    seen = {"both": None, "seen": [True] * count, "unseen": [False] * count}[sides]
    labels = label_set(count, 3, seen, seed=seed)
    size = (parts[0] * stride, parts[1] * stride)
    model = with_sei(
        network(3, stride, grow=1, seed=seed), facts, labels,
        size_hw=size if fixed else None, seen_bias=bias,
    )  # fmt: skip
    frames = np.random.default_rng(seed).normal(size=(batch, 3, *size)).astype(np.float32)
    outputs = run(model, frames)
    assert outputs[LABELS].dtype == np.uint8
    assert outputs[LABELS].shape == (batch, *size)
    for ours, embedding, seenmask in zip(
        outputs[LABELS], outputs["embedding"], outputs["seenmask"], strict=True
    ):
        theirs, _ = segment_grid(
            embedding, seenmask, labels,
            geometry=facts.grid_geometry, size_hw=size, seen_bias=bias,
        )  # fmt: skip
        arguments = (embedding, seenmask, labels, facts.grid_geometry)
        assert unexplained(ours, theirs, *arguments, bias=bias) == 0


@RUNTIMES
def test_a_grid_of_one_node_a_stride_needs_no_arithmetic_on_shapes(run: Run, mini: Bundle) -> None:
    facts, labels = manifest(mini.manifest, dim=3, stride=4, offset=1.5), label_set(5, 3)
    model = with_sei(network(3, 4), facts, labels)
    operators = [node.op_type for node in onnx.load_from_string(model).graph.node]
    assert operators.count("Resize") == 2
    assert not {"Shape", "Pad", "Slice", "MatMul", "Range"} & set(operators)
    frames = np.random.default_rng(2).normal(size=(2, 3, 24, 16)).astype(np.float32)
    outputs = run(model, frames)
    for row in range(2):
        grids = outputs["embedding"][row], outputs["seenmask"][row]
        theirs, _ = segment_grid(*grids, labels, geometry=facts.grid_geometry, size_hw=(24, 16))
        wrong = unexplained(outputs[LABELS][row], theirs, *grids, labels, facts.grid_geometry)
        assert wrong == 0


def test_a_fixed_size_leaves_no_arithmetic_on_shapes_with_a_shifted_grid(mini: Bundle) -> None:
    facts = manifest(mini.manifest, dim=3, stride=4, offset=-0.5)
    model = with_sei(network(3, 4, grow=1), facts, label_set(5, 3), size_hw=(8, 12))
    graph = onnx.load_from_string(model).graph
    assert "Shape" not in {node.op_type for node in graph.node}
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {
        "frames": ["batch", 3, 8, 12],
        "embedding": ["batch", 3, 3, 4],
        "seenmask": ["batch", 2, 3, 4],
        "labels": ["batch", 8, 12],
    }


@RUNTIMES
def test_equal_scores_go_to_the_lowest_label(run: Run, mini: Bundle) -> None:
    facts = manifest(mini.manifest, dim=3, stride=4, offset=1.5)
    row = np.random.default_rng(3).normal(size=3)
    labels = LabelSet(
        names=tuple("abcdef"),
        embeddings=np.array([row] * 6),
        seen=np.array([False, True, False, True, True, False]),
    )
    frames = np.random.default_rng(4).normal(size=(1, 3, 16, 16)).astype(np.float32)
    outputs = run(with_sei(network(3, 4), facts, labels), frames)
    _, seen = segment_grid(
        outputs["embedding"][0], outputs["seenmask"][0], labels,
        geometry=facts.grid_geometry, size_hw=(16, 16),
    )  # fmt: skip
    assert 0 < seen.mean() < 1
    np.testing.assert_array_equal(outputs[LABELS][0], np.where(seen, 1, 0))


@RUNTIMES
def test_a_seenmask_that_is_undecided_means_unseen(run: Run, mini: Bundle) -> None:
    def undecided(proto: onnx.ModelProto) -> None:
        weight = next(t for t in proto.graph.initializer if t.name == "seenmask_weight")
        weight.CopyFrom(numpy_helper.from_array(np.ones((2, 3, 4, 4), np.float32), weight.name))

    facts, labels = manifest(mini.manifest, dim=3, stride=4, offset=1.5), label_set(6, 3)
    model = with_sei(change(network(3, 4), undecided), facts, labels)
    frames = np.random.default_rng(4).normal(size=(1, 3, 16, 16)).astype(np.float32)
    assert not labels.seen[run(model, frames)[LABELS]].any()


@RUNTIMES
def test_a_multiple_that_is_no_multiple_of_the_stride(run: Run, mini: Bundle) -> None:
    facts = manifest(mini.manifest, dim=3, stride=4, offset=1.5)
    preprocess = dataclasses.replace(facts.preprocess, multiple=2)
    facts = dataclasses.replace(facts, preprocess=preprocess)
    labels = label_set(6, 3)
    model = with_sei(network(3, 4), facts, labels)
    frames = np.random.default_rng(8).normal(size=(1, 3, 10, 6)).astype(np.float32)
    outputs = run(model, frames)
    grids = outputs["embedding"][0], outputs["seenmask"][0]
    assert grids[0].shape == (3, 2, 1)
    theirs, _ = segment_grid(*grids, labels, geometry=facts.grid_geometry, size_hw=(10, 6))
    assert unexplained(outputs[LABELS][0], theirs, *grids, labels, facts.grid_geometry) == 0


@RUNTIMES
@pytest.mark.parametrize(("count", "dtype"), [(255, np.uint8), (256, np.int32), (300, np.int32)])
def test_the_type_follows_the_number_of_labels(
    run: Run, mini: Bundle, count: int, dtype: type
) -> None:
    facts, labels = manifest(mini.manifest, dim=6, stride=4, offset=1.5), label_set(count, 6)
    frames = np.random.default_rng(5).normal(size=(1, 3, 64, 64)).astype(np.float32)
    outputs = run(with_sei(network(6, 4), facts, labels), frames)
    assert outputs[LABELS].dtype == dtype
    grids = outputs["embedding"][0], outputs["seenmask"][0]
    theirs, _ = segment_grid(*grids, labels, geometry=facts.grid_geometry, size_hw=(64, 64))
    assert outputs[LABELS].max() == theirs.max() > 200
    assert unexplained(outputs[LABELS][0], theirs, *grids, labels, facts.grid_geometry) == 0


def test_the_bias_moves_pixels_to_the_seen_side(mini: Bundle) -> None:
    facts, labels = manifest(mini.manifest, dim=3, stride=4, offset=1.5), label_set(4, 3)
    frames = np.random.default_rng(6).normal(size=(1, 3, 32, 32)).astype(np.float32)
    shares = []
    for bias in (-50.0, 0.0, 50.0):
        model = with_sei(network(3, 4), facts, labels, seen_bias=bias)
        shares.append(labels.seen[run_onnxruntime(model, frames)[LABELS]].mean())
    assert shares[0] == 0
    assert 0 < shares[1] < 1
    assert shares[2] == 1


def test_names_are_in_the_file_beside_what_was_there(mini: Bundle) -> None:
    labels = LabelSet(
        names=("caf\u00e9", "sky"), embeddings=np.eye(2, 3), seen=np.array([True, False])
    )
    facts = manifest(mini.manifest, dim=3, stride=4, offset=1.5)
    model = onnx.load_from_string(with_sei(network(3, 4), facts, labels, seen_bias=0.5))
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(entries["szn.labels"]) == ["caf\u00e9", "sky"]
    assert json.loads(entries["szn.labels_seen"]) == [True, False]
    assert float(entries["szn.seen_bias"]) == 0.5
    assert entries["szn.name"] == "tiny"


def test_equal_inputs_give_equal_bytes(mini: Bundle) -> None:
    facts, labels = manifest(mini.manifest, dim=3, stride=4, offset=0.0), label_set(4, 3)
    assert with_sei(network(3, 4), facts, labels) == with_sei(network(3, 4), facts, labels)


def photos(data_dir: Path) -> list[Array]:
    files = sorted((data_dir / "msrc21" / "images").glob("*_s.*"))
    return [np.asarray(cv2.imread(str(files[i])), np.uint8) for i in range(0, len(files), 60)][:8]


@RUNTIMES
def test_szn_mini_on_photos(
    run: Run, mini: Bundle, data_dir: Path, record_property: Callable[[str, object], None]
) -> None:
    facts, labels = mini.manifest, mini.label_set()
    model = with_sei(mini.model_bytes(), facts, labels)
    normalise = Normaliser(facts.preprocess)
    images = photos(data_dir)
    assert len(images) >= 4
    different = pixels = 0
    for image in images:
        layout = plan(
            image.shape[:2],
            long_side=facts.preprocess.long_side,
            multiple=facts.preprocess.multiple,
        )
        frames = np.empty((1, 3, *layout.padded_hw), np.float32)
        normalise(image, layout, frames[0])
        outputs = run(model, frames)
        grids = outputs["embedding"][0], outputs["seenmask"][0]
        theirs, _ = segment_grid(
            *grids, labels, geometry=facts.grid_geometry, size_hw=layout.padded_hw
        )
        ours = outputs[LABELS][0]
        assert unexplained(ours, theirs, *grids, labels, facts.grid_geometry) == 0
        assert len(np.unique(ours)) > 1
        different += int((ours != theirs).sum())
        pixels += ours.size
    record_property("different_percent", 100 * different / pixels)
    assert different <= 1e-4 * pixels


@pytest.mark.parametrize(
    ("stride", "offset", "count"), [(4, 1.5, 5), (4, -0.5, 5), (4, 2.0, 300), (4, 1.25, 5)]
)
def test_tensorrt_rtx_takes_the_graph(mini: Bundle, stride: int, offset: float, count: int) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    facts = manifest(mini.manifest, dim=3, stride=stride, offset=offset)
    model = with_sei(network(3, stride), facts, label_set(count, 3))
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    definition = builder.create_network(0)
    parser = trt.OnnxParser(definition, logger)
    assert parser.parse(model), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    outputs = [definition.get_output(i) for i in range(definition.num_outputs)]
    types = {output.name: output.dtype for output in outputs}
    assert types[LABELS] == (trt.DataType.UINT8 if count <= 255 else trt.DataType.INT32)


def change(model: bytes, edit: Callable[[onnx.ModelProto], object]) -> bytes:
    proto = onnx.load_from_string(model)
    edit(proto)
    return bytes(proto.SerializeToString())


def rename_embedding(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].output[0] = proto.graph.output[0].name = "features"


def half_output(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def take_the_name(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Identity", ["seenmask"], [LABELS]))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (rename_embedding, "no tensor 'embedding' of four dimensions.*got features, seenmask"),
        (half_output, "'embedding' of the model is not float32: got float16"),
        (take_the_name, "has a tensor 'labels'"),
    ],
)
def test_another_model_is_refused(
    mini: Bundle, edit: Callable[[onnx.ModelProto], None], message: str
) -> None:
    facts = manifest(mini.manifest, dim=3, stride=4, offset=1.5)
    with pytest.raises(ExportError, match=message):
        with_sei(change(network(3, 4), edit), facts, label_set(4, 3))


def test_what_is_no_onnx_file_is_refused(mini: Bundle) -> None:
    with pytest.raises(ExportError, match="not an ONNX file"):
        with_sei(
            b"\xff" * 40, manifest(mini.manifest, dim=3, stride=4, offset=1.5), label_set(4, 3)
        )


def test_an_old_opset_is_refused(mini: Bundle) -> None:
    facts = manifest(mini.manifest, dim=3, stride=4, offset=1.5)
    with pytest.raises(ExportError, match="opset is too old: got 12, expected >= 15"):
        with_sei(network(3, 4, opset=12), facts, label_set(4, 3))


def test_a_graph_with_labels_is_not_given_more(mini: Bundle) -> None:
    facts, labels = manifest(mini.manifest, dim=3, stride=4, offset=1.5), label_set(4, 3)
    with pytest.raises(ExportError, match="fold the labels into the network as it was exported"):
        with_sei(with_sei(network(3, 4), facts, labels), facts, labels)


def test_labels_of_another_length_are_refused(mini: Bundle) -> None:
    facts = manifest(mini.manifest, dim=3, stride=4, offset=1.5)
    with pytest.raises(ExportError, match="got 5 dimensions, expected 3"):
        with_sei(network(3, 4), facts, label_set(4, 5))


@pytest.mark.parametrize("size_hw", [(10, 8), (8, 0), (0, 8)])
def test_a_size_the_network_cannot_take_is_refused(mini: Bundle, size_hw: tuple[int, int]) -> None:
    facts = manifest(mini.manifest, dim=3, stride=4, offset=1.5)
    with pytest.raises(ExportError, match="expected multiples of 4"):
        with_sei(network(3, 4), facts, label_set(4, 3), size_hw=size_hw)


def test_a_model_of_fixed_size_keeps_it(mini: Bundle) -> None:
    facts, labels = manifest(mini.manifest, dim=3, stride=4, offset=1.5), label_set(4, 3)

    def fix(proto: onnx.ModelProto) -> None:
        dimensions = proto.graph.input[0].type.tensor_type.shape.dim
        dimensions[2].dim_value, dimensions[3].dim_value = 8, 12

    fixed = change(network(3, 4), fix)
    with pytest.raises(ExportError, match="already of another size: got 12, expected 16"):
        with_sei(fixed, facts, labels, size_hw=(8, 16))
    output = onnx.load_from_string(with_sei(fixed, facts, labels)).graph.output[-1]
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == [
        "batch",
        8,
        12,
    ]


@pytest.mark.parametrize("offset", [5.0, -6.5])
def test_pixels_out_of_reach_are_refused(mini: Bundle, offset: float) -> None:
    facts = manifest(mini.manifest, dim=3, stride=4, offset=offset)
    with pytest.raises(ExportError, match="the grid does not cover the network's input"):
        with_sei(network(3, 4), facts, label_set(4, 3))


def test_a_bias_that_is_no_number_is_refused(mini: Bundle) -> None:
    facts = manifest(mini.manifest, dim=3, stride=4, offset=1.5)
    with pytest.raises(ExportError, match="seen_bias is not finite: got nan"):
        with_sei(network(3, 4), facts, label_set(4, 3), seen_bias=math.nan)
