"""Scores of methods on a draw's test images, through the runtime's own SEI, and their means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from zero_shot_methods import Fitted
from zero_shot_runs import Cells

from szn_runtime.labels import LabelSet
from szn_runtime.sei import segment_grid
from szn_train.datasets import open_dataset
from szn_train.decisions import Decisions
from szn_train.evaluate import Evaluation
from szn_train.metrics import confusion_matrix
from szn_train.progress import Progress
from szn_train.run import Run
from szn_train.transforms import layout_of, preprocess_of

__all__ = ["KEYS", "SHOWN", "evaluate_methods", "spreads_and_means", "table"]

KEYS = (
    "train_seen_miou", "unseen_miou", "harmonic_miou", "unseen_pa", "ps_unseen_pa",
    "recovered_share", "fcn_je_train_seen_miou",
)  # fmt: skip
"""Of a method on a draw, percent; `recovered_share` is `unseen_pa / ps_unseen_pa` in [0, 1].

`train_seen` and `unseen` (U) mIoU are of SZN with the method's seenmask, from the full confusion
matrix over all labels; `ps_unseen_pa` is SZN-PS's, the same for all methods of a draw.
"""

SHOWN = {
    "train_seen_miou": "seen mIoU", "unseen_miou": "unseen mIoU", "harmonic_miou": "harmonic",
    "unseen_pa": "unseen PA", "recovered_share": "recovered", "seen_lost": "seen lost",
    "left_out_auc": "left-out AUC", "left_out_recall": "left-out recall",
}  # fmt: skip


def evaluate_methods(
    run: Run, cells: Cells, methods: Mapping[str, Fitted], *, progress: Progress
) -> dict[str, dict[str, float | None]]:
    """Name of each method to its numbers on the images of `cells`: `KEYS` and some more.

    Args:
        run: The draw's run.
        cells: Grids of its test images.
        methods: What is compared.
        progress: Where the bar goes.
    """
    split, space, size = run.split, run.space, len(run.split.labels)
    dataset = open_dataset(run.config, Path(run.config.data), "test")
    lookup, decide = split.mask_lookup(), Decisions(split, space)
    is_seen = split.is_member(split.train_seen)
    labels = LabelSet(names=space.names, embeddings=space.unit, seen=is_seen)
    preprocess = preprocess_of(run.network.backbone.info, run.config.long_side)
    logits = {name: fitted.logits(cells) for name, fitted in methods.items()}
    shared = {model: np.zeros((size, size), np.int64) for model in ("FCN-JE", "SZN-PS")}
    confusions = {name: np.zeros((size, size), np.int64) for name in methods}
    right = dict.fromkeys(methods, 0)
    known = images = 0
    with progress, progress.task("evaluate", len(cells.ids)) as task:
        for image, (image_id, rows) in enumerate(zip(cells.ids, cells.rows(), strict=True)):
            truth = lookup[dataset.mask(image_id)]
            labelled = truth < size
            geometry = layout_of(truth.shape, preprocess).grid_geometry(run.network.geometry)
            embedding = cells.grid(cells.embedding, image, rows)
            maps, _ = decide(embedding, cells.grid(cells.seenmask, image, rows), truth, geometry)
            for model, confusion in shared.items():
                confusion += confusion_matrix(truth, maps[model], size)
            truly = is_seen[truth % size]
            for name, values in logits.items():
                found, seen = segment_grid(
                    embedding,
                    _two_channels(cells.grid(values, image, rows)),
                    labels,
                    geometry=geometry,
                    size_hw=(truth.shape[0], truth.shape[1]),
                )
                confusions[name] += confusion_matrix(truth, found, size)
                right[name] += int((seen == truly)[labelled].sum())
            known, images = known + int(labelled.sum()), images + 1
            task.advance()
    results = {}
    for name, confusion in confusions.items():
        evaluation = Evaluation(
            split=split,
            images=images,
            confusions={**shared, "SZN": confusion},
            seenmask_accuracy=100 * right[name] / max(known, 1),
        )
        results[name] = {**numbers(evaluation), **methods[name].facts}
    return results


def numbers(evaluation: Evaluation) -> dict[str, float | None]:
    """`KEYS` and some more of one method."""
    split = evaluation.split
    confusion = evaluation.confusions["SZN"]
    seen = split.is_member(split.train_seen)
    unseen_pa = evaluation.scores("SZN", "unseen").pa
    ps_unseen_pa = evaluation.scores("SZN-PS", "unseen").pa
    return {
        "train_seen_miou": evaluation.scores("SZN", "train_seen").miou,
        "unseen_miou": evaluation.scores("SZN", "unseen").miou,
        "harmonic_miou": evaluation.harmonic_miou("SZN"),
        "unseen_pa": unseen_pa,
        "ps_unseen_pa": ps_unseen_pa,
        "recovered_share": unseen_pa / ps_unseen_pa if ps_unseen_pa > 0 else None,
        "fcn_je_train_seen_miou": evaluation.scores("FCN-JE", "train_seen").miou,
        "seen_pa": evaluation.scores("SZN", "train_seen").pa,
        "fcn_je_seen_pa": evaluation.scores("FCN-JE", "train_seen").pa,
        "seen_lost": float(confusion[seen][:, ~seen].sum() / max(confusion[seen].sum(), 1)),
        "seenmask_accuracy": evaluation.seenmask_accuracy,
        "ps_harmonic_miou": evaluation.harmonic_miou("SZN-PS"),
        "ps_unseen_miou": evaluation.scores("SZN-PS", "unseen").miou,
    }


def spreads_and_means(
    draws: Sequence[Mapping[str, Mapping[str, float | None]]],
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Means and standard deviations over the draws: method to key to number.

    A number that is missing in a draw is left out; the deviation is that of a sample, 0 for one.
    """
    means: dict[str, dict[str, float]] = {}
    spreads: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(name for draw in draws for name in draw):
        for key in dict.fromkeys(key for draw in draws for key in draw.get(name, {})):
            found = [draw[name].get(key) for draw in draws if name in draw]
            values = [value for value in found if value is not None and math.isfinite(value)]
            if values:
                means.setdefault(name, {})[key] = float(np.mean(values))
                spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
                spreads.setdefault(name, {})[key] = spread
    return means, spreads


def table(
    title: str,
    means: Mapping[str, Mapping[str, float | None]],
    spreads: Mapping[str, Mapping[str, float]] | None = None,
) -> Table:
    """A row for each method."""
    result = Table(title=title)
    result.add_column("method")
    for text in SHOWN.values():
        result.add_column(text, justify="right")
    for name, values in means.items():
        cells = []
        for key in SHOWN:
            value = values.get(key)
            if value is None or not math.isfinite(value):
                cells.append("")
                continue
            digits = 2 if key in {"recovered_share", "left_out_auc", "left_out_recall"} else 1
            scale = 100 if key == "seen_lost" else 1
            text = f"{scale * value:.{digits}f}"
            spread = (spreads or {}).get(name, {}).get(key)
            cells.append(text if spread is None else f"{text} ± {scale * spread:.{digits}f}")
        result.add_row(name, *cells)
    return result


def _two_channels(logit: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w) seen logits as the seenmask (2, h, w), channel 1 seen."""
    return np.stack([np.zeros_like(logit), logit])
