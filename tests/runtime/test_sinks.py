from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from szn_runtime.errors import SinkError, UsageError
from szn_runtime.labels import LabelSet
from szn_runtime.overlay import palette
from szn_runtime.sinks import (
    ConfidenceFolder,
    JsonLines,
    MaskFolder,
    OverlayFolder,
    OverlayImage,
    Result,
    VideoSink,
    WindowSink,
)
from szn_runtime.sinks.png import encode_label_png
from szn_runtime.sources import Frame
from tests.conftest import REPOSITORY
from tests.runtime import catalogue
from tests.runtime.clips import decoded, number_of, ramp_frame, times_of

NTSC = Fraction(30000, 1001)


def result(
    index: int = 0,
    *,
    size_hw: tuple[int, int] = (48, 64),
    timestamp_s: float | None = None,
    labels: NDArray[np.integer] | None = None,
    label_set: LabelSet | None = None,
) -> Result:
    """A result whose overlay is a ramp frame that tells its number."""
    image = ramp_frame(index, size_hw=size_hw)
    if labels is None:
        labels = np.zeros(size_hw, np.uint8)
    frame = Frame(
        image_bgr=image,
        index=index,
        timestamp_s=timestamp_s,
        captured_at_s=0.0,
        decode_ms=0.0,
        name=f"clip_{index:06d}",
        source="clip",
    )
    segmentation = catalogue.segmentation(labels, label_set=label_set, image_bgr=image)
    return Result(frame=frame, segmentation=segmentation, overlay=image)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_video_holds_every_frame_at_the_exact_rate(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with VideoSink(path, frame_rate=NTSC) as sink:
        for index in range(45):
            sink.write(result(index % 40))
    frames = decoded(path)
    assert [number_of(frame) for frame in frames] == [index % 40 for index in range(45)]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == NTSC
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    if suffix == ".mp4":  # Matroska rounds to milliseconds
        assert times_of(path) == [n / NTSC for n in range(45)]


def test_a_complete_mp4_is_an_ordinary_one(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoSink(path, frame_rate=Fraction(25)) as sink:
        for index in range(30):
            sink.write(result(index))
    data, boxes, at = path.read_bytes(), [], 0
    while at < len(data):
        boxes.append(data[at + 4 : at + 8].decode())
        at += int.from_bytes(data[at : at + 4], "big")
    assert boxes == ["ftyp", "free", "mdat", "moov"]  # no fragment: moof
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 30


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_an_abandoned_video_plays_up_to_the_last_seconds(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    sink = VideoSink(path, frame_rate=Fraction(10))
    for index in range(60):
        sink.write(result(index % 40))
    data = path.read_bytes()  # what a process that is killed here leaves behind
    sink.close()
    torn = tmp_path / f"torn{suffix}"
    torn.write_bytes(data)
    frames = decoded(torn)
    assert 40 <= len(frames) <= 60
    assert [number_of(frame) for frame in frames] == [n % 40 for n in range(len(frames))]


_WRITER = """
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from szn_runtime.sinks import VideoSink
from tests.runtime.test_sinks import result
sink = VideoSink(Path(sys.argv[1]), frame_rate=Fraction(sys.argv[2]))
for index in range(100_000):
    sink.write(result(index % 40))
    print(index + 1, flush=True)
"""


@pytest.mark.parametrize("rate", [5, 15, 60])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_killed_process_leaves_all_but_two_seconds(
    tmp_path: Path, suffix: str, rate: int
) -> None:
    path = tmp_path / f"out{suffix}"
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), str(rate)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as writer:
        assert writer.stdout is not None
        lines = iter(writer.stdout)
        written = next(n for n in map(int, lines) if n >= 6 * rate + 7)
        writer.kill()
        written = max([written, *(int(line) for line in lines if line.endswith("\n"))])
    assert writer.returncode == -signal.SIGKILL
    frames = decoded(path)
    assert [number_of(frame) for frame in frames] == [n % 40 for n in range(len(frames))]
    assert written - 2 * rate <= len(frames) <= written + 1


def test_timestamps_of_the_source_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoSink(path, frame_rate=Fraction(25), time_base=Fraction(1, 1000)) as sink:
        for index, time_s in enumerate((0.5, 0.54, 0.6, 1.5)):
            sink.write(result(index, timestamp_s=time_s))
    assert times_of(path) == [0, Fraction(1, 25), Fraction(1, 10), 1]


@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_any_size_is_padded_to_even(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int
) -> None:
    path = tmp_path_factory.mktemp("size") / "out.mp4"
    with VideoSink(path, frame_rate=Fraction(25)) as sink:
        sink.write(result(20, size_hw=(height, width)))
    (frame,) = decoded(path)
    assert frame.shape == (height + height % 2, width + width % 2, 3)
    assert number_of(frame) == 20


def test_frames_of_another_size_are_fitted_between_borders(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoSink(path, frame_rate=Fraction(25), crf=5) as sink:
        sink.write(result(30, size_hw=(48, 64)))
        sink.write(result(30, size_hw=(96, 32)))
    fitted = decoded(path)[1].mean(axis=2)
    assert fitted.shape == (48, 64)
    assert fitted[:, :20].mean() < 10
    assert fitted[:, 28:36].mean() == pytest.approx(170, abs=6)  # 16 columns in the middle


def test_colours_survive_and_are_declared(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    image = catalogue.frame("red", "green", "blue", height=48, width=96)
    painted = result(0, size_hw=(48, 96))
    with VideoSink(path, frame_rate=Fraction(25), crf=5) as sink:
        sink.write(Result(frame=painted.frame, segmentation=painted.segmentation, overlay=image))
    with av.open(str(path)) as container:
        (frame,) = container.decode(video=0)
    assert (frame.colorspace, frame.color_range) == (6, 1)  # BT.601, limited range
    shown = frame.to_ndarray(format="bgr24").astype(int)
    for column in (16, 48, 80):
        assert np.abs(shown[24, column] - image[24, column]).max() <= 12


def test_a_video_without_frames_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"precious")
    with VideoSink(path, frame_rate=Fraction(25)):
        pass
    assert path.read_bytes() == b"precious"


def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    path.symlink_to("/dev/full")
    rng = np.random.default_rng(0)

    def fill(sink: VideoSink) -> None:
        for index in range(60):
            noise = result(index % 40, size_hw=(240, 320))
            picture = rng.integers(0, 256, (240, 320, 3), np.uint8)
            sink.write(Result(frame=noise.frame, segmentation=noise.segmentation, overlay=picture))

    with pytest.raises(SinkError, match=r"out\.mkv cannot be written: got No space left"):  # noqa: SIM117
        with VideoSink(path, frame_rate=Fraction(25), preset="ultrafast") as sink:
            fill(sink)


@pytest.mark.parametrize("kind", [VideoSink, OverlayImage, JsonLines])
def test_places_that_are_no_file(tmp_path: Path, kind: type) -> None:
    options = {"frame_rate": Fraction(25)} if kind is VideoSink else {}
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(SinkError, match=r"folder\.mp4 cannot be written: got a folder"):
        kind(tmp_path / "folder.mp4", **options)
    with pytest.raises(SinkError, match=r"file.* cannot be written: got (a file|Not a directory)"):
        kind(tmp_path / "file" / "out.mp4", **options)
    with pytest.raises(SinkError, match="cannot be written"):
        kind(Path("/proc/nowhere/out.mp4"), **options)


@pytest.mark.parametrize("kind", [OverlayFolder, MaskFolder])
def test_places_that_are_no_folder(tmp_path: Path, kind: type) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SinkError, match="file cannot be written: got a file, expected a folder"):
        kind(tmp_path / "file")
    assert kind(tmp_path / "new" / "deep").path.is_dir()


def test_overlay_images(tmp_path: Path) -> None:
    with OverlayFolder(tmp_path / "all") as folder:
        for index in range(3):
            folder.write(result(index))
    names = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert names == [f"clip_{index:06d}.png" for index in range(3)]
    assert number_of(cv2.imread(str(tmp_path / "all" / names[2]))) == 2
    with OverlayImage(tmp_path / "one.png") as image:
        image.write(result(7))
        with pytest.raises(SinkError, match=r"one\.png holds one frame; give a folder"):
            image.write(result(8))
    assert number_of(cv2.imread(str(tmp_path / "one.png"))) == 7


@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    count=st.sampled_from([1, 2, 21, 255, 256, 5000, 65535]),
    seed=st.integers(0, 2**32 - 1),
)
def test_masks_hold_the_index(height: int, width: int, count: int, seed: int) -> None:
    dtype = np.uint8 if count <= 255 else np.uint16
    labels = np.random.default_rng(seed).integers(0, count, (height, width)).astype(dtype)
    data = encode_label_png(labels, count)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(image), labels)
        assert image.mode == ("P" if count <= 255 else "I;16")
        if count <= 255:
            assert image.getpalette() == palette(256).ravel().tolist()
    if count > 255:
        read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(read, labels)


