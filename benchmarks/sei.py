"""Seenmask embedding inference: ours on the grid against the dense method, in one run.

The dense method is the thesis' own: upsample the embedding to the frame, normalise every pixel,
multiply with all labels, take the best seen and the best unseen one, and select by the upsampled
seenmask. It runs in PyTorch on all cores; ours runs on one. Both are timed in turn, and the ratio
is the median of the ratios of the pairs.

The grids are what szn-mini says of `--image` (by default scikit-learn's sample photo). `own` rows
use its labels and its seenmask as they are. In `half` rows both branches of SEI have work
everywhere: the labels are its own, then its vocabulary's, then random directions, every second one
is called seen, and the seenmask is shifted by its median, so that half of the nodes say seen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from szn_runtime._cv import cv2
from szn_runtime.backends import Grids, open_backend
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_runtime.preprocess import Layout, normalise_into
from szn_runtime.sei import segment_grid, warm_up
from szn_train.model import upsample

Map = NDArray[Any]

_CHUNK = 250  # labels the dense method multiplies at a time, so that it fits into memory


def real_field(bundle: Bundle, image_path: Path | None, shape: tuple[int, int]) -> Grids:
    """The network's grids of a photo, resampled to `shape` nodes."""
    if image_path is None:
        from sklearn.datasets import load_sample_images

        image = load_sample_images().images[0][:, :, ::-1]
    else:
        image = cv2.imread(str(image_path))
    stride = bundle.manifest.stride
    frame = np.empty((1, 3, shape[0] * stride, shape[1] * stride), np.float32)
    resized = np.ascontiguousarray(cv2.resize(image, frame.shape[:1:-1]))
    size = (frame.shape[2], frame.shape[3])
    layout = Layout(frame_hw=size, resized_hw=size, padded_hw=size)
    normalise_into(resized, layout, bundle.manifest.preprocess, frame[0])
    with open_backend("onnxruntime", bundle) as backend:
        return backend.infer(frame)


def half_unseen(grids: Grids) -> Grids:
    """The same grids with half of the nodes unseen."""
    seenmask = grids.seenmask.copy()
    seenmask[:, 1] -= np.median(seenmask[:, 1] - seenmask[:, 0])
    return Grids(embedding=grids.embedding, seenmask=seenmask)


def labels_of(bundle: Bundle, count: int) -> LabelSet:
    """The bundle's labels, then its vocabulary, then random directions; every second is seen."""
    own = bundle.label_set()
    rows = [own.embeddings]
    vocabulary = bundle.vocabulary()
    if vocabulary is not None and count > len(own):
        words = vocabulary.embeddings.astype(np.float32)
        rows.append(words[np.linalg.norm(words, axis=1) > 0])
    missing = count - sum(map(len, rows))
    if missing > 0:
        rows.append(np.random.default_rng(0).normal(size=(missing, own.dim)))
    table = np.concatenate(rows)[:count]
    return LabelSet(
        names=tuple(f"label {i}" for i in range(count)),
        embeddings=table.astype(np.float32),
        seen=np.arange(count) % 2 == 0,
    )


def dense(
    grids: Grids, labels: LabelSet, geometry: GridGeometry, size_hw: tuple[int, int]
) -> tuple[Map, Map]:
    """The thesis' method in PyTorch: (H, W) labels and seenmask."""
    with torch.inference_mode():
        pixels = upsample(torch.from_numpy(grids.embedding), size_hw, geometry)[0]  # (j, H, W)
        mask = upsample(torch.from_numpy(grids.seenmask), size_hw, geometry)[0]  # (2, H, W)
        flat = torch.nn.functional.normalize(pixels.flatten(1), dim=0)  # (j, H W)
        seen_pixel = mask[1].flatten() > mask[0].flatten()
        table, flags = (
            torch.from_numpy(labels.embeddings.copy()),
            torch.from_numpy(labels.seen.copy()),
        )
        chosen = torch.zeros(flat.shape[1], dtype=torch.int64)
        for side in (True, False):
            best = torch.full((flat.shape[1],), -2.0)
            index = torch.zeros_like(chosen)
            ids = torch.nonzero(flags == side).flatten()
            for part in ids.split(_CHUNK):
                value, row = (table[part] @ flat).max(dim=0)  # (k, j) @ (j, H W) -> (k, H W)
                better = value > best
                best = torch.where(better, value, best)
                index = torch.where(better, part[row], index)
            chosen = torch.where(seen_pixel == side, index, chosen)
    return chosen.reshape(size_hw).numpy(), seen_pixel.reshape(size_hw).numpy()


