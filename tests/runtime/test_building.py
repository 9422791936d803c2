from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from szn_runtime.backends import BackendOptions, _building
from szn_runtime.backends._building import BuildOptions, build_engine, rebuild_engine
from szn_runtime.backends._engine import EngineFacts, Profile, open_library
from szn_runtime.backends.fake import FakeBackend
from szn_runtime.backends.tensorrt import TensorRTBackend
from szn_runtime.backends.tensors import Expected, TensorFacts
from szn_runtime.bundle import Artefact, Bundle
from szn_runtime.errors import BackendError, BundleError, MissingDependencyError, UsageError
from tests.conftest import REPOSITORY
from tests.runtime import catalogue, fake_builder, fake_tensorrt
from tests.runtime.fake_builder import BuilderFlag, FakeBuilderTensorRT, tensor
from tests.runtime.fake_tensorrt import FakeCuda

PROFILE = Profile(min=(1, 3, 8, 8), opt=(1, 3, 16, 24), max=(4, 3, 64, 64))
ONNX = b"an ONNX file"


def build(onnx: bytes = ONNX, **changes: Any) -> tuple[bytes, EngineFacts]:
    values: dict[str, Any] = {"flavour": "tensorrt", "profile": PROFILE, "precision": "fp32"}
    return build_engine(onnx, Expected.of(catalogue.manifest()), **{**values, **changes})


def engine_in_bundle(folder: Path, engine: bytes, facts: EngineFacts, onnx: bytes) -> Bundle:
    """A bundle of an engine and the file that it was built from."""
    artefacts = (
        Artefact(kind="onnx", precision="fp32", file="model.onnx", opset=20),
        Artefact(kind="tensorrt", precision="fp32", file="fp32.engine", facts=facts.to_json()),
    )
    files = {"model.onnx": onnx, "fp32.engine": engine}
    return Bundle.open(catalogue.tiny_bundle(folder, files=files, artefacts=artefacts))


_ALONE = "SZN_TEST_SIGNALS"
alone = pytest.mark.skipif(
    _ALONE not in os.environ, reason="raises signals; runs in a process of its own"
)


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeBuilderTensorRT:
    """The fake, installed as `tensorrt`."""
    fake = FakeBuilderTensorRT(FakeCuda())
    fake_tensorrt.install(monkeypatch, fake)
    return fake


@pytest.fixture(scope="module")
def rtx() -> Any:
    return pytest.importorskip(
        "tensorrt_rtx_bindings",
        reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13-libs "
        "tensorrt-rtx-cu13-bindings",
        exc_type=ImportError,
    )


@pytest.fixture(scope="module")
def built(rtx: Any) -> tuple[bytes, EngineFacts]:
    """The tiny network's engine, by the real library."""
    return build(catalogue.onnx_model(), flavour="rtx")


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"compute_capabilities": ("86",)}, "compute capability: got 86, expected such as 8.6"),
            ({"compute_capabilities": ("8.6", "sm_89")}, "got sm_89"),
            ({"compute_capabilities": ("8.6", "8.6")}, "capabilities: one twice: got 8.6, 8.6"),
            ({"flags": ("TF32", "TF32")}, "flags: one twice: got TF32, TF32"),
            ({"workspace_mib": 0}, "workspace: got 0, expected 1 to 1048576 MiB"),
            ({"workspace_mib": 1 << 21}, "workspace: got 2097152"),
            ({"workspace_mib": 1.5}, "workspace: got 1.5"),
            ({"flags": ("REFIT",)}, "flag REFIT cannot be set; it needs a GPU to build"),
            ({"flags": ("STRIP_PLAN",)}, "STRIP_PLAN .*needs a GPU .*would hold no weights"),
            ({"flags": ("WEIGHTLESS",)}, "WEIGHTLESS .*would hold no weights"),
            ({"flags": ("VERSION_COMPATIBLE",)}, "VERSION_COMPATIBLE .*TensorRT-RTX cannot do it"),
            ({"flags": ("TF32", "FP16")}, "FP16 cannot be set; an engine has the precision of its"),
            ({"flags": ("INT8",)}, "INT8 cannot be set; an engine has the precision of its ONNX"),
            ({"flags": ("REQUIRE_USER_ALLOCATION",)}, "lets the library allocate"),
            (
                {"compute_capabilities": ("8.6",), "timing_cache": Path("cache")},
                "are for TensorRT-RTX, and a timing cache for TensorRT; leave one",
            ),
        ],
    )
    def test_options_that_are_refused(self, options: dict[str, Any], match: str) -> None:
        with pytest.raises(UsageError, match=match):
            BuildOptions(**options)

    def test_options_of_the_other_flavour(self) -> None:
        BuildOptions().check_flavour("tensorrt")
        BuildOptions(compute_capabilities=("8.6",)).check_flavour("rtx")
        BuildOptions(timing_cache=Path("cache")).check_flavour("tensorrt")
        with pytest.raises(
            UsageError, match=r"this machine only: got compute capability 8.6, 12.0"
        ):
            BuildOptions(compute_capabilities=("8.6", "12.0")).check_flavour("tensorrt")
        with pytest.raises(UsageError, match=r"measures nothing while it builds: got .* cache x;"):
            BuildOptions(timing_cache=Path("x")).check_flavour("rtx")


