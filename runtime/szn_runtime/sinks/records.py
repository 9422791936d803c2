"""Results as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from szn_runtime.errors import UsageError
from szn_runtime.sinks.base import Result, Sink, cannot_write, check_file

__all__ = ["JsonLines"]


class JsonLines(Sink):
    """Class shares of every frame, one JSON object a line.

    Keys: `source`, `frame` (number in the source), `name`, `timestamp_s` (or null), `size_hw`,
    `shares` (share of the pixels of each label that is present, 0 to 1, largest first) and `unseen`
    (those of them that the network was not trained on). With `top_k` also `regions`, largest first:
    `label`, `share`, `box_xyxy` in pixels (right and bottom exclusive) and `words`, the labels that
    are most similar to the region's mean embedding, each with its cosine.

    Args:
        path: The file. Every line is complete once its frame is written.
        top_k: Words for each region, 0 for no regions.

    Raises:
        SinkError: If it cannot be written.
        UsageError: If `top_k` is negative.
    """

    wants_overlay: bool = False

    def __init__(self, path: Path, *, top_k: int = 0) -> None:
        if top_k < 0:
            raise UsageError("words per region are out of range", got=top_k, expected=">= 0")
        check_file(path)
        self._top_k = top_k
        if top_k:
            from szn_runtime.regions import warm_up

            warm_up(dim=1)  # so that the first frame is not slow
        self.path: Path | None = path
        self._where = path
        self._file: TextIO | None = None

    def write(self, result: Result) -> None:
        """Write a line; see `Sink.write`."""
        frame, segmentation = result.frame, result.segmentation
        names, present = segmentation.names, segmentation.present
        record: dict[str, Any] = {
            "source": frame.source,
            "frame": frame.index,
            "name": frame.name,
            "timestamp_s": frame.timestamp_s,
            "size_hw": list(segmentation.labels.shape),
            "shares": {names[row]: round(share, 6) for row, share in present},
            "unseen": [names[row] for row, _ in present if not segmentation.seen[row]],
        }
        if self._top_k:
            record["regions"] = [
                {
                    "label": names[region.label],
                    "share": round(region.share, 6),
                    "box_xyxy": list(region.box_xyxy),
                    "words": [[word, round(cosine, 4)] for word, cosine in region.words],
                }
                for region in segmentation.regions(self._top_k)
            ]
        try:
            if self._file is None:
                self._file = self._where.open("w", encoding="utf-8", buffering=1)
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            raise cannot_write(self._where, error) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError as closing:
                raise cannot_write(self._where, closing) from closing
