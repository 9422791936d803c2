from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szn_runtime.backends._cuda import Gpu
from szn_runtime.backends._engine import EngineFacts, Library, Profile, open_library
from szn_runtime.backends._engine import version_numbers as numbers
from szn_runtime.bundle import Artefact
from szn_runtime.errors import BackendError, BundleError, MissingDependencyError
from tests.runtime import fake_tensorrt
from tests.runtime.fake_tensorrt import FakeCuda, FakeTensorRT, facts, profile

ORIN = Gpu(index=0, name="NVIDIA Orin", capability="8.7")


def artefact(document: dict[str, Any], kind: str = "tensorrt") -> Artefact:
    return Artefact(kind=kind, precision="fp16", file="fp16.engine", facts=document)


class TestProfile:
    @given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 6))
    def test_batches(self, frames: int, least: int, more: int) -> None:
        greatest = least + more
        batches = profile((least, 8, 8), (greatest, 8, 8)).batches(frames)
        assert all(least <= size <= greatest for size in batches)
        # as few as can be, no frame left out, and only the last one filled up
        assert len(batches) == -(-frames // greatest)
        assert batches[:-1] == [greatest] * (len(batches) - 1)
        assert batches[-1] == max(least, frames - sum(batches[:-1]))

    @pytest.mark.parametrize(("height", "width"), [(8, 16), (64, 128), (32, 32)])
    def test_sizes_within(self, height: int, width: int) -> None:
        profile((1, 8, 16), (1, 64, 128)).check_size(height, width)

    @pytest.mark.parametrize(("height", "width"), [(0, 32), (72, 32), (32, 8), (32, 136)])
    def test_sizes_outside(self, height: int, width: int) -> None:
        with pytest.raises(
            BackendError,
            match=f"out of the range .*got {height} x {width}, expected height 8 to 64, width "
            "16 to 128; choose another --size, or rebuild it with szn-export --trt",
        ):
            profile((1, 8, 16), (1, 64, 128)).check_size(height, width)

    @pytest.mark.parametrize(
        ("shapes", "match"),
        [
            (((1, 3, 8), (1, 3, 8, 8), (1, 3, 8, 8)), r"profile's min .*got \(1, 3, 8\)"),
            (((1, 3, 8, 8), [1, 3, 8, 8], (1, 3, 8, 8)), "profile's opt"),
            (((1, 3, 8, 8), (1, 3, 8, 8), (1, 4, 8, 8)), "profile's max"),
            (((0, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8)), "profile's min"),
            (((1, 3, 8, 8), (1, 3, 8.0, 8), (1, 3, 8, 8)), "profile's opt"),
            (((1, 3, 8, 8), (1, 3, 9, 8), (1, 3, 8, 8)), "expected min <= opt <= max"),
            (((2, 3, 8, 8), (1, 3, 8, 8), (2, 3, 8, 8)), "expected min <= opt <= max"),
        ],
    )
    def test_shapes_that_are_refused(self, shapes: Any, match: str) -> None:
        low, best, high = shapes
        with pytest.raises(BundleError, match=match):
            Profile(min=low, opt=best, max=high)


class TestFacts:
    @pytest.mark.parametrize("flavour", ["tensorrt", "rtx"])
    @pytest.mark.parametrize("capabilities", [(), ("8.6",), ("7.5", "12.0")])
    def test_writing_and_reading(self, flavour: str, capabilities: tuple[str, ...]) -> None:
        written = facts(flavour, compute_capabilities=capabilities)
        # through an artefact, which keeps what JSON gives back
        assert EngineFacts.from_artefact(artefact(written.to_json())) == written

    def test_the_documented_form(self) -> None:
        document = facts().to_json()
        assert document["compute_capabilities"] == ["8.7"]
        assert document["profile"]["max"] == [4, 3, 64, 64]
        image = {"name": "image", "dtype": "float32", "shape": [-1, 3, -1, -1]}
        assert document["inputs"] == [image]
        keys = {"flavour", "version", "compute_capabilities", "profile", "inputs", "outputs"}
        assert set(document) == keys | {"onnx_sha256"}
        assert all(f'"{key}"' in str(EngineFacts.__doc__) for key in document)

    @pytest.mark.parametrize(
        ("key", "value", "match"),
        [
            ("flavour", "lean", "flavour .*got lean, expected tensorrt or rtx"),
            ("flavour", ["rtx"], "flavour"),
            ("version", "10", "engine's version .*got 10, expected such as 10.3.0"),
            ("version", 10.3, "engine's version"),
            ("compute_capabilities", "8.6", "compute_capabilities .*got 8.6, expected a list"),
            ("compute_capabilities", ["sm_86"], "compute_capabilities .*got .*sm_86"),
            ("compute_capabilities", [8.6], "compute_capabilities"),
            ("profile", [1, 3, 8, 8], "engine profile .*expected max, min, opt"),
            ("profile", {"min": [1, 3, 8, 8]}, "engine profile .*expected max, min, opt"),
            ("profile", {"min": 1, "opt": 1, "max": 1}, "got 1, expected a list"),
            ("inputs", {}, "inputs .*expected a list"),
            ("inputs", [{"name": "image"}], "inputs .*expected dtype, name, shape"),
            ("inputs", ["image"], "inputs .*expected dtype, name, shape"),
            ("outputs", [{"name": "", "dtype": "f", "shape": []}], "name of an engine's tensor"),
            ("outputs", [{"name": "x", "dtype": 1, "shape": []}], "dtype of x"),
            ("outputs", [{"name": "x", "dtype": "f", "shape": [-2]}], "shape of x"),
            ("outputs", [{"name": "x", "dtype": "f", "shape": ["n"]}], "shape of x"),
            ("outputs", [{"name": "x", "dtype": "f", "shape": 4}], "outputs .*expected a list"),
            ("onnx_sha256", "0" * 63, "onnx_sha256 .*expected 64 hexadecimal digits"),
            ("onnx_sha256", None, "onnx_sha256"),
            ("gpu", "Orin", "facts of fp16.engine .*expected compute_capabilities, flavour"),
        ],
    )
    def test_facts_that_are_refused(self, key: str, value: Any, match: str) -> None:
        with pytest.raises(BundleError, match=match) as caught:
            EngineFacts.from_artefact(artefact({**facts().to_json(), key: value}))
        assert "\n" not in str(caught.value)

    def test_facts_that_are_missing(self) -> None:
        with pytest.raises(BundleError, match=r"facts of fp16.engine .*got \{\}"):
            EngineFacts.from_artefact(artefact({}))
        with pytest.raises(BundleError, match=r"artefact.kind .*got onnx, expected tensorrt"):
            EngineFacts.from_artefact(artefact(facts().to_json(), kind="onnx"))

    @pytest.mark.parametrize(
        ("built", "installed"),
        [
            ("10.3.0", "10.3.0"),
            ("10.3.0.26", "10.3.0"),
            ("10.3.0", "10.3.0.26"),
            ("10.7.0.post1", "10.7.0"),
        ],
    )
    def test_versions_that_fit(self, built: str, installed: str) -> None:
        facts(version=built).check_library("TensorRT", installed)

    @pytest.mark.parametrize(
        ("built", "installed"),
        [
            ("10.3.0", "10.13.0"),
            ("10.3.0", "10.3.1"),
            ("10.3.0", "11.4.0.106"),
            ("1.7.1.116", "1.7.1.117"),
        ],
    )
    def test_versions_that_do_not_fit(self, built: str, installed: str) -> None:
        with pytest.raises(
            BackendError,
            match=f"another version of TensorRT: got {installed} installed, expected {built}; "
            f"rebuild it with szn-export --trt on this machine, or install TensorRT {built}",
        ):
            facts(version=built).check_library("TensorRT", installed)

    @pytest.mark.parametrize("capabilities", [(), ("8.7",), ("8.6", "8.7")])
    def test_gpus_that_fit(self, capabilities: tuple[str, ...]) -> None:
        for precision in ("fp32", "fp16", "bf16", "int8"):
            facts(compute_capabilities=capabilities).check_gpu(ORIN, precision)

    def test_gpus_that_do_not_fit(self) -> None:
        with pytest.raises(
            BackendError,
            match=r"another GPU: got gpu:0 NVIDIA Orin \(8.7\), expected compute capability 8.6, "
            "12.0; rebuild it",
        ):
            facts(compute_capabilities=("8.6", "12.0")).check_gpu(ORIN, "fp32")
        turing = Gpu(index=1, name="T4", capability="7.5")
        facts(compute_capabilities=()).check_gpu(turing, "fp16")
        with pytest.raises(BackendError, match=r"not compute in bf16: got gpu:1 T4 \(7.5\)"):
            facts(compute_capabilities=()).check_gpu(turing, "bf16")
        blackwell = Gpu(index=0, name="Thor", capability="11.0")  # more than 8.0, not as text
        facts(compute_capabilities=()).check_gpu(blackwell, "bf16")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10.3.0", (10, 3, 0)), ("10.7.0.post1", (10, 7, 0)), ("8.7", (8, 7)), ("dev", ())],
)
def test_numbers_of_versions(text: str, expected: tuple[int, ...]) -> None:
    assert numbers(text) == expected


