from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from szn_runtime.errors import SourceError
from szn_runtime.sources import CameraSource, Frame, ImageSource, VideoSource, open_source
from szn_runtime.sources.content import describe_content
from tests.runtime.clips import number_of, ramp_frame, write_clip


def write_image(path: Path, number: int = 3) -> Path:
    cv2.imwrite(str(path), ramp_frame(number))
    return path


def test_image_is_one_frame(tmp_path: Path) -> None:
    with open_source(write_image(tmp_path / "cow.png")) as source:
        (frame,) = list(source)
    assert isinstance(source, ImageSource)
    assert (source.name, source.live, source.frame_count) == ("cow", False, 1)
    assert (frame.name, frame.index, frame.timestamp_s) == ("cow", 0, None)
    assert frame.decode_ms > 0
    np.testing.assert_array_equal(frame.image_bgr, ramp_frame(3))


def test_grey_and_transparent_images_become_three_channels(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 5), 9, np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.full((4, 5, 4), 9, np.uint8))
    cv2.imwrite(str(tmp_path / "c.png"), np.full((4, 5), 9 * 257, np.uint16))
    for frame in open_source(tmp_path):
        np.testing.assert_array_equal(frame.image_bgr, np.full((4, 5, 3), 9, np.uint8))


def test_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write_image(tmp_path / f"shot_{number}.png", number)
    (tmp_path / "notes.txt").write_text("not an image")
    source = open_source(tmp_path, frame_rate=Fraction(5))
    frames = list(source)
    assert [number_of(frame.image_bgr) for frame in frames] == [1, 2, 10]
    assert [frame.name for frame in frames] == ["shot_1", "shot_2", "shot_10"]
    assert (source.frame_count, source.frame_rate) == (3, Fraction(5))


def test_glob_over_folders_gives_names_that_differ(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "cow.png")
    write_image(tmp_path / "b" / "cow.jpg")
    names = [frame.name for frame in open_source(f"{tmp_path}/*/cow.*")]
    assert names == ["cow", "cow-2", "cow-3"]


def test_a_file_may_have_a_name_that_looks_like_a_glob(tmp_path: Path) -> None:
    path = write_image(tmp_path / "cow[1].png")
    assert open_source(path).paths == (path,)


def test_image_under_another_name_is_still_an_image(tmp_path: Path) -> None:
    path = write_image(tmp_path / "cow.png").rename(tmp_path / "cow.dat")
    assert isinstance(open_source(path), ImageSource)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mp4", b"hello world\n" * 50, r"a\.mp4 is not a video: got plain text, expected a comp"),
        ("a.jpg", b"hello world\n", r"a\.jpg is not an image: got plain text, expected an undam"),
        ("a.png", b"", r"a\.png is not an image: got an empty file"),
        ("a.mp4", b"", r"a\.mp4 is not a video: got an empty file"),
        ("a.mkv", bytes(range(256)) * 4, r"a\.mkv is not a video: got unknown data"),
        ("a.png", b"\x89PNG\r\n\x1a\n", r"a\.png is not an image: got a damaged PNG image"),
        ("a.avi", b"%PDF-1.7" + b"\0" * 99, r"a\.avi is not a video: got a PDF document"),
    ],
)
def test_files_that_are_not_what_their_name_says(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        list(open_source(tmp_path / name))


def test_places_without_a_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone\.png does not exist; check the path"):
        open_source(tmp_path / "gone.png")
    with pytest.raises(SourceError, match="holds no image: got nothing"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match=r"no file matches .*\*\.png"):
        open_source(f"{tmp_path}/*.png")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(SourceError, match=r"a\.\* holds no image: got 1 other files"):
        open_source(f"{tmp_path}/a.*")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001)])
def test_video_gives_every_frame_with_its_exact_rate(
    tmp_path: Path, suffix: str, rate: Fraction
) -> None:
    path = write_clip(tmp_path / f"clip{suffix}", frames=12, rate=rate)
    with open_source(path) as source:
        frames = list(source)
    assert isinstance(source, VideoSource)
    assert source.frame_rate == rate
    assert not source.live
    assert [number_of(frame.image_bgr) for frame in frames] == list(range(12))
    assert [frame.index for frame in frames] == list(range(12))
    for frame in frames:
        assert frame.timestamp_s == pytest.approx(frame.index / float(rate), abs=6e-4)
        assert frame.image_bgr.shape == (48, 64, 3)
        assert frame.image_bgr.flags.c_contiguous
    assert frames[3].name == "clip_000003"


def test_frames_are_memory_of_their_own(tmp_path: Path) -> None:
    source = VideoSource(write_clip(tmp_path / "clip.mp4", frames=3))
    frames = [frame.image_bgr for frame in source]
    frames[0][:] = 0
    assert [number_of(image) for image in frames[1:]] == [1, 2]


