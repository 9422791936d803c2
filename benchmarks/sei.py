"""Seenmask embedding inference: ours on the grid against methods per pixel, in one run.

- ours: `segment_grid`, on one core.
- PyTorch: the thesis' own method, on all cores: upsample the embedding to the frame, normalise
  every pixel, multiply with all labels, take the best seen and the best unseen one, and select by
  the upsampled seenmask.
- ONNX: what an exporter would put into the graph, in onnxruntime on all cores: scores of all labels
  at the nodes by a 1 x 1 convolution, resized to the frame, the greatest taken, for seen and unseen
  labels apart, and selected by the resized seenmask. Where its scores fit into memory.

All start from the network's grids, which are what szn-mini says of `--image` (by default
scikit-learn's sample photo) resized to as many nodes as the row needs. Labels are its own, then its
vocabulary's, then random directions. They take turns; times are medians, and a ratio is the median
of the ratios of the turns. Equal pixels are the share whose label is PyTorch's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import write_report
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from szn_runtime._cv import cv2
from szn_runtime.backends import Grids, open_backend
from szn_runtime.backends.base import usable_cores
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_runtime.preprocess import Layout, normalise_into
from szn_runtime.sei import segment_grid, warm_up

Map = NDArray[Any]

SEENMASKS = {
    "own": "the network's own seenmask; its own labels are seen or not as it was trained",
    "half": "shifted by its median so that half of the nodes are unseen, every other label seen: "
    "both halves of SEI have work everywhere",
}
_MANY = 400_000
_DENSE_LABELS = 20_000  # more take the dense method minutes a frame
_ONNX_BYTES = 2 << 30  # of scores at every pixel
_CHUNK = 250  # labels the dense method multiplies at a time, so that it fits into memory
_OURS = 5  # calls a turn: one is shorter than the noise


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row: what is segmented, and how many turns."""

    labels: int
    seenmask: str = "half"
    size_hw: tuple[int, int] = (480, 640)
    stride: int = 32
    turns: int = 3


def cases(*, quick: bool) -> Iterator[Case]:
    """The rows of a run."""
    if quick:
        yield Case(labels=21, seenmask="own", turns=7)
        yield Case(labels=21, turns=7)
        yield Case(labels=1000)
        yield Case(labels=_MANY)
        return
    for seenmask in SEENMASKS:
        for labels, turns in ((21, 15), (1000, 7), (20_000, 3), (_MANY, 5)):
            yield Case(labels=labels, seenmask=seenmask, turns=turns)
    for size_hw, stride in (
        ((480, 640), 16),
        ((480, 640), 8),
        ((720, 1280), 32),
        ((1080, 1920), 32),
    ):
        yield Case(labels=21, size_hw=size_hw, stride=stride, turns=5)
        yield Case(labels=1000, size_hw=size_hw, stride=stride, turns=2)


class Field:
    """The grids of one photo at any number of nodes.

    Args:
        bundle: The network.
        image_path: The photo, None for scikit-learn's.
    """

    def __init__(self, bundle: Bundle, image_path: Path | None) -> None:
        self._bundle = bundle
        if image_path is None:
            from sklearn.datasets import load_sample_images

            self._image = load_sample_images().images[0][:, :, ::-1]
        else:
            self._image = cv2.imread(str(image_path))

    def grids(self, nodes_hw: tuple[int, int], seenmask: str) -> Grids:
        """Grids of `nodes_hw` nodes; `seenmask` is "own" or "half"."""
        stride = self._bundle.manifest.stride
        size = (nodes_hw[0] * stride, nodes_hw[1] * stride)
        frame = np.empty((1, 3, *size), np.float32)
        resized = np.ascontiguousarray(cv2.resize(self._image, size[::-1]))
        layout = Layout(frame_hw=size, resized_hw=size, padded_hw=size)
        normalise_into(resized, layout, self._bundle.manifest.preprocess, frame[0])
        with open_backend("onnxruntime", self._bundle) as backend:
            grids = backend.infer(frame)
            embedding, logits = grids.embedding.copy(), grids.seenmask.copy()
        if seenmask == "half":
            logits[:, 1] -= np.median(logits[:, 1] - logits[:, 0])
        return Grids(embedding=embedding, seenmask=logits)