def test_too_many_labels_for_a_mask() -> None:
    with pytest.raises(SinkError, match="got 70000 labels, expected at most 65535"):
        encode_label_png(np.zeros((2, 2), np.int32), 70_000)


def test_masks_are_named_as_their_frames(tmp_path: Path) -> None:
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    with MaskFolder(tmp_path) as sink:
        sink.write(result(4, size_hw=(2, 3), labels=labels))
    with Image.open(tmp_path / "clip_000004.png") as image:
        np.testing.assert_array_equal(np.asarray(image), labels)


def test_json_lines_hold_the_shares(tmp_path: Path) -> None:
    labels = np.zeros((4, 4), np.uint8)
    labels[0] = 4  # green
    path = tmp_path / "shares.jsonl"
    with JsonLines(path) as sink:
        sink.write(result(0, size_hw=(4, 4), labels=labels, timestamp_s=0.0))
        assert len(path.read_text().splitlines()) == 1  # complete before the next one
        sink.write(result(1, size_hw=(4, 4)))
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {
        "source": "clip",
        "frame": 0,
        "name": "clip_000000",
        "timestamp_s": 0.0,
        "size_hw": [4, 4],
        "shares": {"red": 0.75, "green": 0.25},
        "unseen": ["green"],
    }
    assert second["timestamp_s"] is None
    assert second["shares"] == {"red": 1.0}


