"""Where frames come from: images, videos, cameras, streams."""

from __future__ import annotations

from szn_runtime.sources.base import Frame, Source
from szn_runtime.sources.camera import CameraSource
from szn_runtime.sources.images import ImageSource
from szn_runtime.sources.opening import open_source
from szn_runtime.sources.synthetic import SyntheticSource
from szn_runtime.sources.video import VideoSource

__all__ = [
    "CameraSource",
    "Frame",
    "ImageSource",
    "Source",
    "SyntheticSource",
    "VideoSource",
    "open_source",
]
