from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from szn_runtime.cli import main
from tests.runtime import catalogue
from tests.runtime.clips import decoded, times_of, write_clip


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


def test_an_image_without_outputs_prints_shares_and_report(tiny: str, photo: Path) -> None:
    outcome = run(photo, "--bundle", tiny, "--backend", "fake")
    assert outcome.exit_code == 0, outcome.output
    words = outcome.output.split()
    for name, seen in (("red", "seen"), ("green", "unseen"), ("blue", "unseen")):
        assert words[words.index(name) + 4] == seen
    assert "capture to output" in outcome.output
    assert "wrote" not in outcome.output


def test_an_image_into_every_kind_of_output(tiny: str, photo: Path, tmp_path: Path) -> None:
    out, masks, lines, report = (tmp_path / n for n in ("o.png", "masks", "o.jsonl", "r.json"))
    outcome = run(
        *(photo, "--bundle", tiny, "-o", out, "--masks", masks, "--json", lines),
        *("--report", report, "--threads", 1, "--seen-bias", 0.5),
    )
    assert outcome.exit_code == 0, outcome.output
    for path in (out, masks, lines, report):
        assert f"wrote {path}\n" in outcome.output
    assert cv2.imread(str(out)).shape == (48, 64, 3)
    with Image.open(masks / "photo.png") as image:
        found = set(np.unique(np.asarray(image)).tolist())
    assert {0, 4, 5} <= found  # red, green and blue
    record = json.loads(lines.read_text())
    assert {"red", "green", "blue"} <= set(record["shares"])
    document = json.loads(report.read_text())
    assert (document["backend"], document["precision"], document["frames"]) == (
        "onnxruntime",
        "fp32",
        1,
    )
    assert document["threads"] == 1
    assert document["outputs"] == [str(out), str(masks), str(lines)]


def test_labels_replace_those_of_the_bundle(tiny: str, photo: Path, tmp_path: Path) -> None:
    lines, names = tmp_path / "o.jsonl", tmp_path / "labels.txt"
    names.write_text("lime\nnavy\nred\n")
    for labels in ("lime, navy, red", names):
        outcome = run(
            photo, "--bundle", tiny, "--backend", "fake", "--labels", labels, "--json", lines
        )
        assert outcome.exit_code == 0, outcome.output
        record = json.loads(lines.read_text())
        assert set(record["shares"]) == {"lime", "navy", "red"}
        assert set(record["unseen"]) == {"lime", "navy"}


def test_a_vocabulary_file_gives_more_words(tiny: str, photo: Path, tmp_path: Path) -> None:
    words, lines = tmp_path / "words.txt", tmp_path / "o.jsonl"
    words.write_text(catalogue.word_vectors_text().replace("navy", "ultramarine"))
    outcome = run(
        *(photo, "--bundle", tiny, "--backend", "fake", "--json", lines),
        *("--vocabulary", words, "--labels", "ultramarine, red"),
    )
    assert outcome.exit_code == 0, outcome.output
    assert "ultramarine" in json.loads(lines.read_text())["shares"]


@pytest.mark.parametrize("batch", [1, 5])
def test_a_video_keeps_its_frames_and_times(tiny: str, tmp_path: Path, batch: int) -> None:
    rate = Fraction(30000, 1001)
    clip, out = write_clip(tmp_path / "in.mp4", frames=23, rate=rate), tmp_path / "out.mp4"
    outcome = run(clip, "--bundle", tiny, "--backend", "fake", "-o", out, "--batch", batch)
    assert outcome.exit_code == 0, outcome.output
    assert times_of(out) == [n / rate for n in range(23)]
    assert "23 frames" in outcome.output


def test_limit_and_folder_outputs(tiny: str, tmp_path: Path) -> None:
    clip, out = write_clip(tmp_path / "in.mp4", frames=23), tmp_path / "out"
    outcome = run(clip, "--bundle", tiny, "--backend", "fake", "-o", out, "--limit", 4)
    assert outcome.exit_code == 0, outcome.output
    assert sorted(path.name for path in out.iterdir()) == [f"in_{n:06d}.png" for n in range(4)]


def test_a_folder_of_images_becomes_a_slow_video(tiny: str, photo: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(photo.parent / "tall.png"), catalogue.frame("blue", height=80, width=40))
    out = tmp_path / "out.mkv"
    outcome = run(photo.parent, "--bundle", tiny, "--backend", "fake", "-o", out, "--rate", "5/2")
    assert outcome.exit_code == 0, outcome.output
    with av.open(str(out)) as container:
        assert container.streams.video[0].average_rate == Fraction(5, 2)
    assert [frame.shape for frame in decoded(out)] == [(48, 64, 3)] * 2