class TestTensorRT:
    def test_what_is_built_runs(self, trt: FakeBuilderTensorRT, tmp_path: Path) -> None:
        lines: list[str] = []
        engine, facts = build(progress=lines.append)
        assert isinstance(engine, bytes)
        assert facts == EngineFacts(
            flavour="tensorrt",
            version="10.3.0",
            compute_capabilities=("8.7",),
            profile=PROFILE,
            inputs=(TensorFacts(name="image", dtype="float32", shape=(None, 3, None, None)),),
            outputs=(
                TensorFacts(name="embedding", dtype="float32", shape=(None, 6, None, None)),
                TensorFacts(name="seenmask", dtype="float32", shape=(None, 2, None, None)),
            ),
            onnx_sha256=hashlib.sha256(ONNX).hexdigest(),
        )
        assert trt.parsed == [ONNX]
        assert lines[0] == "engine fp32: building with TensorRT 10.3.0"
        assert re.fullmatch(r"engine fp32: 0\.0 MB in \d+\.\d s", lines[1])
        assert len(lines) == 2

        bundle = engine_in_bundle(tmp_path / "tiny", engine, facts, ONNX)
        frames = np.random.default_rng(0).normal(size=(5, 3, 16, 24)).astype(np.float32)
        with TensorRTBackend.from_bundle(bundle, BackendOptions()) as backend:
            found = backend.infer(frames)
        want = FakeBackend(dim=6, stride=catalogue.STRIDE).infer(frames)
        np.testing.assert_array_equal(found.embedding, want.embedding)

    @pytest.mark.parametrize(
        ("version", "typed", "flags"), [("10.3.0", True, 1 << 1), ("11.4.0", False, 0)]
    )
    def test_networks_are_strongly_typed(
        self, version: str, typed: bool, flags: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake = FakeBuilderTensorRT(FakeCuda(), version=version, typed=typed)
        fake_tensorrt.install(monkeypatch, fake)
        assert build()[1].version == version
        assert fake.network_flags == [flags]

    def test_options_reach_the_library(self, trt: FakeBuilderTensorRT) -> None:
        build()
        build(options=BuildOptions(workspace_mib=3, flags=("SPARSE_WEIGHTS", "TF32")))
        usual, chosen = trt.configs
        assert usual.set_flags == set()  # TF32 is the library's own choice, and not exact
        assert usual.limits == {}
        assert chosen.set_flags == {BuilderFlag.SPARSE_WEIGHTS, BuilderFlag.TF32}
        assert list(chosen.limits.values()) == [3 << 20]
        (shapes,) = usual.profiles
        assert shapes.ranges == {"image": (PROFILE.min, PROFILE.opt, PROFILE.max)}

    def test_it_is_built_for_the_gpu_that_was_chosen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = FakeBuilderTensorRT(FakeCuda(gpus=2))
        fake_tensorrt.install(monkeypatch, fake)
        build(device_index=1)
        assert fake.device == 1
        with pytest.raises(BackendError, match="there is no gpu:2: got 2 GPUs"):
            build(device_index=2)

    def test_without_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = FakeBuilderTensorRT(FakeCuda(gpus=0))
        fake_tensorrt.install(monkeypatch, fake)
        with pytest.raises(BackendError, match="there is no NVIDIA GPU, or its driver is not"):
            build()
        assert fake.parsed == []

    def test_without_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_tensorrt.install(monkeypatch, FakeBuilderTensorRT(FakeCuda()), module=None)
        with pytest.raises(MissingDependencyError, match=r'TensorRT is not .*"szn\[gpu\]"'):
            build()

    @pytest.mark.parametrize(
        ("method", "match"),
        [
            ("Builder", "^TensorRT 10.3.0 does not start: got CUDA error$"),
            ("create_builder_config", "^TensorRT 10.3.0 takes no options: got CUDA error$"),
            ("create_network", "^TensorRT 10.3.0 makes no network: got CUDA error$"),
            ("create_optimization_profile", "^TensorRT 10.3.0 makes no profile: got CUDA error$"),
            ("add_optimization_profile", "^TensorRT 10.3.0 refuses the range of frames: got CUDA"),
            (
                "build_serialized_network",
                "^TensorRT 10.3.0 cannot build the engine: got CUDA error$",
            ),
        ],
    )
    def test_failures(self, method: str, match: str, trt: FakeBuilderTensorRT) -> None:
        trt.failures[method] = "CUDA error|and what came of it"
        with pytest.raises(BackendError, match=match):
            build()

    @pytest.mark.parametrize(
        ("method", "match"),
        [
            ("OnnxParser", "^TensorRT 10.3.0 reads no ONNX: got not today$"),
            ("set_shape", "^TensorRT 10.3.0 refuses the range of frames: got not today$"),
            (
                "build_serialized_network",
                "^TensorRT 10.3.0 cannot build the engine: got not today$",
            ),
        ],
    )
    def test_exceptions(self, method: str, match: str, trt: FakeBuilderTensorRT) -> None:
        trt.raises[method] = ValueError("not today")
        with pytest.raises(BackendError, match=match):
            build()

    def test_failures_without_a_word(self, trt: FakeBuilderTensorRT) -> None:
        trt.failures["build_serialized_network"] = ""
        with pytest.raises(BackendError, match=r"got no reason from TensorRT; .*of 7 MiB may be"):
            build(options=BuildOptions(workspace_mib=7))
        trt.failures["parse"] = ""
        with pytest.raises(BackendError, match=r"cannot read the ONNX file: got no reason; export"):
            build()

    def test_all_that_the_parser_lists(self, trt: FakeBuilderTensorRT) -> None:
        trt.errors = ["In node 3:\n  no such thing", "In node 4: nor this"]
        with pytest.raises(
            BackendError,
            match=r"^TensorRT 10.3.0 cannot read the ONNX file: got In node 3: no such thing; "
            r"In node 4: nor this; export it again$",
        ):
            build()

    @pytest.mark.parametrize(
        ("precision", "layers", "found"),
        [
            ("fp32", [("FLOAT",), ("FLOAT", "HALF")], "fp16"),
            ("fp16", [("FLOAT",)], "fp32"),
            ("fp16", [("HALF",), ("INT8",)], "int8"),
            ("int8", [("HALF",), ("FLOAT",)], "fp16"),
            ("bf16", [("HALF",)], "fp16"),
        ],
    )
    def test_another_precision(
        self, precision: str, layers: Any, found: str, trt: FakeBuilderTensorRT
    ) -> None:
        trt.layers = layers
        with pytest.raises(BackendError, match=f"another precision.* got {found}, .* {precision};"):
            build(precision=precision)

    @pytest.mark.parametrize(
        ("precision", "layers"),
        [
            ("fp32", [("FLOAT",), ("INT32",), ()]),
            ("fp16", [("HALF",), ("FLOAT",)]),
            ("bf16", [("FLOAT",), ("BF16",)]),
            ("int8", [("INT8",), ("HALF", "FLOAT")]),
        ],
    )
    def test_the_precision(self, precision: str, layers: Any, trt: FakeBuilderTensorRT) -> None:
        trt.layers = layers
        lines: list[str] = []
        assert build(precision=precision, progress=lines.append)[0]
        assert lines[0].startswith(f"engine {precision}: ")
        with pytest.raises(UsageError, match="unknown precision: got fp8, expected fp32, fp16"):
            build(precision="fp8")

    @pytest.mark.parametrize(
        ("inputs", "outputs", "match"),
        [
            ([tensor("x", 3)], [], "no input 'image', which the manifest names: got x"),
            ([tensor("image", 3), tensor("y", 1)], [], "more than one input: got image, y"),
            ([tensor("image", 4)], [], r"'image' .* got float32 \(\?, 4, \?, \?\)"),
            ([], [tensor("embedding", 6)], "no output 'seenmask'"),
            ([], [tensor("embedding", 6), tensor("seenmask", 2, "INT32")], "got INT32"),
            (
                [],
                [tensor("embedding", 6), tensor("seenmask", 2), tensor("z", 1), tensor("a", 1)],
                "outputs that the manifest does not name: got a, z; export it without",
            ),
        ],
    )
    def test_other_tensors(
        self, inputs: list[Any], outputs: list[Any], match: str, trt: FakeBuilderTensorRT
    ) -> None:
        trt.inputs, trt.outputs = inputs or trt.inputs, outputs or trt.outputs
        with pytest.raises(BackendError, match=match):
            build()

    def test_half_precision_tensors(self, trt: FakeBuilderTensorRT) -> None:
        trt.inputs = [tensor("image", 3, "HALF")]
        trt.layers = [("HALF",)]
        assert build(precision="fp16")[1].inputs[0].dtype == "float16"

    def test_flags_that_cannot_be_set(self, trt: FakeBuilderTensorRT) -> None:
        with pytest.raises(
            UsageError,
            match=r"^TensorRT 10.3.0 has no such builder flag: got FASTER, expected one of "
            r"DIRECT_IO, SPARSE_WEIGHTS, TF32$",  # and not REFIT
        ):
            build(options=BuildOptions(flags=("FASTER",)))
        trt.ignored = {BuilderFlag.DIRECT_IO}
        with pytest.raises(
            BackendError,
            match=r"^TensorRT 10.3.0 refuses the builder flag DIRECT_IO: got no reason",
        ):
            build(options=BuildOptions(flags=("SPARSE_WEIGHTS", "DIRECT_IO")))
        assert trt.parsed == []


class TestTimingCache:
    def test_one_build_helps_the_next(self, trt: FakeBuilderTensorRT, tmp_path: Path) -> None:
        path = tmp_path / "new" / "cache"
        for size in (1, 2, 3):
            build(options=BuildOptions(timing_cache=path))
            assert path.read_bytes() == b"+" * size
        assert [entry.name for entry in path.parent.iterdir()] == ["cache"]
        build()
        assert trt.configs[-1].timing_cache is None

    def test_of_another_gpu(self, trt: FakeBuilderTensorRT, tmp_path: Path) -> None:
        path = tmp_path / "cache"
        path.write_bytes(b"another GPU's")
        lines: list[str] = []
        build(options=BuildOptions(timing_cache=path), progress=lines.append)
        assert f"engine fp32: {path} is of another version or GPU and begins anew" in lines
        assert path.read_bytes() == b"+"

    def test_that_cannot_be_read(self, trt: FakeBuilderTensorRT, tmp_path: Path) -> None:
        with pytest.raises(
            BackendError, match=r"timing cache .* cannot be read: got Is a directory"
        ):
            build(options=BuildOptions(timing_cache=tmp_path))
        (tmp_path / "file").touch()
        with pytest.raises(
            BackendError, match=r"cannot be read: got (Not a directory|File exists)"
        ):
            build(options=BuildOptions(timing_cache=tmp_path / "file" / "cache"))
        trt.failures["create_timing_cache"] = "CUDA error"
        with pytest.raises(BackendError, match="makes no timing cache: got CUDA error"):
            build(options=BuildOptions(timing_cache=tmp_path / "cache"))

    def test_that_cannot_be_written_costs_no_engine(
        self, trt: FakeBuilderTensorRT, tmp_path: Path
    ) -> None:
        path = tmp_path / "folder" / "cache"
        trt.steps = [path.parent.rmdir]  # while it builds
        lines: list[str] = []
        engine, _ = build(options=BuildOptions(timing_cache=path), progress=lines.append)
        assert engine
        assert f"timing cache {path} was not written (No such file or directory)" in lines[1]

    def test_a_failed_build_leaves_the_file_alone(
        self, trt: FakeBuilderTensorRT, tmp_path: Path
    ) -> None:
        path = tmp_path / "cache"
        path.write_bytes(b"measured")
        trt.failures["build_serialized_network"] = "CUDA error"
        with pytest.raises(BackendError, match="CUDA error"):
            build(options=BuildOptions(timing_cache=path))
        assert path.read_bytes() == b"measured"


class TestProgress:
    def test_a_line_now_and_then(
        self, trt: FakeBuilderTensorRT, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = iter(range(0, 1000, 4))
        monkeypatch.setattr(_building.time, "monotonic", lambda: next(clock))
        trt.steps = [lambda: None] * 7
        lines: list[str] = []
        build(progress=lines.append)
        # four seconds a step, a line every ten
        assert [line.removeprefix("engine fp32: ") for line in lines[1:-1]] == [
            "Building, step 3 of 7",
            "Building, step 6 of 7",
        ]

    def test_a_listener_that_fails(
        self, trt: FakeBuilderTensorRT, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def say(line: str) -> None:
            if "step" in line:
                raise BrokenPipeError("nobody listens")

        monkeypatch.setattr(_building, "_SECONDS_BETWEEN_LINES", 0)
        done: list[int] = []
        trt.steps = [lambda: done.append(1)] * 5
        with pytest.raises(BrokenPipeError, match="nobody listens"):
            build(progress=say)
        assert len(done) == 1

    def test_signals_in_a_process_of_their_own(self) -> None:
        """Libraries that other tests load leave traces that a raised signal does not survive."""
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", __file__, "-k", "ctrl_c or someone_else"],
            env={**os.environ, _ALONE: "1"},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"\b[45] passed", done.stdout), done.stdout  # 4 without the library

    @alone
    @pytest.mark.parametrize(
        ("number", "after"), [(signal.SIGINT, 1), (signal.SIGINT, 3), (signal.SIGTERM, 2)]
    )
    def test_ctrl_c(self, number: signal.Signals, after: int, trt: FakeBuilderTensorRT) -> None:
        done: list[int] = []

        def step() -> None:
            done.append(1)
            if len(done) == after:
                # what Python makes of it, the bindings would swallow in here
                signal.raise_signal(number)

        def end(*_: Any) -> None:
            raise KeyboardInterrupt

        trt.steps = [step] * 3
        before = signal.signal(signal.SIGTERM, end)
        handler = signal.getsignal(signal.SIGINT)
        try:
            with pytest.raises(KeyboardInterrupt):
                build()
        finally:
            signal.signal(signal.SIGTERM, before)
        assert len(done) == after
        assert signal.getsignal(signal.SIGINT) is handler

    @alone
    def test_a_signal_that_someone_else_handles(self, trt: FakeBuilderTensorRT) -> None:
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            trt.steps = [lambda: signal.raise_signal(signal.SIGINT)]
            with pytest.raises(BackendError, match="not built: got a signal to stop"):
                build()
        finally:
            signal.signal(signal.SIGINT, before)

    def test_in_another_thread(self, trt: FakeBuilderTensorRT) -> None:
        engines: list[bytes] = []
        thread = threading.Thread(target=lambda: engines.append(build()[0]))
        thread.start()
        thread.join()
        assert len(engines) == 1


class TestRebuilding:
    @pytest.fixture
    def old(self, trt: FakeBuilderTensorRT) -> EngineFacts:
        sha = hashlib.sha256(catalogue.onnx_model()).hexdigest()
        return fake_tensorrt.facts(
            version="10.0.1", compute_capabilities=("7.2",), profile=PROFILE, onnx_sha256=sha
        )

    def test_for_the_library_and_gpu_at_hand(
        self, old: EngineFacts, trt: FakeBuilderTensorRT, tmp_path: Path
    ) -> None:
        onnx = catalogue.onnx_model()
        bundle = engine_in_bundle(tmp_path / "tiny", b"stale", old, onnx)
        with pytest.raises(BackendError, match="another version of TensorRT"):
            TensorRTBackend.from_bundle(bundle, BackendOptions())
        lines: list[str] = []
        engine, facts = rebuild_engine(
            bundle, bundle.artefact(kind="tensorrt"), progress=lines.append
        )
        assert facts == dataclasses.replace(old, version="10.3.0", compute_capabilities=("8.7",))
        assert len(lines) == 2
        again = engine_in_bundle(tmp_path / "again", engine, facts, onnx)
        with TensorRTBackend.from_bundle(again, BackendOptions()) as backend:
            assert backend.provider == "TensorRT 10.3.0"

    def test_another_flavour(
        self, old: EngineFacts, trt: FakeBuilderTensorRT, tmp_path: Path
    ) -> None:
        rtx = dataclasses.replace(old, flavour="rtx", version="1.7.1.116")
        bundle = engine_in_bundle(tmp_path / "tiny", b"stale", rtx, catalogue.onnx_model())
        _, facts = rebuild_engine(bundle, bundle.artefact(kind="tensorrt"), flavour="tensorrt")
        assert facts == dataclasses.replace(old, version="10.3.0", compute_capabilities=("8.7",))

    def test_from_tensorrt_to_rtx(
        self, old: EngineFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is for all GPUs, since the one of TensorRT was that of its machine."""
        trt = FakeBuilderTensorRT(FakeCuda(), version="1.7.1.116", typed=False)
        fake_tensorrt.install(monkeypatch, trt, module="tensorrt_rtx")
        bundle = engine_in_bundle(tmp_path / "tiny", b"stale", old, catalogue.onnx_model())
        _, facts = rebuild_engine(bundle, bundle.artefact(kind="tensorrt"), flavour="rtx")
        assert (facts.flavour, facts.compute_capabilities) == ("rtx", ())

    def test_an_engine_of_a_part(
        self, old: EngineFacts, trt: FakeBuilderTensorRT, tmp_path: Path
    ) -> None:
        """Its tensors are not those of the manifest, so that its own facts say what they are."""
        old = dataclasses.replace(
            old,
            outputs=(TensorFacts(name="features", dtype="float32", shape=(None, 7, None, None)),),
        )
        onnx = catalogue.onnx_model()
        artefacts = (
            Artefact(kind="onnx-fcn", precision="fp32", file="fcn.onnx", opset=20),
            Artefact(kind="tensorrt-fcn", precision="fp32", file="fcn.engine", facts=old.to_json()),
        )
        files = {"fcn.onnx": onnx, "fcn.engine": b"stale"}
        bundle = Bundle.open(
            catalogue.tiny_bundle(tmp_path / "b", files=files, artefacts=artefacts)
        )
        trt.outputs = [tensor("features", 7)]
        _, facts = rebuild_engine(bundle, bundle.artefact(kind="tensorrt-fcn"))
        assert [t.name for t in facts.outputs] == ["features"]

    def test_without_its_file(self, old: EngineFacts, tmp_path: Path) -> None:
        other = dataclasses.replace(old, onnx_sha256="a" * 64)
        bundle = engine_in_bundle(tmp_path / "tiny", b"stale", other, catalogue.onnx_model())
        with pytest.raises(
            BackendError,
            match=r"does not hold the ONNX file that fp32.engine was built from: got model.onnx, "
            "expected one of sha256 aaaaaaaaaaaa; export it again with szn-export --trt",
        ):
            rebuild_engine(bundle, bundle.artefact(kind="tensorrt"))
        with pytest.raises(BundleError, match=r"artefact.kind .*got onnx, expected tensorrt"):
            rebuild_engine(bundle, bundle.artefact(kind="onnx"))

    def test_a_file_that_is_no_plain_network(
        self, old: EngineFacts, trt: FakeBuilderTensorRT, tmp_path: Path
    ) -> None:
        other = dataclasses.replace(old, onnx_sha256=hashlib.sha256(ONNX).hexdigest())
        bundle = engine_in_bundle(tmp_path / "tiny", b"stale", other, ONNX)
        with pytest.raises(BundleError, match=r"model\.onnx of .* is not an ONNX model"):
            rebuild_engine(bundle, bundle.artefact(kind="tensorrt"))
        assert trt.parsed == []

    @pytest.mark.parametrize(
        ("gpu", "before", "after"),
        [
            ("8.7", (), ()),  # which stands for all from 8.0 on
            ("7.5", (), ("7.5",)),
            ("8.6", ("8.6", "12.0"), ("8.6", "12.0")),
            ("8.9", ("8.6",), ("8.6", "8.9")),
            (None, ("8.6",), ("8.6",)),
            (None, (), ()),
        ],
    )
    def test_capabilities_for_rtx(
        self,
        gpu: str | None,
        before: tuple[str, ...],
        after: tuple[str, ...],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        cuda = FakeCuda(gpus=0 if gpu is None else 1)
        monkeypatch.setattr(fake_tensorrt, "CAPABILITY", gpu)
        fake_tensorrt.install(monkeypatch, FakeBuilderTensorRT(cuda), module="tensorrt_rtx")
        assert _building._with_this_gpu(before, 0) == after

    def test_rtx_for_a_gpu_that_it_does_not_run_on(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        trt = FakeBuilderTensorRT(FakeCuda(), version="1.7.1.116", typed=False)
        trt.targets = ("SM86", "SM120")
        monkeypatch.setattr(fake_tensorrt, "CAPABILITY", "9.0")
        fake_tensorrt.install(monkeypatch, trt, module="tensorrt_rtx")
        onnx = catalogue.onnx_model()
        old = fake_tensorrt.facts(
            "rtx", compute_capabilities=(), onnx_sha256=hashlib.sha256(onnx).hexdigest()
        )
        bundle = engine_in_bundle(tmp_path / "tiny", b"stale", old, onnx)
        with pytest.raises(
            BackendError, match=r"does not run on this GPU: .*\(9\.0\), exp.*8\.6, 12"
        ):
            rebuild_engine(bundle, bundle.artefact(kind="tensorrt"))
        assert trt.parsed == []


class TestRealLibrary:
    # the fake's class, and the real one's name
    CLASSES: tuple[tuple[Any, str], ...] = (
        (fake_builder.Builder, "Builder"),
        (fake_builder.Network, "INetworkDefinition"),
        (fake_builder.Layer, "ILayer"),
        (fake_builder.OnnxParser, "OnnxParser"),
        (fake_builder.Shapes, "IOptimizationProfile"),
        (fake_builder.Config, "IBuilderConfig"),
        (fake_builder.Cache, "ITimingCache"),
        (fake_builder.ProgressMonitor, "IProgressMonitor"),
    )

    def test_the_fake_has_its_methods(self, rtx: Any) -> None:
        for fake, name in self.CLASSES:
            real = getattr(rtx, name)
            for method, body in vars(fake).items():
                if method.startswith("_"):
                    continue
                if isinstance(body, property):
                    assert isinstance(getattr(real, method), property), f"{name}.{method}"
                    continue
                # the real ones' signatures are in their documentation
                found = re.search(rf"{method}\(self: [^,)]+,? ?(.*)\) -> ", doc(real, method))
                assert found is not None, f"{name}.{method}"
                wanted = len(fake_tensorrt.parameters(body))
                assert len(re.findall(r"(\w+): ", found[1])) >= wanted, f"{name}.{method}"
        for member in (*fake_builder.DataType, *BuilderFlag, *fake_builder.MemoryPoolType):
            assert hasattr(getattr(rtx, type(member).__name__), member.name)
        for attribute in ("progress_monitor", "num_compute_capabilities"):
            assert isinstance(getattr(rtx.IBuilderConfig, attribute), property)
        assert isinstance(rtx.INetworkDefinition.num_layers, property)

    def test_facts(self, built: tuple[bytes, EngineFacts], rtx: Any) -> None:
        engine, facts = built
        assert len(engine) > 100_000
        assert facts == fake_tensorrt.facts(
            "rtx",
            version=rtx.__version__,
            compute_capabilities=(),
            profile=PROFILE,
            onnx_sha256=hashlib.sha256(catalogue.onnx_model()).hexdigest(),
        )

    def test_again(self, built: tuple[bytes, EngineFacts]) -> None:
        engine, facts = build(catalogue.onnx_model(), flavour="rtx")
        assert facts == built[1]
        # not equal: the order of equal instructions is the library's whim
        assert len(engine) == len(built[0])

    def test_compute_capabilities(self, built: tuple[bytes, EngineFacts]) -> None:
        options = BuildOptions(compute_capabilities=("7.5", "8.9"), workspace_mib=64)
        lines: list[str] = []
        engine, facts = build(
            catalogue.onnx_model(), flavour="rtx", options=options, progress=lines.append
        )
        assert facts.compute_capabilities == ("7.5", "8.9")
        assert len(engine) > len(built[0])  # Turing has instructions of its own
        assert lines[0] == f"engine fp32: building with {open_library('rtx')}"

    @pytest.mark.parametrize("capability", ["9.0", "8.7", "5.0"])
    def test_capabilities_that_it_does_not_build_for(self, capability: str, rtx: Any) -> None:
        options = BuildOptions(compute_capabilities=("8.6", capability))
        with pytest.raises(
            UsageError, match=f"does not build for .*: got {capability}, expected one of 7.5, 8.0,"
        ):
            build(catalogue.onnx_model(), flavour="rtx", options=options)

    @alone
    def test_ctrl_c(self, rtx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def say(line: str) -> None:
            if "step" in line:
                lines.append(line)
                signal.raise_signal(signal.SIGINT)

        lines: list[str] = []
        monkeypatch.setattr(_building, "_SECONDS_BETWEEN_LINES", 0)
        with pytest.raises(KeyboardInterrupt):
            build(catalogue.onnx_model(), flavour="rtx", progress=say)
        assert len(lines) == 1

    def test_a_listener_that_fails(self, rtx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def say(line: str) -> None:
            if "step" in line:
                raise BrokenPipeError("nobody listens")

        monkeypatch.setattr(_building, "_SECONDS_BETWEEN_LINES", 0)
        with pytest.raises(BrokenPipeError, match="nobody listens"):
            build(catalogue.onnx_model(), flavour="rtx", progress=say)

    def test_rebuilding(
        self, built: tuple[bytes, EngineFacts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # whatever GPU the machine has
        monkeypatch.setattr(_building, "_with_this_gpu", lambda capabilities, _: capabilities)
        old = dataclasses.replace(built[1], version="1.2.0", compute_capabilities=("8.6",))
        bundle = engine_in_bundle(tmp_path / "tiny", b"stale", old, catalogue.onnx_model())
        engine, facts = rebuild_engine(bundle, bundle.artefact(kind="tensorrt"))
        assert facts == dataclasses.replace(built[1], compute_capabilities=("8.6",))
        assert len(engine) > 100_000


def doc(real: Any, method: str) -> str:
    return str(getattr(real, method).__doc__)
