"""What users of exporters complain about most, each as a user would meet it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from szn_export.cli import main
from szn_runtime import load
from szn_runtime.backends import BackendOptions, open_backend
from szn_runtime.backends._engine import Profile
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.errors import BackendError
from tests.export.conftest import Exported
from tests.runtime import fake_tensorrt
from tests.train import catalogue


class TestLabelsFrozenInTheGraph:
    def test_other_labels_without_another_export(self) -> None:
        before = (default_bundle_path() / "model.onnx").read_bytes()
        image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        with load(backend="onnxruntime") as segmenter:
            own = segmenter(image)
            segmenter.with_labels("pony, lawn, motorway")
            assert set(segmenter(image).shares) <= {"pony", "lawn", "motorway"}
            segmenter.with_labels(own.label_set)
            np.testing.assert_array_equal(segmenter(image).labels, own.labels)
        assert (default_bundle_path() / "model.onnx").read_bytes() == before

    def test_the_graph_knows_no_label(self, exported: Exported) -> None:
        content = exported.bundle.model_bytes()
        for name in exported.bundle.label_set().names:
            assert name.encode() not in content


class TestBatchNotMatching:
    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_any_batch_from_one_file(self, exported: Exported, backend: str) -> None:
        frames = np.random.default_rng(0).normal(size=(5, 3, 64, 96)).astype(np.float32)
        with open_backend(backend, exported.bundle) as opened:
            whole = opened.infer(frames)
            for n in (1, 2, 3):
                part = opened.infer(frames[:n])
                np.testing.assert_allclose(part.embedding, whole.embedding[:n], atol=1e-5)

    def test_an_engine_takes_larger_batches_in_parts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        profile = Profile(min=(1, 3, 8, 8), opt=(2, 3, 8, 8), max=(2, 3, 64, 64))
        frames = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
        fake = fake_tensorrt.FakeTensorRT(fake_tensorrt.FakeCuda())
        fake_tensorrt.install(monkeypatch, fake)
        about = fake_tensorrt.facts(profile=profile)
        bundle = fake_tensorrt.engine_bundle(tmp_path, about)
        with open_backend("tensorrt", bundle) as engine, open_backend("fake", bundle) as reference:
            found, expected = engine.infer(frames), reference.infer(frames)
        np.testing.assert_allclose(found.embedding, expected.embedding, atol=1e-5)


class TestSizeNotMatching:
    @pytest.mark.parametrize("size_hw", [(1, 1), (37, 53), (96, 31), (240, 427)])
    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_any_frame(self, exported: Exported, backend: str, size_hw: tuple[int, int]) -> None:
        image: NDArray[np.uint8] = np.full((*size_hw, 3), 90, np.uint8)
        with load(exported.folder, backend=backend) as segmenter:
            assert segmenter(image).labels.shape == size_hw

    def test_an_engine_says_what_it_takes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        profile = Profile(min=(1, 3, 8, 8), opt=(1, 3, 8, 8), max=(1, 3, 16, 16))
        fake = fake_tensorrt.FakeTensorRT(fake_tensorrt.FakeCuda())
        fake_tensorrt.install(monkeypatch, fake)
        bundle = fake_tensorrt.engine_bundle(tmp_path, fake_tensorrt.facts(profile=profile))
        with (
            open_backend("tensorrt", bundle) as engine,
            pytest.raises(BackendError, match=r"got 8 x 24, expected height 8 to 16, .*--size, or"),
        ):
            engine.infer(np.zeros((1, 3, 8, 24), np.float32))


class TestVersionMismatch:
    def test_the_message_names_both_versions_and_the_remedy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake = fake_tensorrt.FakeTensorRT(fake_tensorrt.FakeCuda())
        fake_tensorrt.install(monkeypatch, fake)
        about = fake_tensorrt.facts(version="10.1.0")
        bundle = fake_tensorrt.engine_bundle(tmp_path, about)
        with pytest.raises(
            BackendError, match=r"got 10\.3\.0 installed, expected 10\.1\.0; rebuild it with"
        ):
            open_backend("tensorrt", bundle)

    def test_a_bundle_of_a_later_schema(self, exported: Exported, tmp_path: Path) -> None:
        """A bundle that a newer szn wrote is refused before anything in it is used."""
        for name in exported.bundle.manifest.files:
            (tmp_path / name).write_bytes(exported.bundle.read(name))
        text = exported.bundle.manifest.to_json()
        later = text.replace('"schema_version": 1', '"schema_version": 99')
        assert later != text
        (tmp_path / "manifest.json").write_text(later)
        result = CliRunner().invoke(main, ["--quiet", "--verify", str(tmp_path)])
        assert result.exit_code == 1
        assert "99" in result.stderr
        assert "Traceback" not in result.output


class TestSilentPrecisionLoss:
    def test_a_precision_past_its_budget_is_not_written_and_the_exit_code_is_3(
        self, exported: Exported, tmp_path: Path
    ) -> None:
        noise = tmp_path / "noise"
        noise.mkdir()
        values = np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), dtype=np.uint8)
        for number, image in enumerate(values):
            catalogue.write_png(noise / f"{number}.png", image)
        arguments = [exported.run.folder, "-o", tmp_path / "bundle", "--precision", "int8"]
        arguments += ["--calibration", noise, "--gate-images", 4, "--budget", "int8=0"]
        result = CliRunner().invoke(main, ["--quiet", *map(str, arguments)])
        assert result.exit_code == 3, result.output
        assert "model.int8.onnx" in result.stderr
        assert [a.precision for a in Bundle.open(tmp_path / "bundle").manifest.artefacts] == [
            "fp32"
        ]

    def test_what_is_written_ran_beside_pytorch(self, exported: Exported) -> None:
        written = {a.file for a in exported.bundle.manifest.artefacts}
        measured = {row.artefact for row in exported.result.rows if row.comparison is not None}
        assert written == measured

    def test_the_precision_that_runs_is_the_one_asked_for(self, exported: Exported) -> None:
        """Read back from the library; on AMX machines OpenVINO's own default would be bf16."""
        with open_backend("openvino", exported.bundle, BackendOptions(precision="fp32")) as opened:
            assert opened.precision == "fp32"
            frames = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
            with open_backend("onnxruntime", exported.bundle) as exact:
                expected = exact.infer(frames).embedding
            np.testing.assert_allclose(opened.infer(frames).embedding, expected, atol=1e-5)
