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

import os
import tempfile
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from machine import write_report
from measured_bundle import bundle_facts
from pipeline_rivals import PlainScript, thesis_fps
from pipeline_runs import decoded_fps, network_fps, pipeline_fps, prepared_tensors
from pipeline_table import table, write_plot
from rich.console import Console
from sei_inputs import labels_of

from szn_runtime.backends import BackendOptions, open_backend
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.demo import DemoSource
from szn_runtime.pipeline import Lane, Pipeline
from szn_runtime.pipeline_config import PipelineConfig
from szn_runtime.segmenter import Segmenter
from szn_runtime.selection import choose_backend
from szn_runtime.sinks import VideoSink
from szn_runtime.sources import VideoSource
from szn_train.backbones import create_backbone
from szn_train.model import SeenmaskZeroShotNetwork


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
    console.print(table(rows, f"{clip.name}, {frame_hw[1]} x {frame_hw[0]}"))
    if json_path:
        write_report(
            json_path,
            "pipeline",
            rows,
            bundle=bundle_facts(bundle),
            clip=clip.name,
            frame_hw=list(frame_hw),
        )
    if plot:
        write_plot(rows, plot)


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


if __name__ == "__main__":
    main()
