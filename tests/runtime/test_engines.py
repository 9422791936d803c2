from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from szn_runtime.backends._engine import EngineFacts
from szn_runtime.bundle import Artefact, Bundle
from szn_runtime.cli import main
from szn_runtime.engines import rebuild_engines
from szn_runtime.errors import BackendError, BundleError
from tests.runtime import catalogue
from tests.runtime.fake_tensorrt import facts


def bundle_with_engine(folder: Path) -> Bundle:
    model = catalogue.onnx_model()
    document = facts(onnx_sha256=hashlib.sha256(model).hexdigest()).to_json()
    artefacts = (
        Artefact(kind="onnx", precision="fp32", file="model.onnx", opset=20),
        Artefact(kind="tensorrt", precision="fp32", file="model.engine", facts=document),
    )
    files = {"model.engine": b"old", "model.onnx": model}
    return Bundle.open(catalogue.tiny_bundle(folder, artefacts=artefacts, files=files))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Building is a stand-in; what was built is noted."""
    noted: list[str] = []

    def rebuild(bundle: Bundle, artefact: Artefact, **_: object) -> tuple[bytes, EngineFacts]:
        noted.append(artefact.file)
        return b"new", dataclasses.replace(EngineFacts.from_artefact(artefact), version="99.1.0")

    monkeypatch.setattr("szn_runtime.backends._building.rebuild_engine", rebuild)
    return noted


def test_engines_are_replaced_and_nothing_else(tmp_path: Path, built: list[str]) -> None:
    bundle = bundle_with_engine(tmp_path / "b")
    before = {name: bundle.read(name) for name in bundle.manifest.files}
    again = rebuild_engines(bundle)
    assert built == ["model.engine"]
    assert again.read("model.engine") == b"new"
    assert again.artefact(kind="tensorrt").facts["version"] == "99.1.0"
    after = {name: again.read(name) for name in again.manifest.files}
    assert {**after, "model.engine": b"old"} == before


def test_the_command(tmp_path: Path, built: list[str]) -> None:
    bundle_with_engine(tmp_path / "b")
    outcome = CliRunner().invoke(main, ["--rebuild-engines", "--bundle", str(tmp_path / "b")])
    assert outcome.exit_code == 0, outcome.output
    assert "rebuilt model.engine" in outcome.output
    wrong = CliRunner().invoke(main, ["--rebuild-engines", "a.mp4"])
    assert wrong.exit_code == 2


def test_another_flavour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def rebuild(bundle: Bundle, artefact: Artefact, **options: object) -> tuple[bytes, EngineFacts]:
        asked.append(options["flavour"])
        return b"new", EngineFacts.from_artefact(artefact)

    monkeypatch.setattr("szn_runtime.backends._building.rebuild_engine", rebuild)
    bundle_with_engine(tmp_path / "b")
    arguments = ["--rebuild-engines", "--bundle", str(tmp_path / "b")]
    for more in ([], ["--flavour", "rtx"]):
        outcome = CliRunner().invoke(main, [*arguments, *more])
        assert outcome.exit_code == 0, outcome.output
    assert asked == [None, "rtx"]
    outcome = CliRunner().invoke(main, ["--flavour", "rtx", "a.mp4"])
    assert outcome.exit_code == 2
    assert "--flavour is of engines to build; add --rebuild-engines" in outcome.output


def test_a_failing_build_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BackendError("there is no NVIDIA GPU")

    monkeypatch.setattr("szn_runtime.backends._building.rebuild_engine", fail)
    bundle = bundle_with_engine(tmp_path / "b")
    with pytest.raises(BackendError, match="no NVIDIA GPU"):
        rebuild_engines(bundle)
    assert Bundle.open(tmp_path / "b").read("model.engine") == b"old"


def test_bundles_without_engines_and_zip_files(tmp_path: Path) -> None:
    plain = Bundle.open(catalogue.tiny_bundle(tmp_path / "plain"))
    with pytest.raises(BundleError, match="has no TensorRT engine: got onnx fp32; build one with"):
        rebuild_engines(plain)
    bundle_with_engine(tmp_path / "b")
    archive = shutil.make_archive(str(tmp_path / "b"), "zip", tmp_path / "b")
    with pytest.raises(BundleError, match="cannot be replaced: got a ZIP file; unpack it first"):
        rebuild_engines(Bundle.open(archive))