def timed(work: Callable[[], tuple[Map, Map]]) -> tuple[float, tuple[Map, Map]]:
    """Milliseconds and result of one call."""
    start = time.perf_counter()
    result = work()
    return 1000 * (time.perf_counter() - start), result


def measure(
    grids: Grids, labels: LabelSet, geometry: GridGeometry, size_hw: tuple[int, int], repeats: int,
    *, with_dense: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """One row: medians, the median ratio of interleaved pairs, and the share of equal pixels."""

    def ours() -> tuple[Map, Map]:
        return segment_grid(
            grids.embedding[0], grids.seenmask[0], labels, geometry=geometry, size_hw=size_hw
        )

    ours()  # compiles the kernels for this type of label map
    ours_ms, dense_ms, equal = [], [], 1.0
    for _ in range(repeats):
        # several of ours a turn: one of them is shorter than the noise
        several = sorted(timed(ours)[0] for _ in range(5))
        ours_ms.append(several[2])
        if with_dense:
            milliseconds, theirs = timed(lambda: dense(grids, labels, geometry, size_hw))
            dense_ms.append(milliseconds)
            equal = min(equal, float((ours()[0] == theirs[0]).mean()))
    ratios = [b / a for a, b in zip(ours_ms, dense_ms, strict=False)]
    return {
        "labels": len(labels),
        "size_hw": list(size_hw),
        "stride": geometry.stride_yx[0],
        "ours_ms": float(np.median(ours_ms)),
        "dense_ms": float(np.median(dense_ms)) if dense_ms else None,
        "ratio": float(np.median(ratios)) if ratios else None,
        "equal_share": equal if dense_ms else None,
    }


@click.command()
@click.option("--quick", is_flag=True, help="Under a minute: 21 and 1,000 labels.")
@click.option("--bundle", "bundle_path", type=click.Path(path_type=Path), help="Model.")
@click.option("--image", type=click.Path(exists=True, path_type=Path), help="Photo.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the rows.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a plot (PNG, PDF, SVG).")
def main(
    quick: bool,
    bundle_path: Path | None,
    image: Path | None,
    json_path: Path | None,
    plot: Path | None,
) -> None:
    """Measure SEI at 480 x 640, stride 32, with 21 to 400,000 labels."""
    bundle = Bundle.open(bundle_path or default_bundle_path())
    warm_up(bundle.manifest.dim)
    size_hw, stride = (480, 640), 32
    grids = real_field(bundle, image, (size_hw[0] // stride, size_hw[1] // stride))
    geometry = GridGeometry.square(stride, (stride - 1) / 2)
    own = bundle.label_set()
    rows = [{"seenmask": "own"} | measure(grids, own, geometry, size_hw, 15)]
    grids = half_unseen(grids)
    for count, repeats in ((21, 15), (1000, 7)) + (() if quick else ((20_000, 3), (400_000, 3))):
        labels = labels_of(bundle, count)
        # dense at 400,000 labels takes minutes a frame
        row = measure(grids, labels, geometry, size_hw, repeats, with_dense=count <= 20_000)
        rows.append({"seenmask": "half"} | row)
    table = Table(title=f"SEI at {size_hw[0]} x {size_hw[1]}, stride {stride}, one core")
    for name in ("seenmask", "labels", "ours, ms", "dense PyTorch, ms", "ratio", "equal pixels"):
        table.add_column(name, justify="right")
    for row in rows:
        compared = row["dense_ms"] is not None
        table.add_row(
            row["seenmask"],
            f"{row['labels']:,}",
            f"{row['ours_ms']:.2f}",
            f"{row['dense_ms']:.0f}" if compared else "not run (minutes)",
            f"{row['ratio']:.0f}" if compared else "",
            f"{100 * row['equal_share']:.4f} %" if compared else "",
        )
    Console().print(table)
    if json_path:
        json_path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if plot:
        _plot(rows, plot)


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    rows = [r for r in rows if r["seenmask"] == "half"]
    axes.loglog([r["labels"] for r in rows], [r["ours_ms"] for r in rows], "o-", label="ours")
    compared = [r for r in rows if r["dense_ms"] is not None]
    axes.loglog(
        [r["labels"] for r in compared], [r["dense_ms"] for r in compared], "s--", label="dense"
    )
    axes.set_xlabel("labels")
    axes.set_ylabel("ms per frame")
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