def test_no_display_is_an_error_not_an_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SinkError, match="no window can be opened: expected a display"):
        WindowSink(lambda: None)
    monkeypatch.setenv("DISPLAY", ":987")  # set, but nobody is there
    with pytest.raises(SinkError, match="no window can be opened: expected a display"):
        WindowSink(lambda: None)


def test_regions_and_their_words_in_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    labels = np.zeros((10, 20), np.uint8)
    labels[:, 15:] = 5
    embedding = catalogue.colour_embedding(catalogue.COLOURS_RGB["red"])[:, None, None]
    segmentation = catalogue.segmentation(labels, embedding=embedding)
    made = result(0, size_hw=(10, 20))
    with JsonLines(path, top_k=2) as sink:
        sink.write(replace(made, segmentation=segmentation))
    record = json.loads(path.read_text())
    first, second = record["regions"]
    assert (first["label"], first["share"], first["box_xyxy"]) == ("red", 0.75, [0, 0, 15, 10])
    assert (second["label"], second["box_xyxy"]) == ("blue", [15, 0, 20, 10])
    assert first["words"][0] == ["red", 1.0]
    assert len(first["words"]) == 2
    with pytest.raises(UsageError, match="words per region are out of range: got -1"):
        JsonLines(path, top_k=-1)


def test_confidence_maps(tmp_path: Path) -> None:
    labels = np.array([[0, 0], [5, 5]], np.uint8)
    cosines = np.array([[1.0, 0.5], [0.0, -0.7]], np.float32)
    segmentation = catalogue.segmentation(labels, cosines=cosines)
    with ConfidenceFolder(tmp_path / "sure") as sink:
        sink.write(replace(result(3, size_hw=(2, 2)), segmentation=segmentation))
    drawn = cv2.imread(str(tmp_path / "sure" / "clip_000003.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(drawn, [[255, 128], [0, 0]])
