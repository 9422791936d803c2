"""Where results go: videos, images, masks, JSON lines, a window."""

from __future__ import annotations

from szn_runtime.sinks.base import Result, Sink
from szn_runtime.sinks.images import ConfidenceFolder, MaskFolder, OverlayFolder, OverlayImage
from szn_runtime.sinks.records import JsonLines
from szn_runtime.sinks.video import VideoSink
from szn_runtime.sinks.window import WindowSink

__all__ = [
    "ConfidenceFolder",
    "JsonLines",
    "MaskFolder",
    "OverlayFolder",
    "OverlayImage",
    "Result",
    "Sink",
    "VideoSink",
    "WindowSink",
]
