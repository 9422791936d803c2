"""Which side of the graph's boundary is cheaper for normalising frames, in one run.

From a uint8 BGR frame to the network's grids, on all cores:

- ours: `Normaliser` writes tables' values into a float buffer; the graph takes floats.
- in graph: OpenCV resizes; Transpose, Gather, Cast, Sub and Mul before the graph do the rest.
- OpenVINO: the same by its PrePostProcessor.
- folded: mean and deviation in the first convolution's weights and bias; Transpose and Cast before
  it. Exact inside only: the convolution pads with 0, which is the mean in normalised frames and
  black in these.
- numpy: OpenCV resizes, numpy does the rest, as most examples have it.
- blobFromImage: OpenCV resizes, its `dnn` module does the rest.

The network runs through the same few lines for all of them. Variants take turns; times are medians
of the rounds, the ratio to ours is the median of the rounds' ratios. The difference is that of the
grids to ours in the same backend and precision, |x - y| / |y|, of the grid where it is greater.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from machine import write_report
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from szn_runtime._cv import cv2
from szn_runtime.backends.base import usable_cores
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.manifest import Manifest, Preprocess
from szn_runtime.preprocess import Layout, Normaliser, plan

if TYPE_CHECKING:
    import onnx

Image = NDArray[np.uint8]
Array = NDArray[Any]
Prepare = Callable[[], Array]
Network = Callable[[Array], list[Array]]

_OURS = "ours"
_SIZES = (((360, 480), 320), ((480, 640), 640))  # of the frame; of the input's long side
_TYPES = {"fp32": "f32", "bf16": "bf16"}


def photo(size_hw: tuple[int, int]) -> Image:
    """Scikit-learn's sample photo in that size, BGR."""
    from sklearn.datasets import load_sample_images

    image = load_sample_images().images[0][:, :, ::-1]
    resized = cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized, np.uint8)


def preparations(frame: Image, layout: Layout, preprocess: Preprocess) -> dict[str, Prepare]:
    """What each variant does before the graph."""
    normaliser = Normaliser(preprocess)
    buffer = np.empty((1, 3, *layout.padded_hw), np.float32)
    scratch = np.empty((*layout.resized_hw, 3), np.uint8)
    mean, std = (np.array(values, np.float32) for values in (preprocess.mean, preprocess.std))
    swap = preprocess.channel_order == "rgb"

    def resized() -> Image:
        if layout.frame_hw == layout.resized_hw:
            return frame
        cv2.resize(frame, layout.resized_hw[::-1], dst=scratch, interpolation=cv2.INTER_AREA)
        return scratch

    def ours() -> Array:
        normaliser(frame, layout, buffer[0])
        return buffer

    def levels() -> Array:
        return resized()[None]  # (1, H, W, 3) uint8

    def naive() -> Array:
        image = resized()[:, :, ::-1] if swap else resized()
        planes = ((image.astype(np.float32) - mean) / std).transpose(2, 0, 1)  # -> (3, H, W)
        return np.ascontiguousarray(planes[None])

    def blob() -> Array:
        scale = 1 / float(std[0]) if len(set(std.tolist())) == 1 else 1.0
        made: Array = cv2.dnn.blobFromImage(
            resized(), scale, mean=tuple(map(float, mean)), swapRB=swap
        )
        return made if scale != 1 else made / std[:, None, None]

    return {
        _OURS: ours,
        "in graph": levels,
        "OpenVINO": levels,
        "folded": levels,
        "numpy": naive,
        "blobFromImage": blob,
    }


