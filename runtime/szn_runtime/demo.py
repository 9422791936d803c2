"""The demonstration: two real photos, panned and zoomed into a clip.

The photos come with scikit-learn: `china.jpg` by danielbuechele and `flower.jpg` by vultilion, both
under CC BY 2.0.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from szn_runtime._cv import cv2
from szn_runtime.errors import MissingDependencyError, SourceError, UsageError
from szn_runtime.overlay import draw_seenmask
from szn_runtime.sinks.base import Result, Sink, check_file
from szn_runtime.sinks.images import write_png
from szn_runtime.sources.base import Frame, Source
from szn_runtime.sources.images import read_image

__all__ = ["ATTRIBUTION", "ContactSheet", "DemoSource"]

ATTRIBUTION = "photos: danielbuechele, vultilion (CC BY 2.0)"

_SIZE_HW = (424, 640)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GAP = 8


@dataclass(frozen=True, kw_only=True)
class _Shot:
    """A camera move over a photo; positions and zoom at its start and end."""

    file: str
    centres_xy: tuple[tuple[float, float], tuple[float, float]]
    zooms: tuple[float, float]


_SHOTS = (
    _Shot(file="china.jpg", centres_xy=((0.5, 0.5), (0.42, 0.5)), zooms=(1.0, 1.35)),
    _Shot(file="flower.jpg", centres_xy=((0.6, 0.45), (0.5, 0.5)), zooms=(1.3, 1.0)),
)


class DemoSource(Source):
    """The photos as a clip, half of the frames each.

    Args:
        frame_count: Frames of the clip, at least 2.
        frame_rate: Frames per second.

    Raises:
        MissingDependencyError: If scikit-learn is not installed.
        SourceError: If it comes without the photos.
        UsageError: If there are fewer frames than photos.
    """

    live: bool = False
    time_base: Fraction | None = None
    name: str = "demo"
    frame_hw: tuple[int, int] | None = _SIZE_HW

    def __init__(self, *, frame_count: int = 100, frame_rate: Fraction = Fraction(20)) -> None:
        if frame_count < len(_SHOTS):
            raise UsageError("the demo is too short", got=frame_count, expected=len(_SHOTS))
        folder = _photo_folder()
        self.paths: tuple[Path, ...] = tuple(folder / shot.file for shot in _SHOTS)
        self._photos = [read_image(path) for path in self.paths]
        self.frame_rate: Fraction | None = frame_rate
        self.frame_count: int | None = frame_count
        self._count = frame_count

    @property
    def middles(self) -> tuple[int, ...]:
        """For each photo, the number of a frame that shows most of it."""
        each = self._count // len(_SHOTS)
        return tuple(
            n * each + (0 if shot.zooms[0] < shot.zooms[1] else each - 1)
            for n, shot in enumerate(_SHOTS)
        )

    def __iter__(self) -> Iterator[Frame]:
        """Draw the frames."""
        each = self._count // len(_SHOTS)
        for index in range(self._count):
            start_s = time.perf_counter()
            shot = min(index // each, len(_SHOTS) - 1)
            length = each if shot < len(_SHOTS) - 1 else self._count - shot * each
            image = _move(
                self._photos[shot], _SHOTS[shot], (index - shot * each) / max(1, length - 1)
            )
            yield Frame(
                image_bgr=image,
                index=index,
                timestamp_s=None,
                captured_at_s=start_s,
                decode_ms=1e3 * (time.perf_counter() - start_s),
                name=f"{self.name}_{index:06d}",
                source=self.name,
            )


def _photo_folder() -> Path:
    """Where scikit-learn keeps its sample images; found without importing it, which takes long."""
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise MissingDependencyError(
            "the demo's photos come with scikit-learn, which is not installed",
            fix='pip install "szn[demo]"',
        )
    folder = Path(found.submodule_search_locations[0]) / "datasets" / "images"
    if not folder.is_dir():
        raise SourceError(
            f"this scikit-learn has no sample images in {folder}", fix='pip install "szn[demo]"'
        )
    return folder


def _move(photo: NDArray[np.uint8], shot: _Shot, progress: float) -> NDArray[np.uint8]:
    """The camera's view of a photo (H, W, 3) at a progress of 0 to 1."""
    eased = progress * progress * (3 - 2 * progress)
    (height, width), (out_h, out_w) = photo.shape[:2], _SIZE_HW
    zoom = shot.zooms[0] + eased * (shot.zooms[1] - shot.zooms[0])
    scale = zoom * max(out_h / height, out_w / width)
    # frame pixel = scale * photo pixel + shift, with the view kept inside the photo
    rows = []
    for axis, (size, out) in enumerate(((width, out_w), (height, out_h))):
        start, end = (centre[axis] for centre in shot.centres_xy)
        middle = (start + eased * (end - start)) * size
        low = out / (2 * scale)
        middle = min(max(middle, low), size - low)
        rows.append(out / 2 - scale * middle)
    matrix = np.array([[scale, 0, rows[0]], [0, scale, rows[1]]])
    moved: NDArray[np.uint8] = cv2.warpAffine(
        photo, matrix, (out_w, out_h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return moved


class ContactSheet(Sink):
    """Chosen frames in one picture: a column each, with photo, overlay and seenmask as rows.

    Args:
        path: The PNG file.
        frames: Numbers of the frames.
        caption: A line below them.

    Raises:
        SinkError: If the file cannot be written.
    """

    wants_overlay: bool = True

    def __init__(self, path: Path, frames: tuple[int, ...], *, caption: str = "") -> None:
        check_file(path)
        self.path: Path | None = path
        self._file, self._frames, self._caption = path, frames, caption
        self._columns: list[NDArray[np.uint8]] = []

    def write(self, result: Result) -> None:
        """Keep a chosen frame; the file is rewritten, so that it is complete at any time."""
        if result.frame.index not in self._frames:
            return
        segmentation = result.segmentation
        tiles = [
            segmentation.image_bgr,
            result.picture(),
            draw_seenmask(segmentation.image_bgr, segmentation.seenmask),
        ]
        self._columns.append(np.vstack([_framed(tile) for tile in tiles]))
        sheet = np.hstack(self._columns)
        sheet = cv2.copyMakeBorder(sheet, _GAP, 24, _GAP, 0, cv2.BORDER_CONSTANT, value=(255,) * 3)
        cv2.putText(
            sheet,
            f"rows: photo, labels, seenmask (orange: taken for unseen)   {self._caption}",
            (_GAP, sheet.shape[0] - 9),
            _FONT,
            0.4,
            (90, 90, 90),
            1,
            cv2.LINE_AA,
        )
        write_png(self._file, sheet)


def _framed(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture with white space on its right and below."""
    framed: NDArray[np.uint8] = cv2.copyMakeBorder(
        tile, 0, _GAP, 0, _GAP, cv2.BORDER_CONSTANT, value=(255,) * 3
    )
    return framed