class TestLibrary:
    def test_each_flavour(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for flavour, module, name in [
            ("tensorrt", "tensorrt", "TensorRT 10.3.0"),
            ("rtx", "tensorrt_rtx", "TensorRT-RTX 1.7.1"),
            ("rtx", "tensorrt_rtx_bindings", "TensorRT-RTX 1.7.1"),
        ]:
            fake = FakeTensorRT(FakeCuda(), version=fake_tensorrt.VERSIONS[flavour])
            fake_tensorrt.install(monkeypatch, fake, module=module)
            library = open_library(flavour)
            assert library.module is sys.modules[module]
            assert str(library) == name
            assert library.version == fake_tensorrt.VERSIONS[flavour]

    def test_a_metapackage_that_is_empty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = FakeTensorRT(FakeCuda(), version="1.7.1.116")
        fake_tensorrt.install(monkeypatch, fake, module="tensorrt_rtx_bindings")
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", ModuleType("tensorrt_rtx"))
        assert open_library("rtx").version == "1.7.1.116"

    @pytest.mark.parametrize(
        ("flavour", "match"),
        [
            ("tensorrt", r'TensorRT is not installed: got .*tensorrt.*pip install "szn\[gpu\]"'),
            ("rtx", r'TensorRT-RTX is not installed: got .*pip install "szn\[rtx\]"'),
        ],
    )
    def test_not_installed(self, flavour: str, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_tensorrt.install(monkeypatch, FakeTensorRT(FakeCuda()), module=None)
        with pytest.raises(MissingDependencyError, match=match):
            open_library(flavour)

    def test_installed_without_what_it_needs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(name: str) -> Any:
            raise OSError("libnvinfer.so.10: cannot open shared object file")

        monkeypatch.setattr(importlib, "import_module", broken)
        with pytest.raises(MissingDependencyError, match=r"got libnvinfer\.so\.10: cannot open"):
            open_library("tensorrt")

    def test_one_logger(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = FakeTensorRT(FakeCuda())
        fake_tensorrt.install(monkeypatch, fake)
        first, second = open_library("tensorrt"), open_library("tensorrt")
        assert first.log is second.log
        other = FakeTensorRT(FakeCuda()).module()
        assert Library("TensorRT", "gpu", other).log is not first.log

    def test_calls(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = FakeTensorRT(FakeCuda())
        fake_tensorrt.install(monkeypatch, fake)
        library = open_library("tensorrt")
        error, warning = library.module.ILogger.ERROR, library.module.ILogger.WARNING

        def say(*lines: tuple[Any, str], result: Any) -> Any:
            for severity, line in lines:
                library.log.log(severity, line)
            return result

        assert library.call("it fails", lambda: (error, 7)[1]) == 7
        assert library.call("it fails", lambda a, b: a + b, 0, 0) == 0  # neither None nor False
        for result in (None, False):
            with pytest.raises(BackendError, match=r"^it fails: got first; do that$"):
                library.call(
                    "it fails",
                    lambda result=result: say(
                        (warning, "no"), (error, "first"), (error, "second"), result=result
                    ),
                    fix="do that",
                )
        # what an earlier call logged is no reason for this one to fail
        with pytest.raises(BackendError, match=r"^it fails: got no reason from TensorRT$"):
            library.call("it fails", lambda: None)
        with pytest.raises(
            BackendError, match=r"^it fails: got invalid literal.*nullptr"
        ) as caught:
            library.call("it fails", lambda: int("nullptr"))
        assert isinstance(caught.value.__cause__, ValueError)


def test_the_fake_engine_is_in_the_bundle(tmp_path: Path) -> None:
    bundle = fake_tensorrt.engine_bundle(tmp_path / "tiny", precisions=("fp32", "int8"))
    found = bundle.artefact(kind="tensorrt", precision="int8")
    assert EngineFacts.from_artefact(found) == facts()
