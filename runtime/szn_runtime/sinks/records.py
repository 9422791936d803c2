"""Results as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

from szn_runtime.sinks.base import Result, Sink, cannot_write, check_file

__all__ = ["JsonLines"]


class JsonLines(Sink):
    """Class shares of every frame, one JSON object a line.

    Keys: `frame` (number in the source), `name`, `timestamp_s` (or null), `size_hw`, `shares`
    (share of the pixels of each label that is present, 0 to 1, largest first) and `unseen` (those
    of them that the network was not trained on).

    Args:
        path: The file. Every line is complete once its frame is written.

    Raises:
        SinkError: If it cannot be written.
    """

    wants_overlay: bool = False

    def __init__(self, path: Path) -> None:
        check_file(path)
        self.path: Path | None = path
        self._where = path
        self._file: TextIO | None = None

    def write(self, result: Result) -> None:
        """Write a line; see `Sink.write`."""
        frame, segmentation = result.frame, result.segmentation
        shares, label_set = segmentation.shares, segmentation.label_set
        seen = dict(zip(label_set.names, label_set.seen.tolist(), strict=True))
        record = {
            "frame": frame.index,
            "name": frame.name,
            "timestamp_s": frame.timestamp_s,
            "size_hw": list(segmentation.labels.shape),
            "shares": {name: round(share, 6) for name, share in shares.items()},
            "unseen": [name for name in shares if not seen[name]],
        }
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
