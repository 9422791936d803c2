from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from szn_export.cli import main
from szn_runtime import load
from szn_runtime.bundle import Bundle
from tests.export.conftest import Exported
from tests.train import catalogue


def run_export(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["--quiet", *map(str, arguments)])


def one_line(result: Result) -> str:
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.output
    return lines[0]


@pytest.mark.slow
def test_export_replaces_an_older_bundle(exported: Exported, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    shutil.copytree(exported.folder, target)
    photos = tmp_path / "photos"
    for number, shown in enumerate((("grass", "sky"), ("sky", "cow"), ("grass", "boat"))):
        image, _ = catalogue.scene(*shown, size_hw=(40 + 9 * number, 70), seed=number)
        catalogue.write_png(photos / f"{number}.png", image)
    (photos / "notes.txt").write_text("no image")
    (tmp_path / "card.md").write_text("# Ours\n")
    result = run_export(
        exported.run.folder, "-o", target, "--name", "tiny", "--vocabulary-size", 3,
        "--images", photos, "--gate-images", 2, "--model-card", tmp_path / "card.md",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(target)
    size = sum(facts["bytes"] for facts in bundle.manifest.files.values())
    assert f"{target}: {len(bundle.manifest.files)} files, {size / 1e6:.1f} MB\n" in result.stdout
    assert "onnxruntime fp32" in result.stdout
    vocabulary = bundle.vocabulary()
    assert vocabulary is not None
    assert vocabulary.words == catalogue.WORDS[:3]
    assert bundle.read("MODEL_CARD.md") == b"# Ours\n"
    assert "2 images, 4 frames" in bundle.read("export_report.md").decode()
    # the same run and name give the same file, to the byte
    assert bundle.model_bytes() == exported.bundle.model_bytes()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    with load(target) as segmenter:
        shares = segmenter(catalogue.scene("grass", "sky")[0]).shares
    np.testing.assert_allclose(sum(shares.values()), 1)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "label_space.npz"])
def test_a_damaged_run_is_refused(exported: Exported, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(exported.run.folder, tmp_path / "run"))
    (run / name).write_bytes((run / name).read_bytes()[:60])
    result = run_export(run, "-o", tmp_path / "bundle")
    assert result.exit_code == 1
    assert f"{name} is " in one_line(result)
    assert "damaged" in one_line(result)
    assert not (tmp_path / "bundle").exists()


def test_a_model_card_that_is_not_there_is_refused(exported: Exported, tmp_path: Path) -> None:
    result = run_export(
        exported.run.folder, "-o", tmp_path / "bundle", "--model-card", tmp_path / "none.md"
    )
    assert result.exit_code == 1
    assert "none.md: got No such file or directory" in one_line(result)
    assert not (tmp_path / "bundle").exists()


def test_images_that_are_none_are_refused(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("text")
    result = run_export(exported.run.folder, "-o", tmp_path / "bundle", "--images", tmp_path)
    assert result.exit_code == 1
    assert "photo.jpg is not an image that OpenCV decodes" in one_line(result)


def test_a_data_set_that_has_gone_asks_for_images(exported: Exported, tmp_path: Path) -> None:
    run = Path(shutil.copytree(exported.run.folder, tmp_path / "run"))
    config = run / "config.json"
    config.write_text(config.read_text().replace(exported.run.config.data, "/nowhere"))
    result = run_export(run, "-o", tmp_path / "bundle")
    assert result.exit_code == 1
    assert "the gate needs real images, and the run's data set /nowhere is not" in one_line(result)
    assert "give --images a folder of photos" in one_line(result)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--budget", "101"],
        ["--budget", "-1"],
        ["--vocabulary-size", "-1"],
        ["--gate-images", "0"],
        ["--images", "/nowhere"],
        ["--precision", "fp4"],
        ["--budget", "fp4=1"],
        ["--budget", "int8=much"],
        ["--sm", "86"],
        ["--trt", "--batch", "1,2"],
        ["--trt", "--batch", "4,2,1"],
        ["--trt", "--size", "big"],
        ["--trt", "--trt-flags", "FP16"],
        ["--openvino-fp16"],
        ["--openvino-pixels"],
        ["--verify", "bundle"],
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, arguments: list[str]) -> None:
    result = run_export(tmp_path, "-o", tmp_path / "bundle", *arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_dry_run_says_what_would_be_made(tmp_path: Path) -> None:
    result = run_export(
        tmp_path / "run", "--dry-run", "--precision", "int8", "--trt", "--openvino", "--split",
        "--with-sei", "--triton", tmp_path / "t",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "ONNX fp32: model.onnx",
        "ONNX int8: model.int8.onnx",
        "ONNX int8 for TensorRT: model.int8.tensorrt.onnx",
        "TensorRT engine fp32: model.fp32.engine",
        "TensorRT engine int8: model.int8.engine",
        "OpenVINO fp32: model.fp32.xml, model.fp32.bin",
        "OpenVINO int8: model.int8.xml, model.int8.bin",
        "parts: fcn.onnx, embedding_head.onnx, seenmask_head.onnx",
        "TensorRT engines fp32 of the parts: *.fp32.engine",
        "ONNX with SEI: model.sei.onnx",
        f"Triton model repository: {tmp_path / 't'}",
    ]
    assert list(tmp_path.iterdir()) == []