def test_alpha_and_legend(tiny: str, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.png"
    outcome = run(
        *(photo, "--bundle", tiny, "--backend", "fake", "-o", out),
        *("--alpha", 0, "--no-legend", "--labels", "red"),
    )
    assert outcome.exit_code == 0, outcome.output
    np.testing.assert_array_equal(cv2.imread(str(out)), cv2.imread(str(photo)))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_signals_finish_the_frames_in_flight(
    tiny: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    clip = write_clip(tmp_path / "in.mp4", frames=4000)
    out, lines, report = tmp_path / "out.mp4", tmp_path / "o.jsonl", tmp_path / "r.json"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from szn_runtime.cli import main; main()", clip),
            *("--bundle", tiny, "--backend", "fake", "-o", out),
            *("--json", lines, "--report", report),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    give_up_s = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < give_up_s:
        if lines.exists() and lines.read_text().count("\n") >= 20:
            process.send_signal(number)
            break
        time.sleep(0.01)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "stopped; the outputs are complete up to here" in output
    document = json.loads(report.read_text())
    assert document["stopped"] is True
    assert 20 <= document["frames"] < 4000
    assert len(lines.read_text().splitlines()) == document["frames"]
    assert len(decoded(out)) == document["frames"]


def test_help_names_the_options() -> None:
    outcome = run("--help")
    assert outcome.exit_code == 0
    for option in ("--camera", "--demo", "--labels", "--masks", "--json", "--report", "--policy"):
        assert option in outcome.output
    assert "szn-run clip.mp4 -o labelled.mp4" in outcome.output


def test_several_inputs_run_together(tiny: str, photo: Path, tmp_path: Path) -> None:
    long = write_clip(tmp_path / "long.mp4", frames=14)
    short = write_clip(tmp_path / "short.mp4", frames=5, size_hw=(64, 48))
    lines, report = tmp_path / "o.jsonl", tmp_path / "r.json"
    outcome = run(
        *(long, short, photo, "--bundle", tiny, "--backend", "fake", "--json", lines),
        *("-o", tmp_path / "{name}.mkv", "--report", report),
    )
    assert outcome.exit_code == 0, outcome.output
    assert len(decoded(tmp_path / "long.mkv")) == 14
    assert [frame.shape for frame in decoded(tmp_path / "short.mkv")] == [(64, 48, 3)] * 5
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    for name, count in (("long", 14), ("short", 5), ("photo", 1)):
        assert [r["frame"] for r in records if r["source"] == name] == list(range(count))
    document = json.loads(report.read_text())
    assert document["batch"] == 3
    assert [source["frames"] for source in document["sources"]] == [14, 5, 1]
    assert outcome.output.count(f"wrote {lines}") == 1


def test_options_of_the_decision(tiny: str, photo: Path, tmp_path: Path) -> None:
    lines, sure = tmp_path / "o.jsonl", tmp_path / "sure"

    def shares(*options: object) -> dict[str, float]:
        outcome = run(
            *(photo, "--bundle", tiny, "--backend", "fake", "--json", lines, "--labels"),
            *("red, blue", "--confidence", sure, *options),
        )
        assert outcome.exit_code == 0, outcome.output
        record = json.loads(lines.read_text())
        assert isinstance(record["shares"], dict)
        return record["shares"]

    assert set(shares()) == {"red", "blue"}
    # green and white are far from red and blue, but for the pixels between two colours
    unknown = shares("--unknown-below", 0.9)
    assert 0.4 < unknown["unknown"] < 0.6
    assert set(shares("--no-seenmask", "--unknown-below", -1)) == {"red", "blue"}
    grey = cv2.imread(str(sure / "photo.png"), cv2.IMREAD_UNCHANGED)
    assert grey.shape == (48, 64)
    outcome = run(photo, "--bundle", tiny, "--backend", "fake", "--json", lines, "--top-k", 2)
    assert outcome.exit_code == 0, outcome.output
    assert all(len(r["words"]) == 2 for r in json.loads(lines.read_text())["regions"])


def test_bench_prints_reports_and_writes_nothing_else(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clip, report = write_clip(tmp_path / "in.mp4", frames=7), tmp_path / "r.json"
    common = ("--bundle", tiny, "--backend", "fake", "--bench", "--limit", 5)
    outcome = run(clip, *common, "--report", report)
    assert outcome.exit_code == 0, outcome.output
    assert "synthetic-640x480:" in outcome.output
    assert "in:" in outcome.output
    assert outcome.output.count("\n5 frames, ") == 2
    assert json.loads(report.read_text())["sources"][0]["name"] == "in"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "r.json"]
    alone = run(*common)
    assert alone.exit_code == 0, alone.output
    assert "demo:" in alone.output
    refused = run(*common, "-o", "x.mp4")
    assert refused.exit_code == 2
    assert "--bench writes no outputs" in refused.output


def test_auto_says_what_it_chose(tiny: str, photo: Path) -> None:
    outcome = run(photo, "--bundle", tiny, "--precision", "fp32")
    assert outcome.exit_code == 0, outcome.output
    assert re.search(r"^backend (onnxruntime|openvino) fp32: ", outcome.output, re.MULTILINE)


def test_precisions_and_devices_that_are_not_there(tiny: str, photo: Path) -> None:
    for option, value, message in (
        ("--precision", "fp8", "unknown precision: got fp8"),
        ("--device", "npu", "unknown device: got npu"),
    ):
        outcome = run(photo, "--bundle", tiny, "--backend", "onnxruntime", option, value)
        assert outcome.exit_code == 2
        assert message in outcome.output
