"""`szn-run` end to end on a clip, against the bare network and against what people write instead.

    python benchmarks/pipeline.py                 # 21 and 1,000 labels, some minutes
    python benchmarks/pipeline.py --quick

In one run, the variants taking turns:

* network: the bare network, with the same backend, precision and hint, on frames prepared before.
* decoded: the same while the clip is decoded, with `encode` to H.264 encoded as it came as well, a
  call for each frame and nothing else done with it: the most that can be reached on these cores.
* szn-run: the pipeline of the command: decode, preprocess, network, SEI, and with `encode` the
  overlay and H.264.
* plain script: OpenCV reads, resizes and NumPy normalises a frame, onnxruntime runs the network in
  fp32, NumPy compares every pixel of the upsampled embedding with all labels.
* thesis: the same network in PyTorch (eager, fp32), then upsample, normalise, multiply, argmax.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from machine import write_report
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sei import dense, labels_of

from szn_runtime._cv import cv2
from szn_runtime.backends import Backend, BackendOptions, Grids, open_backend
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.demo import DemoSource
from szn_runtime.labels import LabelSet
from szn_runtime.pipeline import Lane, Pipeline
from szn_runtime.pipeline_config import PipelineConfig
from szn_runtime.segmenter import Segmenter
from szn_runtime.selection import choose_backend
from szn_runtime.sinks import Result, Sink, VideoSink
from szn_runtime.sources import Frame, Source, VideoSource
from szn_train.backbones import create_backbone
from szn_train.model import SeenmaskZeroShotNetwork

Image = NDArray[np.uint8]

_ROWS_AT_A_TIME = 16  # of the plain script's table of pixels and labels, so that it fits in memory


class Looped(Source):
    """A clip several times over, decoded each time."""

    live = False

    def __init__(self, path: Path, times: int) -> None:
        self._path, self._times = path, times
        with VideoSource(path) as first:
            self.name, self.frame_hw = first.name, first.frame_hw
            self.frame_rate, self.time_base = first.frame_rate, first.time_base
            self.frame_count = None
            self.paths = (path,)

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        for _ in range(self._times):
            with VideoSource(self._path) as source:
                for frame in source:
                    yield dataclasses.replace(frame, index=index, timestamp_s=None)
                    index += 1


def network_fps(backend: Backend, tensors: list[NDArray[np.float32]], calls: int) -> float:
    """Frames per second of the network alone, with as many calls at a time as it takes."""
    with ThreadPoolExecutor(backend.requests) as pool:
        start_s = time.perf_counter()
        waiting = [pool.submit(backend.infer, tensors[i % len(tensors)]) for i in range(calls)]
        for call in waiting:
            call.result()
        return calls / (time.perf_counter() - start_s)


def decoded_fps(
    clip: Path,
    segmenter: Segmenter,
    tensors: list[NDArray[np.float32]],
    times: int,
    output: Path | None,
) -> float:
    """Frames per second of the network with the clip's decoding, and with encoding, beside it."""
    source, backend = Looped(clip, times), segmenter.backend
    any_result = segmenter(np.zeros((*(source.frame_hw or (480, 640)), 3), np.uint8))
    sink = None
    if output is not None:
        sink = VideoSink(output, frame_rate=source.frame_rate or Fraction(25))
    free = threading.Semaphore(backend.requests + 4)  # calls that wait, as the pipeline's
    waiting: list[Future[Any]] = []
    start_s = time.perf_counter()
    with ThreadPoolExecutor(backend.requests) as pool, ThreadPoolExecutor(1) as writer:
        for frame in source:
            free.acquire()
            call = pool.submit(backend.infer, tensors[frame.index % len(tensors)])
            call.add_done_callback(lambda _: free.release())
            waiting.append(call)
            if sink is not None:
                result = Result(frame=frame, segmentation=any_result, overlay=frame.image_bgr)
                waiting.append(writer.submit(sink.write, result))
        for call in waiting:
            call.result()
    if sink is not None:
        sink.close()
    return (frame.index + 1) / (time.perf_counter() - start_s)