def labels_of(bundle: Bundle, count: int, seenmask: str) -> LabelSet:
    """The bundle's labels, then its vocabulary, then random directions."""
    own = bundle.label_set()
    table = np.random.default_rng(0).standard_normal((count, own.dim), dtype=np.float32)
    table[: len(own)] = own.embeddings[:count]
    vocabulary = bundle.vocabulary()
    if vocabulary is not None and count > len(own):
        words = vocabulary.embeddings.astype(np.float32)
        words = words[np.linalg.norm(words, axis=1) > 0][: count - len(own)]
        table[len(own) : len(own) + len(words)] = words
    seen = np.arange(count) % 2 == 0
    if seenmask == "own":
        seen[: len(own)] = own.seen[:count]
    names = tuple(f"label {i}" for i in range(count))
    return LabelSet(names=names, embeddings=table, seen=seen)


def dense(
    grids: Grids, labels: LabelSet, geometry: GridGeometry, size_hw: tuple[int, int]
) -> Callable[[], Map]:
    """The thesis' method in PyTorch, which gives (H, W) labels."""
    import torch

    from szn_train.model import upsample

    table, flags = torch.from_numpy(labels.embeddings.copy()), torch.from_numpy(labels.seen.copy())
    sides = [(side, torch.nonzero(flags == side).flatten()) for side in (True, False)]

    def run() -> Map:
        with torch.inference_mode():
            pixels = upsample(torch.from_numpy(grids.embedding), size_hw, geometry)[0]  # (j, H, W)
            mask = upsample(torch.from_numpy(grids.seenmask), size_hw, geometry)[0]  # (2, H, W)
            flat = torch.nn.functional.normalize(pixels.flatten(1), dim=0)  # (j, H W)
            seen_pixel = mask[1].flatten() > mask[0].flatten()
            chosen = torch.zeros(flat.shape[1], dtype=torch.int64)
            for side, ids in sides:
                best = torch.full((flat.shape[1],), -2.0)
                index = torch.zeros_like(chosen)
                for part in torch.split(ids, _CHUNK):
                    value, row = (table[part] @ flat).max(dim=0)  # (k, j) @ (j, H W) -> (k, H W)
                    better = value > best
                    best = torch.where(better, value, best)
                    index = torch.where(better, part[row], index)
                chosen = torch.where(seen_pixel == side, index, chosen)
        found: Map = chosen.reshape(size_hw).numpy()
        return found

    return run


