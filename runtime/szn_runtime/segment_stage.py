"""The pipeline's middle: from frames to results, each in the thread that calls."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from szn_runtime.backends import Grids
from szn_runtime.latency import StageTimer
from szn_runtime.pipeline_config import PipelineConfig
from szn_runtime.segmentation import Segmentation
from szn_runtime.segmenter import Segmenter
from szn_runtime.sinks.base import Result
from szn_runtime.smoothing import GridSmoother
from szn_runtime.sources.base import Frame

__all__ = ["Item", "Made", "SegmentStage"]

Item = tuple[int, Frame]  # number of the source, frame
Made = list[tuple[int, Result]]  # number of the source, result


class SegmentStage:
    """Preprocessing, network, SEI and overlay, for any number of threads at a time.

    Args:
        segmenter: Stays open.
        config: How frames flow.
        draws: Of each source, whether its results get an overlay.
        timer: Told how long each part takes.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        config: PipelineConfig,
        *,
        draws: Sequence[bool],
        timer: StageTimer,
    ) -> None:
        self._segmenter, self._config, self._timer = segmenter, config, timer
        self._draws = tuple(draws)
        self._calls = threading.Semaphore(segmenter.backend.requests)
        self._smooth = GridSmoother(config.smooth) if config.smooth else None
        self._sizes: dict[str, list[int]] = {}

    @property
    def sizes(self) -> dict[str, list[int]]:
        """`frame_hw`, `network_hw` and `grid_hw` of the first frames; nothing before them."""
        return dict(self._sizes)

    def make(self, items: list[Item]) -> Made:
        """Results of some frames, in their order.

        Raises:
            SznError: If a frame cannot be segmented.
        """
        made: dict[tuple[int, int], Result] = {}
        for group in self._by_input_size(items):
            images = [frame.image_bgr for _, frame in group]
            with self._timer.measure("preprocess", frames=len(group)):
                prepared = self._segmenter.preprocess(images)
            with self._calls, self._timer.measure("network", frames=len(group)):
                grids = self._segmenter.network(prepared)
            if not self._sizes:
                self._sizes = {
                    "frame_hw": list(prepared.layouts[0].frame_hw),
                    "network_hw": list(prepared.layouts[0].padded_hw),
                    "grid_hw": list(grids.embedding.shape[2:]),
                }
            with self._timer.measure("sei", frames=len(group)):
                segmentations = self._segmenter.label(
                    self._smoothed(group, grids), prepared.layouts, images
                )
            for (number, frame), segmentation in zip(group, segmentations, strict=True):
                made[number, frame.index] = Result(
                    frame=frame, segmentation=segmentation, overlay=self._draw(number, segmentation)
                )
        return [(number, made[number, frame.index]) for number, frame in items]

    def _by_input_size(self, items: list[Item]) -> list[list[Item]]:
        """Split items so that each part has one network input size and no source is reordered."""
        groups: list[tuple[tuple[int, int], list[Item]]] = []
        last_group: dict[int, int] = {}  # of each lane
        for number, frame in items:
            height, width = frame.image_bgr.shape[:2]
            size = self._segmenter.layout((height, width)).padded_hw
            first = last_group.get(number, 0)
            at = next((i for i in range(first, len(groups)) if groups[i][0] == size), len(groups))
            if at == len(groups):
                groups.append((size, []))
            groups[at][1].append((number, frame))
            last_group[number] = at
        return [group for _, group in groups]

    def _draw(self, number: int, segmentation: Segmentation) -> NDArray[np.uint8] | None:
        if not self._draws[number]:
            return None
        with self._timer.measure("overlay"):
            return segmentation.overlay(alpha=self._config.alpha, legend=self._config.legend)

    def _smoothed(self, items: list[Item], grids: Grids) -> Grids:
        """The grids, mixed with those of the frames before of each source."""
        if self._smooth is None:
            return grids
        pairs = [
            self._smooth(number, embedding, seenmask)
            for (number, _), embedding, seenmask in zip(
                items, grids.embedding, grids.seenmask, strict=True
            )
        ]
        embeddings, seenmasks = zip(*pairs, strict=True)
        return Grids(embedding=np.stack(embeddings), seenmask=np.stack(seenmasks))