def pipeline_fps(clip: Path, segmenter: Segmenter, times: int, output: Path | None) -> float:
    """Frames per second of the whole, opening the clip and closing the video included."""
    source = Looped(clip, times)
    sinks: list[Sink] = []
    if output is not None:
        sinks.append(VideoSink(output, frame_rate=source.frame_rate or Fraction(25)))
    start_s = time.perf_counter()
    report = Pipeline([Lane(source=source, sinks=sinks)], segmenter).run()
    return report.frames / (time.perf_counter() - start_s)


class PlainScript:
    """What people write after reading the tutorials."""

    def __init__(self, bundle: Bundle, labels: LabelSet) -> None:
        import onnxruntime as ort

        self._session = ort.InferenceSession(
            bundle.model_bytes(), providers=["CPUExecutionProvider"]
        )
        self._manifest, self._labels = bundle.manifest, labels
        seen = labels.seen
        self._sides = [(np.flatnonzero(seen), True), (np.flatnonzero(~seen), False)]

    def frame(self, image: Image, size_wh: tuple[int, int]) -> NDArray[np.int64]:
        """(H, W) labels of a frame."""
        preprocess = self._manifest.preprocess
        small = cv2.resize(image, size_wh)
        rgb = cv2.cvtColor(small, cv2.COLOR_BGR2RGB).astype(np.float32)
        normal = (rgb - np.array(preprocess.mean)) / np.array(preprocess.std)
        tensor = np.ascontiguousarray(normal.transpose(2, 0, 1)[None].astype(np.float32))
        embedding, seenmask = self._session.run(
            [self._manifest.embedding_name, self._manifest.seenmask_name],
            {self._manifest.input_name: tensor},
        )
        height, width = image.shape[:2]
        pixels = cv2.resize(embedding[0].transpose(1, 2, 0), (width, height))  # (H, W, j)
        mask = cv2.resize(seenmask[0].transpose(1, 2, 0), (width, height))  # (H, W, 2)
        seen_pixel = mask[..., 1] > mask[..., 0]
        result = np.zeros((height, width), np.int64)
        for rows in range(0, height, _ROWS_AT_A_TIME):
            part = slice(rows, rows + _ROWS_AT_A_TIME)
            for ids, side in self._sides:
                scores = pixels[part] @ self._labels.embeddings[ids].T  # (rows, W, k)
                best = ids[scores.argmax(axis=-1)]
                result[part] = np.where(seen_pixel[part] == side, best, result[part])
        return result

    def fps(self, clip: Path, size_wh: tuple[int, int], frames: int) -> float:
        """Frames per second over the first frames of the clip."""
        return clip_fps(clip, frames, lambda image: self.frame(image, size_wh))


def thesis_fps(
    clip: Path,
    network: SeenmaskZeroShotNetwork,
    segmenter: Segmenter,
    labels: LabelSet,
    frames: int,
) -> float:
    """Frames per second of the thesis' method over the first frames of the clip."""

    def work(image: Image) -> None:
        prepared = segmenter.preprocess([image])
        with torch.inference_mode():
            embedding, seenmask = network(torch.from_numpy(prepared.tensor))
        grids = Grids(embedding=embedding.numpy(), seenmask=seenmask.numpy())
        geometry = prepared.layouts[0].grid_geometry(segmenter.bundle.manifest.grid_geometry)
        dense(grids, labels, geometry, image.shape[:2])()

    return clip_fps(clip, frames, work)


def clip_fps(clip: Path, frames: int, work: Callable[[Image], object]) -> float:
    """Frames per second of reading the first frames of a clip with OpenCV and working on each."""
    capture = cv2.VideoCapture(str(clip))
    start_s = time.perf_counter()
    count = 0
    while count < frames:
        there, image = capture.read()
        if not there:
            break
        work(image)
        count += 1
    elapsed_s = time.perf_counter() - start_s
    capture.release()
    return count / elapsed_s


