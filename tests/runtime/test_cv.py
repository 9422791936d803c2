from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("error", "remedies"),
    [
        (
            'ImportError("libGL.so.1: cannot open shared object file")',
            ("libGL.so.1", "apt-get install libgl1", "pip install opencv-python-headless"),
        ),
        (
            'ModuleNotFoundError("No module named cv2")',
            ("OpenCV is not installed", "pip install opencv-python"),
        ),
    ],
)
def test_opencv_that_does_not_load_is_one_line(
    tmp_path: Path, error: str, remedies: tuple[str, ...]
) -> None:
    (tmp_path / "cv2.py").write_text(f"raise {error}\n")
    result = subprocess.run(
        [sys.executable, "-c", "from szn_runtime.cli import main; main()", "photo.png"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    for remedy in remedies:
        assert remedy in result.stderr
