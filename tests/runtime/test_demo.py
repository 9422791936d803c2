from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from szn_runtime.cli import main
from szn_runtime.demo import DemoSource
from szn_runtime.errors import MissingDependencyError, UsageError
from tests.runtime import catalogue
from tests.runtime.clips import decoded


def test_demo_writes_video_contact_sheet_and_report(tmp_path: Path) -> None:
    tiny = catalogue.tiny_bundle(tmp_path / "tiny")
    out = tmp_path / "out"
    outcome = CliRunner().invoke(
        main,
        ["--demo", "-o", str(out), "--bundle", str(tiny), "--backend", "fake", "--limit", "8"],
    )
    assert outcome.exit_code == 0, outcome.output
    for name in ("overlay.mp4", "contact-sheet.png", "report.json"):
        assert f"wrote {out / name}" in outcome.output
    assert [frame.shape for frame in decoded(out / "overlay.mp4")] == [(424, 640, 3)] * 8
    sheet = cv2.imread(str(out / "contact-sheet.png"))
    # two columns and three rows of frames, white gaps, a caption
    assert sheet.shape == (8 + 3 * (424 + 8) + 24, 8 + 2 * (640 + 8), 3)
    first = next(iter(DemoSource(frame_count=8))).image_bgr
    np.testing.assert_array_equal(sheet[8:432, 8:648], first)
    assert json.loads((out / "report.json").read_text())["frames"] == 8


def test_clip_moves_smoothly_over_both_photos() -> None:
    source = DemoSource(frame_count=20)
    frames = [frame.image_bgr.astype(np.int16) for frame in source]
    assert len(frames) == source.frame_count == 20
    change = [float(np.abs(a - b).mean()) for a, b in itertools.pairwise(frames)]
    assert np.argmax(change) == 9  # the cut between the photos
    assert max(change[:9] + change[10:]) < change[9] / 2
    assert min(np.array(change)[[1, 5, 12, 17]]) > 0.5
    assert source.middles == (0, 19)


def test_every_length_shows_every_frame() -> None:
    for count in (2, 3, 7):
        names = [frame.name for frame in DemoSource(frame_count=count)]
        assert names == [f"demo_{index:06d}" for index in range(count)]
    with pytest.raises(UsageError, match="the demo is too short: got 1, expected 2"):
        DemoSource(frame_count=1)


def test_without_scikit_learn_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingDependencyError, match=r'not installed; pip install "szn\[demo\]"'):
        DemoSource()
