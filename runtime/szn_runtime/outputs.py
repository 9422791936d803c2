"""From the options of a run to its sinks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from szn_runtime.errors import SinkError, UsageError
from szn_runtime.pipeline import Lane
from szn_runtime.sinks import (
    ConfidenceFolder,
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

__all__ = ["Outputs", "open_lanes"]

# cameras that name no rate; their timestamps count, the rate only guides the encoder
_USUAL_RATE = Fraction(30)


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a run is to write.

    Args:
        overlay: `.mp4` or `.mkv` for a video, `.png` for the only frame, no suffix for a folder of
            PNG files.
        masks: Folder for label maps.
        confidence: Folder for confidence maps.
        records: File for JSON lines.
        top_k: Words for each region in the JSON lines, 0 for no regions.
        report: File for the report.
        show: Whether to open a window.

    Raises:
        UsageError: If a suffix is not known or two outputs are the same place.
    """

    overlay: Path | None = None
    masks: Path | None = None
    confidence: Path | None = None
    records: Path | None = None
    top_k: int = 0
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
        if self.top_k and self.records is None:
            raise UsageError("--top-k is for the JSON lines", fix="add --json FILE")
        places = [p.resolve() for p in self._places()]
        if len(set(places)) < len(places):
            raise UsageError("two outputs are the same place", fix="give each a name of its own")

    def _places(self) -> list[Path]:
        files = (self.overlay, self.masks, self.confidence, self.records, self.report)
        return [path for path in files if path is not None]

    @property
    def any(self) -> bool:
        """Whether anything but the report comes of the run."""
        files = (self.overlay, self.masks, self.confidence, self.records)
        return self.show or any(path is not None for path in files)

    def for_source(self, name: str) -> Outputs:
        """The outputs of one of several sources.

        Args:
            name: Of the source; it stands for `{name}` in paths, and is the subfolder where the
                path is a folder without `{name}`. JSON lines of all sources may go to one file.

        Raises:
            UsageError: If several sources would write to one file.
        """

        def own(path: Path | None) -> Path | None:
            if path is None:
                return None
            if "{name}" in str(path):
                return Path(str(path).replace("{name}", name))
            if path.suffix and not path.is_dir():
                raise UsageError(
                    f"{path} is one file for several sources",
                    fix=f"put {{name}} into it, such as {path.with_stem(path.stem + '-{name}')}",
                )
            return path / name

        shared = self.records is not None and "{name}" not in str(self.records)
        return replace(
            self,
            overlay=own(self.overlay),
            masks=own(self.masks),
            confidence=own(self.confidence),
            records=self.records if shared else own(self.records),
        )

    def check_against(self, inputs: Sequence[Path]) -> None:
        """Refuse outputs that would replace what is read.

        Raises:
            SinkError: If an output is an input, or a folder of outputs has PNG inputs in it.
        """
        for path in (p.resolve() for p in inputs):
            for place in self._places():
                target = place.resolve()
                inside = target == path.parent and path.suffix.lower() == ".png"
                if target == path or (
                    inside and place in (self.overlay, self.masks, self.confidence)
                ):
                    raise SinkError(
                        f"{place} is the input" if target == path else f"{place} holds the input",
                        fix="choose another output, the input would be replaced",
                    )


def open_lanes(
    outputs: Outputs, sources: Sequence[Source], *, on_quit: Callable[[], None]
) -> list[Lane]:
    """Make the sinks of a run; nothing is written yet.

    Args:
        outputs: What is asked for.
        sources: Where the frames come from; those of one name get different ones.
        on_quit: Called when the user closes a window.

    Raises:
        SinkError: If an output cannot be written, or would replace an input.
        UsageError: If one file is asked for from more than one frame or source.
    """
    _tell_apart(sources)
    several = len(sources) > 1
    each = [outputs.for_source(s.name) if several else outputs for s in sources]
    for own in each:
        own.check_against([path for source in sources for path in source.paths])
    records = JsonLines(outputs.records, top_k=outputs.top_k) if outputs.records else None
    lanes = []
    for source, own in zip(sources, each, strict=True):
        sinks = _sinks(own, source, on_quit, several)
        if own.records is not None:
            shared = own.records == outputs.records
            sinks.append(records if shared and records else JsonLines(own.records, top_k=own.top_k))
        lanes.append(Lane(source=source, sinks=sinks))
    if outputs.report is not None:
        check_file(outputs.report)
    return lanes


def _tell_apart(sources: Sequence[Source]) -> None:
    """Number the names of sources that have the same: `clip`, `clip-2`."""
    taken: set[str] = set()
    for source in sources:
        name, number = source.name, 2
        while name in taken:
            name, number = f"{source.name}-{number}", number + 1
        taken.add(name)
        source.name = name


def _sinks(
    outputs: Outputs, source: Source, on_quit: Callable[[], None], several: bool
) -> list[Sink]:
    """The sinks of one source, but for the JSON lines."""
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
    if outputs.confidence is not None:
        sinks.append(ConfidenceFolder(outputs.confidence))
    if outputs.show:
        sinks.append(WindowSink(on_quit, name=source.name if several else None))
    return sinks