def with_levels_as_input(model: bytes, manifest: Manifest, *, fold: bool) -> bytes:
    """The graph with uint8 frames (1, H, W, 3) BGR as input.

    Args:
        model: The ONNX file.
        manifest: Preprocessing, and the name of the input.
        fold: Whether to put mean and deviation into the first convolution instead of nodes.

    Raises:
        LookupError: If they cannot be folded, as the input does not go to one convolution.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    proto = onnx.load_from_string(model)
    graph, name = proto.graph, manifest.input_name
    preprocess = manifest.preprocess
    swap = preprocess.channel_order == "rgb"
    mean, std = (np.array(values, np.float64) for values in (preprocess.mean, preprocess.std))
    nodes = [helper.make_node("Transpose", ["levels"], ["planes"], perm=[0, 3, 1, 2])]
    if fold:
        nodes.append(helper.make_node("Cast", ["planes"], [name], to=TensorProto.FLOAT))
        _fold(graph, name, mean, std, swap=swap)
    else:
        # the order of channels is changed while they are small
        order = [2, 1, 0] if swap else [0, 1, 2]
        constants = {
            "szn_order": np.array(order, np.int64),
            "szn_mean": mean.astype(np.float32).reshape(1, 3, 1, 1),
            "szn_rate": (1 / std).astype(np.float32).reshape(1, 3, 1, 1),
        }
        graph.initializer.extend(numpy_helper.from_array(v, key) for key, v in constants.items())
        nodes += [
            helper.make_node("Gather", ["planes", "szn_order"], ["ordered"], axis=1),
            helper.make_node("Cast", ["ordered"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["floats", "szn_mean"], ["centred"]),
            helper.make_node("Mul", ["centred", "szn_rate"], [name]),
        ]
    for index, node in enumerate(nodes):
        graph.node.insert(index, node)
    shape = ["batch", "height", "width", 3]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("levels", TensorProto.UINT8, shape))
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def _fold(graph: onnx.GraphProto, name: str, mean: Array, std: Array, *, swap: bool) -> None:
    """W (x - m) / s + b = (W / s) x + (b - sum of W m / s), for BGR levels x."""
    from onnx import numpy_helper

    users = [node for node in graph.node if name in node.input]
    if len(users) != 1 or users[0].op_type != "Conv" or len(users[0].input) != 3:
        raise LookupError("the input goes to more than a convolution with bias")
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    weight, bias = (tensors[each] for each in users[0].input[1:])
    scaled = numpy_helper.to_array(weight) / std[:, None, None]  # (C, 3, kh, kw)
    shift = (scaled * mean[:, None, None]).sum(axis=(1, 2, 3))
    if swap:
        scaled = scaled[:, ::-1]
    for tensor, values in ((weight, scaled), (bias, numpy_helper.to_array(bias) - shift)):
        made = numpy_helper.from_array(np.ascontiguousarray(values, np.float32), tensor.name)
        tensor.CopyFrom(made)


def open_onnxruntime(model: bytes, manifest: Manifest) -> Network:
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


def open_openvino(
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

    core = ov.Core()
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


def networks(
    bundle: Bundle, size_hw: tuple[int, int], backend: str, precision: str
) -> dict[str, Network]:
    """The graph of each variant, in one backend and precision.

    Raises:
        LookupError: If this machine lacks the precision.
    """
    manifest, model = bundle.manifest, bundle.model_bytes()
    models = {_OURS: model, "in graph": with_levels_as_input(model, manifest, fold=False)}
    try:
        models["folded"] = with_levels_as_input(model, manifest, fold=True)
    except LookupError as error:
        click.echo(f"folded: not run: {error}")
    if backend == "onnxruntime":
        opened = {name: open_onnxruntime(content, manifest) for name, content in models.items()}
    else:
        opened = {
            name: open_openvino(content, manifest, size_hw, precision)
            for name, content in models.items()
        }
        opened["OpenVINO"] = open_openvino(model, manifest, size_hw, precision, preprocessor=True)
    # these two differ from ours before the graph only
    return opened | dict.fromkeys(("numpy", "blobFromImage"), opened[_OURS])


def measure(
    bundle: Bundle,
    frame_hw: tuple[int, int],
    long_side: int,
    *,
    backend: str,
    precision: str,
    seconds: float,
) -> list[dict[str, Any]]:
    """A row for each variant, after rounds for that many seconds, three at least.

    Raises:
        LookupError: If this machine lacks the precision.
    """
    preprocess = bundle.manifest.preprocess
    layout = plan(frame_hw, long_side=long_side, multiple=preprocess.multiple)
    if layout.padded_hw != layout.resized_hw:
        raise click.ClickException(f"the bundle pads {layout.resized_hw}; variants do not")
    prepare = preparations(photo(frame_hw), layout, preprocess)
    opened = networks(bundle, layout.padded_hw, backend, precision)
    names = [name for name in prepare if name in opened]
    grids = {name: opened[name](prepare[name]()) for name in names}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    end_s = time.perf_counter() + seconds
    while len(times[_OURS]) < 3 or time.perf_counter() < end_s:
        turn = len(times[_OURS]) % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(_turn(prepare[name], opened[name]))
    rows = []
    for name in names:
        sums = [sum(both) for both in times[name]]
        ratios = [a / sum(b) for a, b in zip(sums, times[_OURS], strict=True)]
        before, inside = zip(*times[name], strict=True)
        rows.append({
            "frame_hw": list(frame_hw),
            "input_hw": list(layout.padded_hw),
            "backend": backend,
            "precision": precision,
            "variant": name,
            "preprocess_ms": statistics.median(before),
            "network_ms": statistics.median(inside),
            "sum_ms": statistics.median(sums),
            "ratio": statistics.median(ratios),
            "difference": max(
                float(np.linalg.norm(x - y) / np.linalg.norm(y))
                for x, y in zip(grids[name], grids[_OURS], strict=True)
            ),
        })  # fmt: skip
    return rows


def _turn(prepare: Prepare, network: Network) -> tuple[float, float]:
    """Median milliseconds before and in the network, of the calls of 60 ms, two at least."""
    network(prepare())  # after another variant, caches are cold
    before: list[float] = []
    inside: list[float] = []
    end_s = time.perf_counter() + 0.06
    while len(before) < 2 or time.perf_counter() < end_s:
        start_s = time.perf_counter()
        frames = prepare()
        middle_s = time.perf_counter()
        network(frames)
        before.append(1e3 * (middle_s - start_s))
        inside.append(1e3 * (time.perf_counter() - middle_s))
    return statistics.median(before), statistics.median(inside)


def _backends() -> Iterator[tuple[str, str]]:
    if importlib.util.find_spec("onnxruntime") is not None:
        yield "onnxruntime", "fp32"
    if importlib.util.find_spec("openvino") is not None:
        yield from (("openvino", precision) for precision in _TYPES)


@click.command()
@click.option("--quick", is_flag=True, help="Under a minute.")
@click.option("--bundle", "bundle_path", type=click.Path(path_type=Path), help="Model.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the rows.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a plot (PNG, PDF, SVG).")
def main(
    quick: bool, bundle_path: Path | None, json_path: Path | None, plot: Path | None
) -> None:  # fmt: skip
    """Compare ways from a uint8 frame to the network's grids."""
    console = Console(width=140)
    bundle = Bundle.open(bundle_path or default_bundle_path())
    rows: list[dict[str, Any]] = []
    for frame_hw, long_side in _SIZES:
        for backend, precision in _backends():
            with console.status(f"{frame_hw[1]} x {frame_hw[0]}, {backend} {precision}"):
                try:
                    rows += measure(
                        bundle,
                        frame_hw,
                        long_side,
                        backend=backend,
                        precision=precision,
                        seconds=4 if quick else 30,
                    )
                except LookupError as error:
                    console.print(f"{backend} {precision}: not run: {error}", markup=False)
    console.print(_table(rows))
    if json_path:
        write_report(json_path, "preprocess", rows)
    if plot:
        _plot(rows, plot)


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=f"From a frame to the grids, ms; {usable_cores()} threads")
    table.add_column("frame, input (height x width)")
    table.add_column("backend")
    table.add_column("variant")
    for name in ("preprocess", "network", "sum", "ratio", "difference"):
        table.add_column(name, justify="right")
    before = None
    for row in rows:
        group = (row["frame_hw"], row["backend"], row["precision"])
        if before not in (None, group):
            table.add_section()
        before = group
        table.add_row(
            "{} x {}, {} x {}".format(*row["frame_hw"], *row["input_hw"]),
            f"{row['backend']} {row['precision']}",
            row["variant"],
            *(f"{row[key]:.2f}" for key in ("preprocess_ms", "network_ms", "sum_ms", "ratio")),
            f"{row['difference']:.1e}" if row["variant"] != _OURS else "",
        )
    return table


def _plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sizes = list(dict.fromkeys(tuple(row["frame_hw"]) for row in rows))
    figure, panels = plt.subplots(
        len(sizes), figsize=(7, 1 + 0.25 * len(rows)), layout="constrained", squeeze=False
    )
    for axes, size in zip(panels[:, 0], sizes, strict=True):
        shown = [row for row in rows if tuple(row["frame_hw"]) == size]
        names = ["{backend} {precision}: {variant}".format(**row) for row in shown]
        before = [row["preprocess_ms"] for row in shown]
        inside = [row["network_ms"] for row in shown]
        axes.barh(names, before, label="before the graph")
        axes.barh(names, inside, left=before, label="in the graph")
        axes.tick_params(axis="y", labelsize="small")
        axes.invert_yaxis()
        axes.set_title(f"{size[1]} x {size[0]}")
        axes.set_xlabel("ms per frame")
        axes.legend()
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()
