"""From the options of a run to its sinks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from szn_runtime.errors import SinkError, UsageError
from szn_runtime.sinks import (
    JsonLines,
    MaskFolder,
    OverlayFolder,
    OverlayImage,
    Sink,
    VideoSink,
    WindowSink,
)
from szn_runtime.sinks.base import check_file
from szn_runtime.sinks.video import VIDEO_SUFFIXES
from szn_runtime.sources import ImageSource, Source

__all__ = ["Outputs", "open_sinks"]

# cameras that name no rate; their timestamps count, the rate only guides the encoder
_USUAL_RATE = Fraction(30)


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a run is to write.

    Args:
        overlay: `.mp4` or `.mkv` for a video, `.png` for the only frame, no suffix for a folder of
            PNG files.
        masks: Folder for label maps.
        records: File for JSON lines.
        report: File for the report.
        show: Whether to open a window.

    Raises:
        UsageError: If a suffix is not known or two outputs are the same place.
    """

    overlay: Path | None = None
    masks: Path | None = None
    records: Path | None = None
    report: Path | None = None
    show: bool = False

    def __post_init__(self) -> None:
        if self.overlay is not None and not self.overlay.is_dir():
            known = {"", ".png", *VIDEO_SUFFIXES}
            if self.overlay.suffix.lower() not in known:
                raise UsageError(
                    f"{self.overlay} is no output that can be written",
                    expected=".mp4 or .mkv, .png for one image, or a folder",
                )
        places = [p.resolve() for p in self._places()]
        if len(set(places)) < len(places):
            raise UsageError("two outputs are the same place", fix="give each a name of its own")

    def _places(self) -> list[Path]:
        return [p for p in (self.overlay, self.masks, self.records, self.report) if p is not None]

    @property
    def any(self) -> bool:
        """Whether anything but the report comes of the run."""
        return self.show or any(p is not None for p in (self.overlay, self.masks, self.records))

    def check_against(self, inputs: Sequence[Path]) -> None:
        """Refuse outputs that would replace what is read.

        Raises:
            SinkError: If an output is an input, or a folder of outputs has PNG inputs in it.
        """
        for path in (p.resolve() for p in inputs):
            for place in self._places():
                target = place.resolve()
                inside = target == path.parent and path.suffix.lower() == ".png"
                if target == path or (inside and place in (self.overlay, self.masks)):
                    raise SinkError(
                        f"{place} is the input" if target == path else f"{place} holds the input",
                        fix="choose another output, the input would be replaced",
                    )


def open_sinks(outputs: Outputs, source: Source, *, on_quit: Callable[[], None]) -> list[Sink]:
    """Make the sinks of a run; nothing is written yet.

    Args:
        outputs: What is asked for.
        source: Where the frames come from.
        on_quit: Called when the user closes the window.

    Raises:
        SinkError: If an output cannot be written, or would replace the input.
        UsageError: If one image file is asked for from more than one frame.
    """
    outputs.check_against(source.paths)
    sinks: list[Sink] = []
    overlay = outputs.overlay
    if overlay is not None and overlay.is_dir():
        sinks.append(OverlayFolder(overlay))
    elif overlay is not None and overlay.suffix.lower() in VIDEO_SUFFIXES:
        rate = source.frame_rate or _USUAL_RATE
        sinks.append(VideoSink(overlay, frame_rate=rate, time_base=source.time_base))
    elif overlay is not None and overlay.suffix.lower() == ".png":
        if not isinstance(source, ImageSource) or source.frame_count != 1:
            raise UsageError(
                f"{overlay} holds one image, {source.name} gives more",
                fix="give a folder or an .mp4 file with -o",
            )
        sinks.append(OverlayImage(overlay))
    elif overlay is not None:
        sinks.append(OverlayFolder(overlay))
    if outputs.masks is not None:
        sinks.append(MaskFolder(outputs.masks))
    if outputs.records is not None:
        sinks.append(JsonLines(outputs.records))
    if outputs.report is not None:
        check_file(outputs.report)
    if outputs.show:
        sinks.append(WindowSink(on_quit))
    return sinks