def prepared_tensors(clip: Path, segmenter: Segmenter) -> list[NDArray[np.float32]]:
    """Network inputs of the clip's first frames."""
    tensors = []
    with VideoSource(clip) as source:
        for frame in source:
            tensors.append(segmenter.preprocess([frame.image_bgr]).tensor.copy())
            if len(tensors) == 16:
                break
    return tensors


def measure(
    bundle: Bundle,
    network: SeenmaskZeroShotNetwork,
    clip: Path,
    *,
    backend: str,
    precision: str,
    counts: list[int],
    encodes: list[bool],
    quick: bool,
) -> list[dict[str, Any]]:
    """Rows of one backend: each number the median of rounds that take turns."""
    times, rounds = (2, 2) if quick else (4, 5)
    options = BackendOptions(precision=precision, hint="throughput")
    rows = []
    with (
        open_backend(backend, bundle, options) as opened,
        Segmenter(bundle, opened) as segmenter,
        tempfile.TemporaryDirectory() as folder,
    ):
        with VideoSource(clip) as source:
            segmenter.warm_up(source.frame_hw)
        tensors = prepared_tensors(clip, segmenter)
        size_wh = (tensors[0].shape[3], tensors[0].shape[2])
        for count in counts:
            labels = bundle.label_set() if count == 21 else labels_of(bundle, count, "own")
            segmenter.with_labels(labels)
            segmenter.warm_up()
            plain = PlainScript(bundle, labels)
            slow = 4 if count > 100 else 30
            slow = max(1, slow // 8) if quick else slow
            variants: dict[str, Callable[[], float]] = {
                "network": lambda: network_fps(opened, tensors, 101 * times),
                "plain": partial(plain.fps, clip, size_wh, slow),
                "thesis": partial(thesis_fps, clip, network, segmenter, labels, slow),
            }
            for encode in encodes:
                output = Path(folder) / "out.mp4" if encode else None
                variants[f"pipeline {encode}"] = partial(
                    pipeline_fps, clip, segmenter, times, output
                )
                variants[f"decoded {encode}"] = partial(
                    decoded_fps, clip, segmenter, tensors, times, output
                )
            found: dict[str, list[float]] = {name: [] for name in variants}
            for turn in range(rounds + 1):
                for name, run in variants.items():
                    if name in ("plain", "thesis") and not 0 < turn < 3:
                        continue  # they are slow, and far from the others
                    fps = run()
                    if turn:  # the first turn warms up
                        found[name].append(fps)
            for encode in encodes:
                ours = found[f"pipeline {encode}"]
                most = found[f"decoded {encode}"]
                rows.append(
                    {
                        "labels": count,
                        "encode": encode,
                        "backend": backend,
                        "precision": precision,
                        "requests": opened.requests,
                        "network_fps": float(np.median(found["network"])),
                        "pipeline_fps": float(np.median(ours)),
                        "share_of_network": _ratio(ours, found["network"]),
                        "decoded_fps": float(np.median(most)),
                        "decoded_share_of_network": _ratio(most, found["network"]),
                        "share_of_decoded": _ratio(ours, most),
                        "plain_script_fps": float(np.median(found["plain"])),
                        "plain_ratio": _ratio(ours, found["plain"]),
                        "thesis_fps": float(np.median(found["thesis"])),
                        "thesis_ratio": _ratio(ours, found["thesis"]),
                    }
                )
    return rows


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return float(np.median([a / b for a, b in zip(ours, theirs, strict=False)]))


@click.command()
@click.option("--quick", is_flag=True, help="Under a minute: the default backend, few frames.")
@click.option("--clip", type=click.Path(exists=True, path_type=Path), help="Video file.")
@click.option("--bundle", "bundle_path", type=click.Path(path_type=Path), help="Model.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the rows.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a plot (PNG, PDF, SVG).")
def main(
    quick: bool,
    clip: Path | None,
    bundle_path: Path | None,
    json_path: Path | None,
    plot: Path | None,
) -> None:
    """Measure szn-run end to end against the bare network, a plain script and the thesis' way."""
    console = Console(width=140)
    bundle = Bundle.open(bundle_path or default_bundle_path())
    manifest = bundle.manifest
    torch.manual_seed(0)
    # the weights do not matter for time, and a bundle has none for PyTorch
    backbone = create_backbone(manifest.backbone, stride=manifest.stride, weights="none")
    network = SeenmaskZeroShotNetwork(backbone, manifest.dim).eval()
    with tempfile.TemporaryDirectory() as folder:
        clip = clip or _default_clip(Path(folder))
        with VideoSource(clip) as source:
            frame_hw = source.frame_hw or (480, 640)
        with Segmenter(bundle, open_backend("fake", bundle)) as planner:
            padded_hw = planner.layout(frame_hw).padded_hw
        choice = choose_backend(
            bundle, BackendOptions(hint="throughput"), input_shape=(1, 3, *padded_hw)
        )
        console.print(f"default: {choice.summary()}", highlight=False)
        variants = [(choice.backend, choice.precision)]
        if not quick:
            known = [
                (c.backend, c.precision)
                for c in choice.candidates
                if c.precision in ("fp32", "bf16") and (c.frame_ms or c.avoided)
            ]
            variants += [each for each in known if each not in variants]
        rows: list[dict[str, Any]] = []
        for backend, precision in variants:
            rows += measure(
                bundle,
                network,
                clip,
                backend=backend,
                precision=precision,
                counts=[21, 1000],
                encodes=[False, True],
                quick=quick,
            )
    console.print(_table(rows, f"{clip.name}, {frame_hw[1]} x {frame_hw[0]}"))
    if json_path:
        write_report(json_path, "pipeline", rows, clip=clip.name, frame_hw=list(frame_hw))
    if plot:
        _plot(rows, plot)


def _default_clip(folder: Path) -> Path:
    """The driving clip of the data folder, or else the demo's photos as a clip."""
    data = Path(os.environ.get("SZN_DATA", Path(__file__).parents[2] / "shared" / "data"))
    path = data / "camvid_val.mp4"
    if path.is_file():
        return path
    path = folder / "demo.mp4"
    source = DemoSource(frame_count=100)
    with Segmenter(bundle := Bundle.open(default_bundle_path()), open_backend("fake", bundle)) as s:
        sink = VideoSink(path, frame_rate=Fraction(20))
        plain = PipelineConfig(alpha=0, legend=False)
        Pipeline([Lane(source=source, sinks=[sink])], s, config=plain).run()
    return path


def _table(rows: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=f"Frames per second, {title}")
    for name in (
        "backend",
        "labels",
        "encode",
        "network",
        "szn-run",
        "share",
        "decoded",
        "share",
        "plain script",
        "ratio",
        "thesis",
        "ratio",
    ):
        table.add_column(name, justify="left" if name == "backend" else "right")
    for row in rows:
        table.add_row(
            f"{row['backend']} {row['precision']}",
            f"{row['labels']:,}",
            "H.264" if row["encode"] else "no",
            f"{row['network_fps']:.0f}",
            f"{row['pipeline_fps']:.0f}",
            f"{row['share_of_network']:.1%}",
            f"{row['decoded_fps']:.0f}",
            f"{row['share_of_decoded']:.1%}",
            f"{row['plain_script_fps']:.2f}",
            f"{row['plain_ratio']:.1f}",
            f"{row['thesis_fps']:.2f}",
            f"{row['thesis_ratio']:.0f}",
        )
    return table


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = ("network_fps", "pipeline_fps", "plain_script_fps", "thesis_fps")
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    at = np.arange(len(rows))
    for offset, name in enumerate(names):
        label = name.removesuffix("_fps").replace("_", " ").replace("pipeline", "szn-run")
        axes.bar(at + 0.2 * offset, [row[name] for row in rows], 0.2, label=label)
    axes.set_yscale("log")
    axes.set_ylabel("frames per second")
    axes.set_xticks(
        at + 0.3,
        [
            f"{r['backend']} {r['precision']}\n"
            f"{r['labels']} labels{', H.264' if r['encode'] else ''}"
            for r in rows
        ],
        rotation=30,
        ha="right",
        fontsize=7,
    )
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