def in_graph(
    grids: Grids, labels: LabelSet, stride: int, size_hw: tuple[int, int]
) -> Callable[[], Map]:
    """Scores of all labels resized in onnxruntime, which gives (H, W) labels.

    The frame begins at the first node's upper left corner and may end before the last node's lower
    right one.
    """
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    j, h, w = grids.embedding.shape[1:]
    nodes, constants = [], []

    def constant(name: str, value: NDArray[Any]) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **options: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **options))
        return output

    def resized(grid: str, channels: int, output: str) -> str:
        full = constant(f"{output}_size", np.array([1, channels, h * stride, w * stride]))
        inputs = [grid, "", "", full]
        how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        return node("Resize", inputs, output, **how)

    for side, ids in (
        ("seen", np.flatnonzero(labels.seen)),
        ("unseen", np.flatnonzero(~labels.seen)),
    ):
        weights = constant(f"{side}_labels", labels.embeddings[ids][:, :, None, None])
        scores = node("Conv", ["embedding", weights], f"{side}_scores")
        pixels = resized(scores, ids.size, f"{side}_pixels")
        best = node("ArgMax", [pixels], f"{side}_best", axis=1, keepdims=1)
        node("Gather", [constant(f"{side}_ids", ids), best], f"{side}_label", axis=0)
    pixels = resized("difference", 1, "difference_pixels")
    is_seen = node("Greater", [pixels, constant("zero", np.zeros((), np.float32))], "is_seen")
    node("Where", [is_seen, "seen_label", "unseen_label"], "all")
    ends = [constant("begin", np.array([0, 0])), constant("end", np.array(size_hw))]
    node("Slice", ["all", *ends, constant("axes", np.array([2, 3]))], "labels")
    graph = helper.make_graph(
        nodes,
        "scores",
        [
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, j, h, w]),
            helper.make_tensor_value_info("difference", TensorProto.FLOAT, [1, 1, h, w]),
        ],
        [helper.make_tensor_value_info("labels", TensorProto.INT64, [1, 1, *size_hw])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    difference = grids.seenmask[:, 1:] - grids.seenmask[:, :1]
    feed = {"embedding": grids.embedding, "difference": difference}

    def run() -> Map:
        found: Map = session.run(None, feed)[0][0, 0]
        return found

    return run


def timed(work: Callable[[], Map]) -> tuple[float, Map]:
    """Milliseconds and result of one call."""
    start = time.perf_counter()
    result = work()
    return 1000 * (time.perf_counter() - start), result


def measure(case: Case, grids: Grids, labels: LabelSet) -> dict[str, Any]:
    """One row of the report; None where a method was not run."""
    geometry = GridGeometry.square(case.stride, (case.stride - 1) / 2)
    methods: dict[str, Callable[[], Map]] = {
        "ours": lambda: segment_grid(
            grids.embedding[0], grids.seenmask[0], labels, geometry=geometry, size_hw=case.size_hw
        )[0]
    }
    pixels = grids.embedding.shape[2] * grids.embedding.shape[3] * case.stride**2
    if 4 * case.labels * pixels <= _ONNX_BYTES:
        methods["onnx"] = in_graph(grids, labels, case.stride, case.size_hw)
    if case.labels <= _DENSE_LABELS:
        methods["dense"] = dense(grids, labels, geometry, case.size_hw)
    warm_up(labels.dim, count=len(labels))
    times: dict[str, list[float]] = {name: [] for name in methods}
    found: dict[str, Map] = {}
    equal = {"ours": 1.0, "onnx": 1.0}
    for _ in range(case.turns):
        for name, work in methods.items():
            taken = []
            for _ in range(_OURS if name == "ours" else 1):
                milliseconds, found[name] = timed(work)
                taken.append(milliseconds)
            times[name].append(float(np.median(taken)))
        for name in equal.keys() & found.keys():
            if "dense" in found:
                equal[name] = min(equal[name], float((found[name] == found["dense"]).mean()))

    def middle(name: str) -> float | None:
        return float(np.median(times[name])) if name in times else None

    def ratio(name: str) -> float | None:
        if name not in times:
            return None
        turns = zip(times[name], times["ours"], strict=True)
        return float(np.median([theirs / ours for theirs, ours in turns]))

    return {
        "labels": case.labels,
        "seenmask": case.seenmask,
        "size_hw": list(case.size_hw),
        "stride": case.stride,
        "turns": case.turns,
        "ours_ms": middle("ours"),
        "dense_ms": middle("dense"),
        "ratio": ratio("dense"),
        "onnx_ms": middle("onnx"),
        "onnx_ratio": ratio("onnx"),
        "equal_share": equal["ours"] if "dense" in found else None,
        "onnx_equal_share": equal["onnx"] if {"dense", "onnx"} <= found.keys() else None,
    }


def peak_growth(bundle_path: Path, count: int) -> dict[str, float] | None:
    """Peak memory of `count` labels in a process of its own, None where the system hides it.

    Returns:
        MiB above what the process had with the kernels loaded: `label_set`, while the label set was
        made, names and embeddings included; `sei`, while frames were labelled, label set included.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, __file__, "--probe", str(count), "--bundle", str(bundle_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    growth: dict[str, float] = json.loads(run.stdout)
    return growth


def _probe(bundle: Bundle, count: int) -> dict[str, float]:
    def kib(name: str) -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    def forget_peak() -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    warm_up(bundle.manifest.dim, count=count)
    grids = Field(bundle, None).grids((15, 20), "half")
    bundle.vocabulary()
    forget_peak()
    start = kib("VmRSS")
    labels = labels_of(bundle, count, "half")
    made = kib("VmHWM")
    forget_peak()
    for _ in range(3):
        geometry = GridGeometry.square(32, 15.5)
        segment_grid(
            grids.embedding[0], grids.seenmask[0], labels, geometry=geometry, size_hw=(480, 640)
        )
    return {"label_set": (made - start) / 1024, "sei": (kib("VmHWM") - start) / 1024}


@click.command()
@click.option("--quick", is_flag=True, help="Under a minute: 480 x 640, stride 32, few rows.")
@click.option("--bundle", "bundle_path", type=click.Path(path_type=Path), help="Model.")
@click.option("--image", type=click.Path(exists=True, path_type=Path), help="Photo.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the report.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a plot (PNG, PDF, SVG).")
@click.option("--probe", type=click.IntRange(1), hidden=True)
def main(
    quick: bool,
    bundle_path: Path | None,
    image: Path | None,
    json_path: Path | None,
    plot: Path | None,
    probe: int | None,
) -> None:
    """Measure SEI with 21 to 400,000 labels against methods per pixel."""
    path = bundle_path or default_bundle_path()
    bundle = Bundle.open(path)
    if probe is not None:
        click.echo(json.dumps(_probe(bundle, probe)))
        return
    console = Console(width=140)
    if not console.is_terminal:
        console = Console(width=120)  # a file holds lines of any length
    field = Field(bundle, image)
    rows = []
    with console.status("") as status:
        for case in cases(quick=quick):
            h, w = (-(-pixels // case.stride) for pixels in case.size_hw)
            status.update(
                f"{case.labels:,} labels, {case.size_hw[0]} x {case.size_hw[1]}, "
                f"stride {case.stride}, seenmask {case.seenmask}"
            )
            labels = labels_of(bundle, case.labels, case.seenmask)
            rows.append(measure(case, field.grids((h, w), case.seenmask), labels))
        status.update("memory")
        peak = peak_growth(path, _MANY)
    console.print(_table(rows))
    for name, meaning in SEENMASKS.items():
        console.print(f"seenmask {name}: {meaning}.", highlight=False)
    console.print(
        f"ours: one core; the others: {usable_cores()}. Not run: - (minutes a frame, or scores of "
        f"more than {_ONNX_BYTES >> 30} GiB)",
        highlight=False,
    )
    if peak is not None:
        console.print(
            f"peak memory of {_MANY:,} labels above that of the process without: "
            f"{peak['label_set']:.0f} MiB to make the label set, {peak['sei']:.0f} MiB with it to "
            "label frames of 480 x 640",
            highlight=False,
        )
    if json_path:
        write_report(json_path, "sei", rows, seenmasks=SEENMASKS, peak_growth_mib=peak)
    if plot:
        _plot(rows, plot)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="SEI: ours on the grid against methods per pixel")
    for head in (
        "frame", "stride", "seenmask", "labels", "ours, ms", "frames/s", "PyTorch, ms", "ratio",
        "ONNX, ms", "ratio", "equal pixels",
    ):  # fmt: skip
        table.add_column(head, justify="right")

    def number(value: float | None, form: str, unit: str = "") -> str:
        return "-" if value is None else f"{value:{form}}{unit}"

    last = rows[0]
    for row in rows:
        if (row["size_hw"], row["stride"]) != (last["size_hw"], last["stride"]):
            table.add_section()
        last = row
        share = row["equal_share"]
        table.add_row(
            f"{row['size_hw'][0]}x{row['size_hw'][1]}",
            str(row["stride"]),
            row["seenmask"],
            f"{row['labels']:,}",
            number(row["ours_ms"], ".2f"),
            number(1000 / row["ours_ms"], ",.0f"),
            number(row["dense_ms"], ",.0f"),
            number(row["ratio"], ",.0f", "x"),
            number(row["onnx_ms"], ",.0f"),
            number(row["onnx_ratio"], ",.0f", "x"),
            number(None if share is None else 100 * share, ".4f", " %"),
        )
    return table


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    first = [row for row in rows if row["size_hw"] == [480, 640] and row["stride"] == 32]
    for name, key, line in (
        ("PyTorch, per pixel", "dense_ms", "s--"),
        ("onnxruntime, per pixel", "onnx_ms", "^:"),
        ("ours, on the grid", "ours_ms", "o-"),
    ):
        run = [row for row in first if row["seenmask"] == "half" and row[key] is not None]
        axes.loglog([row["labels"] for row in run], [row[key] for row in run], line, label=name)
    axes.set_xlabel("labels")
    axes.set_ylabel("ms per frame of 480 x 640")
    axes.legend(loc="center right")
    figure.savefig(path)


if __name__ == "__main__":
    main()
