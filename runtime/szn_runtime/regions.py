"""The connected regions of a label map, and the words of the label set that are nearest to each.

A region's words come from its mean embedding, a weighted sum of the grid's nodes: the weights of
the bilinear interpolation, summed over the region's pixels. No embedding is upsampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_runtime._cv import cv2
from szn_runtime.confidence import CellTables, cell_tables, check_label_map
from szn_runtime.errors import UsageError
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_runtime.overlay import label_counts

__all__ = ["Region", "find_regions", "warm_up"]

_TOGETHER = 16  # regions compared with all labels at a time: bounds the memory of their scores
_NO_LENGTH = 1e-7  # of the nodes' weighted lengths: as much as float32 weights resolve


@dataclass(frozen=True, kw_only=True)
class Region:
    """Pixels of one label that touch, also at their corners.

    Args:
        label: Index in the label set; its length stands for "unknown".
        share: Share of the frame's pixels, above 0 to 1.
        box_xyxy: Left, top, right and bottom in pixels, right and bottom exclusive.
        words: Names of the label set, seen and unseen, with the cosine (-1 to 1) between their
            embedding and the region's mean embedding, best first.
    """

    label: int
    share: float
    box_xyxy: tuple[int, int, int, int]
    words: tuple[tuple[str, float], ...]


def find_regions(
    labels: NDArray[np.integer],
    embedding: NDArray[np.float32],
    label_set: LabelSet,
    *,
    geometry: GridGeometry,
    top_k: int,
    least_share: float = 0.005,
) -> list[Region]:
    """Find the regions of a label map and name each with its nearest words.

    Args:
        labels: (H, W) integers, indices into the label set or its length for "unknown".
        embedding: (j, h, w) float32, what the map was made of.
        label_set: K labels of j numbers each.
        geometry: Where the nodes lie among the frame's pixels.
        top_k: Words for each region, at least 1; as many as there are labels if those are fewer.
        least_share: Share of the frame's pixels, 0 to 1, that a region has at least.

    Returns:
        The regions, largest first, equal ones by label, then from top to bottom. Words of equal
        cosine come in the order of the label set. Where the mean embedding is 0 all cosines are 0.

    Raises:
        UsageError: If `top_k` or `least_share` is out of range.
        InputError: If an array has the wrong shape or type, the embedding is not finite, a label
            is none of the set, or pixels lie more than a stride outside the grid.
    """
    if top_k < 1:
        raise UsageError("number of words for a region is out of range", got=top_k, expected=">= 1")
    if not 0 <= least_share <= 1:
        raise UsageError(
            "least share of a region is out of range", got=least_share, expected="0 to 1"
        )
    check_label_map(labels, len(label_set) + 1)
    labels = np.ascontiguousarray(labels, np.uint8 if labels.dtype == np.uint8 else np.int32)
    tables = cell_tables(embedding, labels.shape, dim=label_set.dim, geometry=geometry)
    h, w = embedding.shape[1:]
    found: list[tuple[int, int, tuple[int, int, int, int]]] = []  # pixels, label, box
    directions: list[NDArray[np.float64]] = []
    nodes = embedding.reshape(len(embedding), -1).astype(np.float64)  # (j, h * w)
    lengths = np.linalg.norm(nodes, axis=0)  # (h * w,)
    counts = label_counts(labels, len(label_set) + 1)
    for label in np.flatnonzero((counts > 0) & (counts / labels.size >= least_share)):
        for pixels, box, weights in _components(labels, int(label), (h, w), tables, least_share):
            found.append((pixels, int(label), box))
            directions.append(_unit(nodes @ weights, float(lengths @ weights)))
    order = sorted(
        range(len(found)), key=lambda i: (-found[i][0], found[i][1], found[i][2][1], found[i][2][0])
    )
    words: list[tuple[tuple[str, float], ...]] = []
    for start in range(0, len(order), _TOGETHER):
        words += _nearest(
            [directions[i] for i in order[start : start + _TOGETHER]], label_set, top_k
        )
    return [
        Region(
            label=found[i][1],
            share=found[i][0] / labels.size,
            box_xyxy=found[i][2],
            words=nearest,
        )
        for i, nearest in zip(order, words, strict=True)
    ]


def warm_up(dim: int) -> None:
    """Compile the kernel, or load it from the cache on disk, before the first frame.

    Args:
        dim: Length j of an embedding; its value does not matter to the kernel.
    """
    find_regions(
        np.zeros((8, 8), np.uint8),
        np.ones((dim, 2, 2), np.float32),
        LabelSet(names=("a",), embeddings=np.ones((1, dim), np.float32), seen=np.array([True])),
        geometry=GridGeometry.square(4, 1.5),
        top_k=1,
    )


def _components(
    labels: NDArray[Any],
    label: int,
    grid_hw: tuple[int, int],
    tables: CellTables,
    least_share: float,
) -> Iterator[tuple[int, tuple[int, int, int, int], NDArray[np.float64]]]:
    """The large enough components of one label: pixels, box, (h * w,) weights of the nodes."""
    from szn_runtime._region_kernels import node_weights

    mask = (labels == label).view(np.uint8)
    x0, y0, width, height = cv2.boundingRect(mask)
    # this algorithm took half the time of the default one on one core
    _, components, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(
        mask[y0 : y0 + height, x0 : x0 + width], 8, cv2.CV_32S, cv2.CCL_GRANA
    )
    shares = stats[:, cv2.CC_STAT_AREA] / labels.size
    for number in np.flatnonzero(shares >= least_share):
        if number == 0:  # the pixels of other labels
            continue
        left, top, width, height, pixels = map(int, stats[number])
        part = components[top : top + height, left : left + width]
        weights = np.empty(grid_hw)
        left, top = left + x0, top + y0
        node_weights(np.ascontiguousarray(part), int(number), left, top, *tables, weights)
        yield pixels, (left, top, left + width, top + height), weights.ravel()


def _unit(total: NDArray[np.float64], reach: float) -> NDArray[np.float64]:
    """The direction (j,) of a weighted sum; zeros where only rounding is left of `reach`."""
    norm = float(np.linalg.norm(total))
    return total / norm if norm > _NO_LENGTH * reach else np.zeros_like(total)


def _nearest(
    directions: list[NDArray[np.float64]], label_set: LabelSet, top_k: int
) -> Iterator[tuple[tuple[str, float], ...]]:
    """The `top_k` labels of greatest cosine to each direction, best first."""
    count = min(top_k, len(label_set))
    scores = np.stack(directions).astype(np.float32) @ label_set.embeddings.T  # (n, K)
    # twice the rounding error of a float32 sum: none of the best is below the bound
    slack = (label_set.dim + 8) * 2.0**-23
    for direction, row in zip(directions, scores, strict=True):
        if not direction.any():
            yield tuple((name, 0.0) for name in label_set.names[:count])
            continue
        bound = np.partition(row, -count)[-count] - slack
        candidates = np.flatnonzero(row >= bound)
        # a sum of one order for all rows, so that equal labels get equal cosines
        cosines = (label_set.embeddings[candidates] * direction).sum(axis=1)
        cosines = np.clip(cosines, -1, 1)
        best = np.argsort(-cosines, kind="stable")[:count]
        yield tuple((label_set.names[candidates[i]], float(cosines[i])) for i in best)
