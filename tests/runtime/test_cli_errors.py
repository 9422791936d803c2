from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner, Result

from szn_runtime.cli import main
from tests.runtime import catalogue
from tests.runtime.clips import decoded, write_clip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(catalogue.tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "photo.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), catalogue.frame("red", "green", "blue", "white"))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def error_of(outcome: Result) -> str:
    """The only line that a failed command printed last."""
    assert outcome.exit_code == 1, outcome.output
    lines = outcome.output.strip().splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    assert "internal error" not in lines[-1]
    return lines[-1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.mp4", None, "gone.mp4 does not exist; check the path"),
        ("text.mp4", "hello\n" * 99, "text.mp4 is not a video: got plain text"),
        ("text.jpg", "hello\n" * 99, "text.jpg is not an image: got plain text"),
        ("*.webp", None, "no file matches"),
        ("", None, "holds no image: got nothing"),
    ],
)
def test_inputs_that_cannot_be_read(
    tiny: str, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    if content is not None:
        (folder / name).write_text(content)
    out = tmp_path / "out.mp4"
    outcome = run(folder / name, "--bundle", tiny, "--backend", "fake", "-o", out)
    assert message in error_of(outcome)
    assert not out.exists()


def test_a_camera_that_is_not_there(tiny: str) -> None:
    message = error_of(run("--camera", 63, "--bundle", tiny))
    assert "camera 63 cannot be opened" in message


def test_labels_that_nobody_knows(tiny: str, photo: Path) -> None:
    message = error_of(
        run(photo, "--bundle", tiny, "--backend", "fake", "--labels", "red, magentta")
    )
    assert "unknown word 'magentta'" in message
    assert "did you mean magenta?" in message


def test_models_that_cannot_be_loaded(tmp_path: Path, photo: Path) -> None:
    assert "nowhere" in error_of(run(photo, "--bundle", tmp_path / "nowhere"))
    broken = catalogue.tiny_bundle(tmp_path / "broken")
    (broken / "labels.npz").write_bytes(b"x")
    assert "labels.npz" in error_of(run(photo, "--bundle", broken))


def test_backends_that_do_not_exist(tiny: str, photo: Path) -> None:
    message = error_of(run(photo, "--bundle", tiny, "--backend", "abacus"))
    assert "there is no backend 'abacus': expected one of auto, fake, onnx" in message


def test_outputs_that_cannot_be_written(tiny: str, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    common = (photo, "--bundle", tiny, "--backend", "fake")
    for option, place in (
        ("-o", tmp_path / "file" / "o.mp4"),
        ("-o", tmp_path / "file"),
        ("--masks", tmp_path / "file"),
        ("--json", tmp_path / "folder"),
        ("--report", tmp_path / "folder"),
        ("-o", Path("/proc/nowhere/o.png")),
    ):
        assert f"{place} cannot be written" in error_of(run(*common, option, place)) or (
            place.name.startswith("o.")
        )


def test_outputs_that_would_replace_the_input(tiny: str, photo: Path) -> None:
    before = photo.read_bytes()
    common = (photo, "--bundle", tiny, "--backend", "fake")
    assert "is the input; choose another output" in error_of(run(*common, "-o", photo))
    assert "holds the input" in error_of(run(*common, "-o", photo.parent))
    assert "holds the input" in error_of(run(*common, "--masks", photo.parent))
    assert photo.read_bytes() == before


def test_no_display(tiny: str, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    message = error_of(run(photo, "--bundle", tiny, "--show"))
    assert "no window can be opened: expected a display" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give INPUT, --camera or --demo"),
        (("a.mp4", "--demo"), "give INPUT, --camera or --demo"),
        (("a.mp4", "-o", "b.gif"), "b.gif is no output that can be written: expected .mp4"),
        (("a.mp4", "--json", "x", "--report", "x"), "two outputs are the same place"),
        (("--demo", "-o", "b.mp4"), "--demo writes several files: got -o b.mp4"),
        (("a.png", "--rate", "fast"), "--rate is no frame rate: got fast, expected 25, 29.97"),
        (("a.png", "--rate", "1/0"), "--rate is no frame rate"),
        (("a.mp4", "--batch", "0"), "--batch"),
        (("a.mp4", "--policy", "newest"), "--policy"),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], message: str) -> None:
    outcome = run(*arguments)
    assert outcome.exit_code == 2
    assert message in outcome.output


def test_one_image_file_cannot_hold_a_video(tiny: str, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", frames=3)
    outcome = run(clip, "--bundle", tiny, "-o", tmp_path / "out.png")
    assert outcome.exit_code == 2
    assert "holds one image, in gives more; give a folder" in outcome.output


def test_a_damaged_video_keeps_its_frames_and_its_report(tiny: str, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mkv", frames=30, noise=True)
    clip.write_bytes(clip.read_bytes()[:-20_000])
    out, report = tmp_path / "out.mp4", tmp_path / "r.json"
    outcome = run(clip, "--bundle", tiny, "--backend", "fake", "-o", out, "--report", report)
    assert "in.mkv is damaged or cut off" in error_of(outcome)
    document = json.loads(report.read_text())
    assert 3 <= document["frames"] < 30
    assert "damaged or cut off" in document["error"]
    assert len(decoded(out)) == document["frames"]
    assert f"{document['frames']} frames" in outcome.output
