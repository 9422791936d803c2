"""OpenCV, or a message that says how to install what it misses."""

from __future__ import annotations

from szn_runtime.errors import MissingDependencyError

try:
    import cv2
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "OpenCV is not installed",
        fix="`pip install opencv-python`, or `pip install opencv-python-headless` on a machine "
        "without a display",
    ) from error
except ImportError as error:
    raise MissingDependencyError(
        f"OpenCV cannot be loaded ({error})",
        fix="install the system library it names (Debian, Ubuntu: `apt-get install libgl1 "
        "libglib2.0-0`), or take the wheel without windows: `pip uninstall -y opencv-python && "
        "pip install opencv-python-headless`",
    ) from error

__all__ = ["cv2"]