def test_variable_rate_timestamps_are_kept(tmp_path: Path) -> None:
    times_s = [0.0, 0.1, 0.15, 0.5, 0.52]
    path = write_clip(tmp_path / "clip.mkv", frames=5, times_s=times_s)
    assert [frame.timestamp_s for frame in open_source(path)] == pytest.approx(times_s, abs=1e-3)


def test_recordings_of_a_turned_phone_are_upright(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=2, size_hw=(48, 64))
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes before the 3 x 3 matrix
    one, minus = (0x10000).to_bytes(4, "big"), (-0x10000).to_bytes(4, "big", signed=True)
    zero, unit = bytes(4), (0x40000000).to_bytes(4, "big")
    # shown turned clockwise by 90 degrees, as phones held upright record
    data[matrix : matrix + 36] = b"".join((zero, one, zero, minus, zero, zero, zero, zero, unit))
    path.write_bytes(data)
    assert [frame.image_bgr.shape for frame in open_source(path)] == [(64, 48, 3)] * 2


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_cut_off_video_gives_its_frames_and_then_one_error(tmp_path: Path, suffix: str) -> None:
    options = {"options": {"movflags": "faststart"}} if suffix == ".mp4" else {}
    path = cut(write_clip(tmp_path / f"clip{suffix}", frames=30, noise=True, **options), 0.6)
    frames: list[Frame] = []
    with open_source(path) as source, pytest.raises(SourceError, match="damaged or cut off"):
        frames.extend(source)  # keeps what came before the error
    assert 12 <= len(frames) <= 20


def test_a_video_cut_before_its_index_is_no_video(tmp_path: Path) -> None:
    path = cut(write_clip(tmp_path / "clip.mp4", noise=True), 0.5)
    with pytest.raises(SourceError, match="is not a video: got a damaged MP4 file"):
        open_source(path)


def test_damage_in_the_middle_is_passed_over_and_reported(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=30, noise=True)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(data)
    frames: list[Frame] = []
    with open_source(path) as source, pytest.raises(SourceError, match="damaged, expected 30;"):
        frames.extend(source)
    assert len(frames) >= 25


def test_a_file_with_sound_only_holds_no_video(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(SourceError, match="holds no video: got audio"):
        open_source(tmp_path / "a.mp4")


def test_a_camera_that_is_not_there_is_one_quiet_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError, match="camera 63 cannot be opened; check that it is connected"):
        open_source("camera:63")
    assert capfd.readouterr() == ("", "")


def test_a_camera_is_live_and_ends_with_an_error(tmp_path: Path) -> None:
    # OpenCV opens a file as it opens a device, up to the last frame
    path = write_clip(tmp_path / "clip.mp4", frames=5, rate=Fraction(30000, 1001))
    frames: list[Frame] = []
    with CameraSource(str(path)) as camera:
        assert (camera.live, camera.frame_rate) == (True, Fraction(30000, 1001))
        with pytest.raises(SourceError, match="delivers no frame: got nothing after 5 frames"):
            frames.extend(camera)
        assert [number_of(frame.image_bgr) for frame in frames] == list(range(5))
        assert camera.paths == ()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A web server for a folder on this machine alone; gives its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_video_at_an_address_is_a_file_not_a_live_source(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", frames=6, options={"movflags": "faststart"})
    with serving(tmp_path) as address, open_source(f"{address}/clip.mp4?x=1") as source:
        assert (source.name, source.live, source.paths) == ("clip", False, ())
        assert [number_of(frame.image_bgr) for frame in source] == list(range(6))


def test_addresses_without_a_video(tmp_path: Path) -> None:
    gone = pytest.raises(SourceError, match=r"gone\.mp4 cannot be opened: got .*404")
    with serving(tmp_path) as address, gone:
        open_source(f"{address}/gone.mp4")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(SourceError) as raised:
        open_source(f"rtsp://user:secret@127.0.0.1:{port}/x")
    assert "Connection refused" in str(raised.value)
    assert "rtsp://user:***@127.0.0.1" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_sender_that_says_nothing_times_out() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"http://127.0.0.1:{mute.getsockname()[1]}/clip.mp4"
        with pytest.raises(SourceError, match=r"cannot be opened: got no data for 0\.5 s"):
            VideoSource(address, timeout_s=0.5)


def test_contents_are_named() -> None:
    assert describe_content(b"") == "an empty file"
    assert describe_content("Grüße\n".encode()[:3]) == "plain text"  # cut inside a character
    assert describe_content(b"\xff\xd8\xff\xe0") == "a damaged JPEG image"
    assert describe_content(b"RIFF\0\0\0\0WAVE") == "a RIFF file (WAVE)"
    assert describe_content(b"PK\x03\x04") == "a ZIP archive"
    assert describe_content(os.urandom(8) + b"\0\xff" * 64) == "unknown data"
