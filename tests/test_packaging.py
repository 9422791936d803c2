"""The wheel, installed as an edge box would: the runtime alone, in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import REPOSITORY


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        **options,  # type: ignore[call-overload]
    )
    assert isinstance(result, subprocess.CompletedProcess)
    return result


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, REPOSITORY
    )
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("szn-*.whl")
    return path


def test_the_wheel_holds_packages_presets_and_the_bundle(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "szn_runtime/py.typed",
        "szn_runtime/assets/szn-mini/manifest.json",
        "szn_runtime/assets/szn-mini/model.onnx",
        "szn_runtime/assets/szn-mini/MODEL_CARD.md",
        "szn_train/py.typed",
        "szn_train/presets/szn-mini.toml",
        "szn_export/py.typed",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_the_wheel_is_small_enough_for_an_edge_box(wheel: Path) -> None:
    assets = [i for i in zipfile.ZipFile(wheel).infolist() if "/assets/" in i.filename]
    assert sum(info.file_size for info in assets) <= 16 * 2**20


@pytest.fixture(scope="session")
def clean_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    installed = run(
        folder / "bin" / "python", "-m", "pip", "install", "--quiet",
        "--disable-pip-version-check", "-c", REPOSITORY / "constraints.txt",
        f"szn[cpu] @ {wheel.as_uri()}",
    )  # fmt: skip
    if installed.returncode and "Failed to establish a new connection" in installed.stderr:
        pytest.skip("no package index in reach")
    assert installed.returncode == 0, installed.stderr
    return folder


@pytest.mark.slow
def test_szn_run_in_a_clean_environment(clean_environment: Path, tmp_path: Path) -> None:
    image = np.full((120, 160, 3), (200, 120, 40), dtype=np.uint8)
    image[60:] = (40, 160, 60)
    cv2.imwrite(str(tmp_path / "photo.png"), image)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    result = run(
        clean_environment / "bin" / "szn-run", "photo.png", "-o", "overlay.png",
        "--report", "report.json", "--labels", "grass, sky, road",
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    overlay = cv2.imread(str(tmp_path / "overlay.png"))
    assert overlay is not None
    assert overlay.shape == (120, 160, 3)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["frames"] == 1
    assert report["backend"] == "onnxruntime"


@pytest.mark.slow
def test_the_clean_environment_has_no_training_libraries(clean_environment: Path) -> None:
    listed = run(clean_environment / "bin" / "python", "-m", "pip", "list", "--format=json")
    names = {entry["name"].lower() for entry in json.loads(listed.stdout)}
    assert {"szn", "onnxruntime", "numba", "av"} <= names
    assert not names & {
        "torch",
        "torchvision",
        "timm",
        "gensim",
        "scikit-learn",
        "matplotlib",
        "onnx",
    }


@pytest.mark.slow
def test_training_without_its_extra_says_what_to_install(clean_environment: Path) -> None:
    result = run(clean_environment / "bin" / "szn-train", "--data", ".", "--out", "run")
    assert result.returncode == 1
    assert 'pip install "szn[train]"' in result.stderr
    assert "Traceback" not in result.stderr
