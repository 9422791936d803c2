from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szn_runtime.backends import BackendOptions, open_backend
from szn_runtime.backends._cuda import (
    DeviceBuffer,
    PinnedBuffer,
    Stream,
    call,
    check,
    find_gpu,
    load_cuda,
)
from szn_runtime.backends._engine import open_library
from szn_runtime.backends.fake import FakeBackend
from szn_runtime.backends.tensorrt import TensorRTBackend
from szn_runtime.backends.tensors import TensorFacts
from szn_runtime.bundle import Bundle
from szn_runtime.errors import BackendError, BundleError, MissingDependencyError
from tests.runtime import catalogue, fake_tensorrt
from tests.runtime.fake_tensorrt import (
    CudaError,
    FakeCuda,
    FakeTensorRT,
    Logger,
    engine_bundle,
    facts,
    opened,
    profile,
    tensors,
)


def frames(n: int = 1, height: int = 16, width: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3, height, width)).astype(np.float32)


def expected(batch: np.ndarray) -> Any:
    return FakeBackend(dim=catalogue.DIM, stride=catalogue.STRIDE).infer(batch)


def load(bundle: Bundle, **options: Any) -> TensorRTBackend:
    return TensorRTBackend.from_bundle(bundle, BackendOptions(**options))


def rtx_beside(gpu: str, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """A TensorRT-RTX that runs on some capabilities, and a GPU of one."""
    fake = FakeTensorRT(FakeCuda(), version="1.7.1.116")
    fake.targets = ("SM75", "SM80", "SM86", "SM120")
    monkeypatch.setattr(fake_tensorrt, "CAPABILITY", gpu)
    fake_tensorrt.install(monkeypatch, fake, module="tensorrt_rtx")
    return fake


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """Fakes that are installed as `tensorrt` and `cuda.bindings.runtime`."""
    fake = FakeTensorRT(FakeCuda())
    fake_tensorrt.install(monkeypatch, fake)
    return fake


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return engine_bundle(tmp_path / "tiny")


@pytest.fixture
def backend(trt: FakeTensorRT, bundle: Bundle) -> Iterator[TensorRTBackend]:
    with load(bundle) as loaded:
        yield loaded


class TestInference:
    @settings(max_examples=25, deadline=None)
    @given(
        st.integers(1, 9),
        st.integers(1, 3),
        st.integers(0, 3),
        st.integers(1, 3),
        st.integers(1, 3),
        st.sampled_from(["FLOAT", "HALF"]),
        st.sampled_from(["FLOAT", "HALF"]),
    )
    def test_any_batch_and_size(
        self, n: int, least: int, more: int, h: int, w: int, image: str, embedding: str
    ) -> None:
        about = facts(profile=profile((least, 8, 8), (least + more, 24, 24)))
        contents = tensors(image=image, embedding=embedding)
        batch = frames(n, 8 * h, 8 * w, seed=n)
        half = {"FLOAT": batch, "HALF": batch.astype(np.float16).astype(np.float32)}[image]
        want = expected(half)
        with (
            tempfile.TemporaryDirectory() as folder,
            opened(Path(folder) / "tiny", about, contents=contents) as (backend, trt),
        ):
            found = backend.infer(batch)
            assert sum(shape[0] for shape in trt.runs) >= n
            assert {shape[1:] for shape in trt.runs} == {batch.shape[1:]}
        tolerance = 0 if embedding == "FLOAT" else 1e-3
        np.testing.assert_allclose(found.embedding, want.embedding, atol=tolerance)
        np.testing.assert_array_equal(found.seenmask, want.seenmask)
        assert found.embedding.dtype == found.seenmask.dtype == np.float32

    def test_a_batch_in_parts_is_waited_for_once(self, tmp_path: Path) -> None:
        about = facts(profile=profile((2, 8, 8), (4, 64, 64)))
        with opened(tmp_path / "tiny", about) as (backend, trt):
            batch = frames(9)
            found = backend.infer(batch)
            # the last part has one frame, and is filled up to the least that the engine takes
            assert trt.runs == [(4, 3, 16, 24), (4, 3, 16, 24), (2, 3, 16, 24)]
            assert trt.cuda.count("cudaStreamSynchronize") == 1
        np.testing.assert_array_equal(found.embedding, expected(batch).embedding)
        np.testing.assert_array_equal(found.seenmask, expected(batch).seenmask)

    def test_buffers_grow_and_are_used_again(
        self, backend: TensorRTBackend, trt: FakeTensorRT
    ) -> None:
        cuda = trt.cuda

        def sizes(side: str) -> list[int]:
            return sorted(data.size for kind, data in cuda.memory.values() if kind == side)

        assert cuda.memory == {}  # nothing before the size is known
        backend.infer(frames(2))
        small = [4 * 2 * 2 * 2 * 3, 4 * 2 * 6 * 2 * 3, 4 * 2 * 3 * 16 * 24]
        assert sizes("host") == sizes("device") == small
        for batch in (frames(2), frames(1), frames(2, 8, 8)):
            np.testing.assert_array_equal(backend.infer(batch).embedding, expected(batch).embedding)
        assert cuda.count("cudaMalloc") == cuda.count("cudaMallocHost") == 3
        batch = frames(10, 32, 32)
        np.testing.assert_array_equal(backend.infer(batch).embedding, expected(batch).embedding)
        # the host holds the whole batch, the GPU four frames of it at a time
        assert sizes("host") == [4 * 10 * n for n in (2 * 16, 6 * 16, 3 * 1024)]
        assert sizes("device") == [4 * 4 * n for n in (2 * 16, 6 * 16, 3 * 1024)]
        assert cuda.count("cudaFree") == cuda.count("cudaFreeHost") == 3
        backend.close()
        assert cuda.memory == cuda.streams == {}

    def test_results_are_not_overwritten(self, backend: TensorRTBackend) -> None:
        batch = frames()
        kept = batch.copy()
        first = backend.infer(batch)
        np.testing.assert_array_equal(batch, kept)
        backend.infer(frames(seed=1))
        np.testing.assert_array_equal(first.embedding, expected(batch).embedding)
        backend.close()  # nor freed
        np.testing.assert_array_equal(first.seenmask, expected(batch).seenmask)

    def test_half_overflow_is_reported(self, tmp_path: Path) -> None:
        contents = tensors(image="HALF")
        with opened(tmp_path / "tiny", contents=contents) as (backend, _):
            batch = frames(1)
            batch[0, 0, 0, 0] = 1e6
            with pytest.raises(BackendError, match="embedding holds numbers that are not finite"):
                backend.infer(batch)
            np.testing.assert_allclose(
                backend.infer(frames()).embedding, expected(frames()).embedding, atol=1e-3
            )

    @pytest.mark.parametrize(
        ("wrong", "match"),
        [
            (frames().astype(np.float64), r"got float64 \(1, 3, 16, 24\), expected float32"),
            (frames()[0], r"got float32 \(3, 16, 24\)"),
            (frames()[..., ::-1], "not contiguous"),
            (frames(1, 72, 8), "got 72 x 8, expected height 8 to 64, width 8 to 64; choose anoth"),
            (frames(1, 8, 72), "got 8 x 72, expected height 8 to 64, width 8 to 64"),
        ],
    )
    def test_frames_that_are_refused(
        self, backend: TensorRTBackend, trt: FakeTensorRT, wrong: np.ndarray, match: str
    ) -> None:
        with pytest.raises(BackendError, match=match):
            backend.infer(wrong)
        assert trt.runs == []

    def test_closing(self, backend: TensorRTBackend, trt: FakeTensorRT) -> None:
        with backend as entered:
            assert entered is backend
            backend.infer(frames())
        backend.close()
        assert trt.cuda.memory == trt.cuda.streams == {}
        with pytest.raises(BackendError, match="the tensorrt backend is closed; load the bundle"):
            backend.infer(frames())

    def test_every_thread_uses_the_device(self, tmp_path: Path) -> None:
        trt = FakeTensorRT(FakeCuda(gpus=2))
        devices = []

        def run() -> None:
            backend.infer(frames())
            devices.append(trt.cuda.device.index)

        with opened(tmp_path / "tiny", trt=trt, device="gpu:1") as (backend, _):
            assert backend.device == "gpu:1 NVIDIA Orin (8.7)"
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
        assert devices == [trt.cuda.device.index] == [1]


class TestLoading:
    def test_facts_for_the_report(self, backend: TensorRTBackend, trt: FakeTensorRT) -> None:
        assert backend.name == "tensorrt"
        assert backend.device == "gpu:0 NVIDIA Orin (8.7)"
        assert backend.provider == "TensorRT 10.3.0"
        assert backend.precision == "fp32"
        assert (backend.threads, backend.requests) == (1, 1)
        assert (backend.input_dtype, backend.input_layout) == ("float32", "NCHW")

    def test_by_name(self, trt: FakeTensorRT, bundle: Bundle) -> None:
        with open_backend("tensorrt", bundle) as backend:
            assert isinstance(backend, TensorRTBackend)

    @pytest.mark.parametrize("module", ["tensorrt_rtx", "tensorrt_rtx_bindings"])
    def test_rtx(self, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = FakeTensorRT(FakeCuda(), version="1.7.1.116")
        fake_tensorrt.install(monkeypatch, fake, module=module)
        about = facts("rtx", compute_capabilities=())
        with load(engine_bundle(tmp_path / "tiny", about)) as backend:
            assert backend.provider == "TensorRT-RTX 1.7.1"
            assert backend.name == "tensorrt"
            found = backend.infer(frames())
        np.testing.assert_array_equal(found.embedding, expected(frames()).embedding)

    @pytest.mark.parametrize("gpu", ["7.2", "8.7", "9.0", "10.0"])
    def test_a_gpu_that_rtx_does_not_run_on(
        self, gpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Building again would not help, so that another library is named instead."""
        fake = rtx_beside(gpu, monkeypatch)
        bundle = engine_bundle(tmp_path / "tiny", facts("rtx", compute_capabilities=()))
        with pytest.raises(BackendError) as caught:
            load(bundle)
        assert str(caught.value) == (
            f"TensorRT-RTX 1.7.1 does not run on this GPU: got gpu:0 NVIDIA Orin ({gpu}), "
            "expected compute capability 7.5, 8.0, 8.6, 12.0 or later; "
            'use TensorRT: pip install "szn[gpu]" (on a Jetson see docs/jetson.md), then szn-run '
            "--rebuild-engines --flavour tensorrt, or szn-export --trt --trt-flavour tensorrt"
        )
        assert fake.logger is None  # the library was not even started

    @pytest.mark.parametrize("gpu", ["7.5", "8.0", "12.0", "12.1", "13.0"])
    def test_gpus_that_rtx_runs_on(
        self, gpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rtx_beside(gpu, monkeypatch)
        about = facts("rtx", compute_capabilities=())
        with load(engine_bundle(tmp_path / "tiny", about)) as backend:
            assert backend.device == f"gpu:0 NVIDIA Orin ({gpu})"

    @pytest.mark.parametrize(
        ("there", "wanted", "chosen"),
        [
            (("int8", "fp16", "fp32"), "auto", "fp32"),
            (("int8", "bf16", "fp16"), "auto", "fp16"),
            (("int8",), "auto", "int8"),
            (("int8", "fp32"), "int8", "int8"),
        ],
    )
    def test_precisions(
        self, there: tuple[str, ...], wanted: str, chosen: str, trt: FakeTensorRT, tmp_path: Path
    ) -> None:
        bundle = engine_bundle(tmp_path / "tiny", precisions=there)
        with load(bundle, precision=wanted) as backend:
            assert backend.precision == chosen

    def test_precisions_that_are_not_there(
        self, trt: FakeTensorRT, bundle: Bundle, tmp_path: Path
    ) -> None:
        with pytest.raises(BundleError, match="no tensorrt model in fp16: got onnx fp32, tensorr"):
            load(bundle, precision="fp16")
        without = Bundle.open(catalogue.tiny_bundle(tmp_path / "plain", files={"model.onnx": b""}))
        with pytest.raises(
            BundleError, match="has no TensorRT engine: got onnx fp32; build one with szn-export"
        ):
            load(without)

    @pytest.mark.parametrize("device", ["cpu", "tensorrt"])
    def test_other_devices(self, device: str, trt: FakeTensorRT, bundle: Bundle) -> None:
        with pytest.raises(
            BackendError,
            match=f"runs on NVIDIA GPUs: got {device}, expected auto, gpu or gpu:1; use --backend "
            "onnxruntime",
        ):
            load(bundle, device=device)
        assert trt.cuda.calls == []

    def test_a_damaged_engine_is_never_loaded(self, trt: FakeTensorRT, bundle: Bundle) -> None:
        path = bundle.path / "fp32.engine"
        path.write_bytes(path.read_bytes()[::-1])
        with pytest.raises(BundleError, match=r"fp32\.engine of .* is damaged: got sha256"):
            load(bundle)
        assert trt.logger is None  # the library was not even started

    @pytest.mark.parametrize(
        ("about", "match"),
        [
            (facts(version="10.7.0"), "version of TensorRT: got 10.3.0 installed, expected 10.7.0"),
            (facts(compute_capabilities=("8.6",)), r"another GPU: got gpu:0 NVIDIA Orin \(8\.7\)"),
            (facts(inputs=()), "no input 'image', which the manifest names"),
            (facts(outputs=facts().outputs[:1]), "no output 'seenmask'"),
            (
                facts(
                    outputs=(*facts().outputs, TensorFacts(name="x", dtype="float32", shape=(1,)))
                ),
                "outputs that the manifest does not name: got x; rebuild it",
            ),
        ],
    )
    def test_facts_are_checked_before_the_engine_is_read(
        self, about: Any, match: str, trt: FakeTensorRT, tmp_path: Path
    ) -> None:
        bundle = engine_bundle(tmp_path / "tiny", about)
        (bundle.path / "fp32.engine").write_bytes(b"")
        with pytest.raises(BackendError, match=match):
            load(bundle)

    @pytest.mark.parametrize(
        ("contents", "match"),
        [
            (tensors()[1:], "no input 'image', which the manifest names"),
            (tensors()[:2], "no output 'seenmask', .*got embedding;"),
            (tensors(dim=5), r"'embedding' .* does not fit .*got float32 \(\?, 5, \?, \?\), expec"),
            (tensors(seenmask="BF16"), r"'seenmask' .*got BF16 .*expected float32 or float16"),
            (
                [*tensors(), fake_tensorrt.tensor("extra", "INPUT", 1)],
                "more than one input: got image, extra",
            ),
            (
                [*tensors(), fake_tensorrt.tensor("extra", "OUTPUT", 1)],
                "outputs that the manifest does not name: got extra",
            ),
        ],
    )
    def test_engines_that_are_not_what_their_facts_say(
        self, contents: Any, match: str, trt: FakeTensorRT, tmp_path: Path
    ) -> None:
        engine = fake_tensorrt.plan(facts(), contents)
        with pytest.raises(BackendError, match=match):
            load(engine_bundle(tmp_path / "tiny", engine=engine))
        assert trt.cuda.memory == trt.cuda.streams == {}

    @pytest.mark.parametrize(
        ("method", "match"),
        [
            (
                "deserialize_cuda_engine",
                "TensorRT 10.3.0 cannot load the engine: got told that; re",
            ),
            (
                "create_execution_context",
                "TensorRT 10.3.0 cannot prepare the engine: got told that; fr",
            ),
        ],
    )
    def test_the_library_refuses(
        self, method: str, match: str, trt: FakeTensorRT, bundle: Bundle
    ) -> None:
        trt.failures[method] = "told\nthat|and what it led to"
        with pytest.raises(BackendError, match=match) as caught:
            load(bundle)
        assert "\n" not in str(caught.value)
        assert trt.cuda.memory == trt.cuda.streams == {}

    def test_the_library_does_not_start(self, trt: FakeTensorRT, bundle: Bundle) -> None:
        trt.raises["Runtime"] = TypeError("factory function returned nullptr")
        with pytest.raises(
            BackendError, match=r"TensorRT 10\.3\.0 does not start: got factory function returned"
        ):
            load(bundle)

    def test_a_logger_that_was_there_before(self, trt: FakeTensorRT, bundle: Bundle) -> None:
        class Other(Logger):
            def log(self, severity: Any, msg: str) -> None:
                pass

        trt.logger = Other()  # the library keeps it, and tells us nothing
        trt.failures["deserialize_cuda_engine"] = "told"
        with pytest.raises(BackendError, match="cannot load the engine: got no reason from Tens"):
            load(bundle)


class TestWithout:
    @pytest.mark.parametrize(
        ("failure", "driver", "got"),
        [
            (CudaError.cudaErrorNoDevice, 13020, "cudaErrorNoDevice"),
            (CudaError.cudaErrorInsufficientDriver, 0, "cudaErrorInsufficientDriver"),
            (RuntimeError("Failed to dlopen libcuda.so.1"), 0, "Failed to dlopen libcuda.so.1"),
            (None, 13020, "0 GPUs"),
        ],
    )
    def test_without_a_gpu(
        self, failure: Any, driver: int, got: str, trt: FakeTensorRT, bundle: Bundle
    ) -> None:
        trt.cuda.gpus, trt.cuda.driver = 0, driver
        trt.cuda.failures["cudaGetDeviceCount"] = failure
        with pytest.raises(
            BackendError,
            match=f"^there is no NVIDIA GPU, or its driver is not installed: got {got}; check what "
            r"nvidia-smi says, or run on the CPU \(--backend onnxruntime\)$",
        ):
            load(bundle)

    def test_with_an_old_driver(self, trt: FakeTensorRT, bundle: Bundle) -> None:
        trt.cuda.driver = 12060
        trt.cuda.failures["cudaGetDeviceCount"] = CudaError.cudaErrorInsufficientDriver
        with pytest.raises(
            BackendError,
            match=r"driver is older than cuda-python: got a driver for CUDA 12\.6, expected CUDA "
            r'13; update the driver, or pip install "cuda-python==12\.6\.\*"',
        ):
            load(bundle)

    @pytest.mark.parametrize(
        ("gpus", "match"),
        [
            (1, "no gpu:2: got 1 GPU, expected gpu:0$"),
            (2, "no gpu:2: got 2 GPUs, expected gpu:0 to gpu:1$"),
        ],
    )
    def test_without_that_gpu(
        self, gpus: int, match: str, trt: FakeTensorRT, bundle: Bundle
    ) -> None:
        trt.cuda.gpus = gpus
        with pytest.raises(BackendError, match=match):
            load(bundle, device="gpu:2")

    @pytest.mark.parametrize("flavour", ["tensorrt", "rtx"])
    def test_without_libraries(
        self, flavour: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        extra = {"tensorrt": "gpu", "rtx": "rtx"}[flavour]
        bundle = engine_bundle(tmp_path / "tiny", facts(flavour))
        fake = FakeTensorRT(FakeCuda(), version=fake_tensorrt.VERSIONS[flavour])
        fake_tensorrt.install(monkeypatch, fake, module=None)
        with pytest.raises(
            MissingDependencyError, match=rf'TensorRT.* is not installed.*"szn\[{extra}\]"'
        ):
            load(bundle)
        module = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}[flavour]
        fake_tensorrt.install(monkeypatch, fake, module=module)
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
        with pytest.raises(
            MissingDependencyError, match=rf'cuda-python is not installed.*"szn\[{extra}\]"'
        ):
            load(bundle)

    def test_importing_the_backend_imports_no_library(self) -> None:
        code = (
            "import sys, szn_runtime.backends.tensorrt\n"
            "roots = {name.partition('.')[0] for name in sys.modules}\n"
            "print(sorted(roots & {'cuda', 'tensorrt', 'tensorrt_rtx_bindings'}))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "[]\n", done.stderr


class TestFailures:
    """What fails in a call is reported, and the backend works again once it does not fail."""

    @pytest.mark.parametrize(
        ("method", "match"),
        [
            ("set_input_shape", r"the engine refuses frames of shape \(2, 3, 16, 24\): got told"),
            ("set_tensor_address", "the engine refuses memory for 'image': got told"),
            ("execute_async_v3", r"the engine failed on frames of shape \(2, 3, 16, 24\): got tol"),
            ("get_tensor_shape", r"'embedding' has another shape: got \(2, 6, -1, -1\), expected"),
        ],
    )
    def test_of_the_library(
        self, method: str, match: str, backend: TensorRTBackend, trt: FakeTensorRT
    ) -> None:
        trt.failures[method] = "told"
        with pytest.raises(BackendError, match=match):
            backend.infer(frames(2))
        trt.failures.clear()
        self.check_recovery(backend, trt)

    @pytest.mark.parametrize("later", [False, True])
    @pytest.mark.parametrize(
        "function",
        [
            "cudaSetDevice",
            "cudaMalloc",
            "cudaMallocHost",
            "cudaMemcpyAsync",
            "cudaStreamSynchronize",
        ],
    )
    def test_of_cuda(
        self, function: str, later: bool, backend: TensorRTBackend, trt: FakeTensorRT
    ) -> None:
        if later:  # with buffers that are too small by then
            backend.infer(frames(1, 8, 8))
        trt.cuda.failures[function] = CudaError.cudaErrorIllegalAddress
        with pytest.raises(
            BackendError, match=rf"^{function} failed: got cudaErrorIllegalAddress \(700\)$"
        ):
            backend.infer(frames(6))
        trt.cuda.failures.clear()
        self.check_recovery(backend, trt)

    def test_when_half_of_the_batch_is_queued(
        self, backend: TensorRTBackend, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = Stream.copy_to_host

        def interrupted(stream: Stream, *arguments: int) -> None:
            if len(trt.runs) == 2:
                raise KeyboardInterrupt
            real(stream, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Stream, "copy_to_host", interrupted)
            with pytest.raises(KeyboardInterrupt):
                backend.infer(frames(8))
        assert list(trt.cuda.streams.values()) == [[]]  # waited for what was queued
        self.check_recovery(backend, trt)

    def check_recovery(self, backend: TensorRTBackend, trt: FakeTensorRT) -> None:
        # larger than before, so that buffers are freed: not while anything is queued
        batch = frames(7, 32, 48)
        np.testing.assert_array_equal(backend.infer(batch).embedding, expected(batch).embedding)
        backend.close()
        assert trt.cuda.memory == trt.cuda.streams == {}

    def test_a_reason_for_too_little_memory(
        self, backend: TensorRTBackend, trt: FakeTensorRT
    ) -> None:
        trt.cuda.failures["cudaMalloc"] = CudaError.cudaErrorMemoryAllocation
        with pytest.raises(
            BackendError,
            match=r"cudaMalloc failed: got cudaErrorMemoryAllocation \(2\); use smaller frames",
        ):
            backend.infer(frames())

    @pytest.mark.parametrize("function", ["cudaGetDeviceProperties", "cudaStreamCreate"])
    def test_while_loading(self, function: str, trt: FakeTensorRT, bundle: Bundle) -> None:
        trt.cuda.failures[function] = CudaError.cudaErrorIllegalAddress
        with pytest.raises(BackendError, match=f"{function} failed: got cudaErrorIllegalAddress"):
            load(bundle)
        assert trt.cuda.memory == trt.cuda.streams == {}

    def test_closing_after_a_failure_that_stays(
        self, backend: TensorRTBackend, trt: FakeTensorRT
    ) -> None:
        backend.infer(frames())
        for function in ("cudaStreamSynchronize", "cudaFree", "cudaFreeHost", "cudaStreamDestroy"):
            trt.cuda.failures[function] = CudaError.cudaErrorIllegalAddress
        with pytest.raises(BackendError, match="cudaStreamSynchronize failed"):
            backend.infer(frames())
        backend.close()  # raises no other error
        assert trt.cuda.count("cudaFree") == trt.cuda.count("cudaFreeHost") == 3
        assert trt.cuda.count("cudaStreamDestroy") == 1


class TestCuda:
    def test_what_a_function_returns(self) -> None:
        done = CudaError.cudaSuccess
        assert check((done,)) is None
        assert check((done, 7)) == 7
        assert check((done, 7, 8)) == (7, 8)
        with pytest.raises(BackendError, match=r"^CUDA failed: got cudaErrorNoDevice \(100\)$"):
            check((CudaError.cudaErrorNoDevice, None))

    def test_functions_that_are_not_there(self) -> None:
        cuda = FakeCuda()
        cuda.failures["cudaMalloc"] = RuntimeError('Function "cuMemAlloc" not found')
        with pytest.raises(BackendError, match='cudaMalloc failed: got Function "cuMemAlloc" not'):
            call(cuda.module(), "cudaMalloc", 8)

    @pytest.mark.parametrize("buffer", [DeviceBuffer, PinnedBuffer])
    def test_buffers(self, buffer: type[DeviceBuffer | PinnedBuffer]) -> None:
        cuda = FakeCuda()
        with buffer(cuda.module()) as held:
            assert (held.address, held.nbytes) == (0, 0)
            held.grow(10)
            first = held.address
            held.grow(10)
            assert (held.address, held.nbytes) == (first, 10)
            held.grow(11)
            assert held.nbytes == 11
            assert list(cuda.memory) == [held.address]
        assert cuda.memory == {}
        held.close()
        assert held.address == 0

    def test_pinned_memory_as_an_array(self) -> None:
        cuda = FakeCuda()
        with PinnedBuffer(cuda.module()) as held:
            held.grow(24)
            view = held.view((2, 3), np.dtype(np.float16))
            view[:] = np.arange(6).reshape(2, 3)
            data = cuda.at("host", held.address, 12)
            assert data.view(np.float16).tolist() == [0, 1, 2, 3, 4, 5]
            with pytest.raises(ValueError, match="buffer is smaller than requested"):
                held.view((7,), np.dtype(np.float32))

    def test_copies_wait_for_the_stream(self) -> None:
        cuda = FakeCuda()
        module = cuda.module()
        with (
            Stream(module) as stream,
            PinnedBuffer(module) as host,
            DeviceBuffer(module) as device,
        ):
            for buffer in (host, device):
                buffer.grow(4)
            numbers = host.view((4,), np.dtype(np.uint8))
            numbers[:] = [1, 2, 3, 4]
            stream.copy_to_device(device.address, host.address, 4)
            stream.copy_to_host(host.address + 2, device.address, 2)
            assert numbers.tolist() == [1, 2, 3, 4]
            stream.synchronise()
            assert numbers.tolist() == [1, 2, 1, 2]
            assert stream.handle in cuda.streams
        assert cuda.streams == cuda.memory == {}
        stream.close()
        assert cuda.count("cudaStreamDestroy") == 1


def gpus() -> int:
    """How many the machine has, through the real library."""
    try:
        runtime = load_cuda(extra="gpu")
        code, count = runtime.cudaGetDeviceCount()
    except (MissingDependencyError, RuntimeError):
        return 0
    return count if int(code) == 0 else 0


@pytest.fixture(scope="module")
def real_cuda() -> Any:
    return pytest.importorskip(
        "cuda.bindings.runtime", reason="cuda-python is not installed", exc_type=ImportError
    )


@pytest.fixture(scope="module")
def rtx() -> Any:
    return pytest.importorskip(
        "tensorrt_rtx_bindings",
        reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13-libs "
        "tensorrt-rtx-cu13-bindings",
        exc_type=ImportError,
    )


class TestRealCuda:
    def test_the_fake_has_its_functions(self, real_cuda: Any) -> None:
        fake = FakeCuda()
        for name, (body, _) in fake.functions.items():
            first = getattr(real_cuda, name).__doc__.strip().splitlines()[0]
            listed = re.fullmatch(rf"{name}\((.*)\)", first)
            assert listed is not None, first
            wanted = [part for part in listed.group(1).split(",") if part.strip()]
            assert len(wanted) == len(fake_tensorrt.parameters(body)), first
        for kind in fake_tensorrt.CopyKind:
            assert int(getattr(real_cuda.cudaMemcpyKind, kind.name)) == int(kind)
        for error in CudaError:
            assert int(getattr(real_cuda.cudaError_t, error.name)) == int(error)
            assert getattr(real_cuda.cudaError_t, error.name).name == error.name
        fields = real_cuda.cudaDeviceProp()
        assert isinstance(fields.name, bytes)
        assert isinstance(fields.major, int)
        assert isinstance(fields.minor, int)

    @pytest.mark.skipif(gpus() > 0, reason="there is a GPU")
    def test_without_a_gpu(self, real_cuda: Any) -> None:
        with pytest.raises(BackendError, match="there is no NVIDIA GPU, or its driver is not ins"):
            find_gpu(real_cuda, 0)
        for function, arguments in [
            ("cudaSetDevice", (0,)),
            ("cudaMalloc", (8,)),
            ("cudaMallocHost", (8,)),
            ("cudaStreamCreate", ()),
        ]:
            with pytest.raises(BackendError, match=f"{function} failed: got "):
                call(real_cuda, function, *arguments)

    @pytest.mark.skipif(gpus() == 0, reason="there is no GPU")
    def test_copying(self, real_cuda: Any) -> None:
        gpu = find_gpu(real_cuda, 0)
        assert re.fullmatch(r"gpu:0 .+ \(\d+\.\d\)", str(gpu))
        call(real_cuda, "cudaSetDevice", 0)
        with (
            Stream(real_cuda) as stream,
            PinnedBuffer(real_cuda) as host,
            DeviceBuffer(real_cuda) as device,
        ):
            for buffer in (host, device):
                buffer.grow(8)
            numbers = host.view((8,), np.dtype(np.uint8))
            numbers[:] = range(8)
            stream.copy_to_device(device.address, host.address, 8)
            stream.copy_to_host(host.address, device.address + 4, 4)
            stream.synchronise()
            assert numbers.tolist() == [4, 5, 6, 7, 4, 5, 6, 7]


class TestRealLibrary:
    # the fake's class, and the real one's name
    CLASSES = (
        (fake_tensorrt.Runtime, "Runtime"),
        (fake_tensorrt.Engine, "ICudaEngine"),
        (fake_tensorrt.Context, "IExecutionContext"),
        (fake_tensorrt.Logger, "ILogger"),
    )

    @pytest.fixture(scope="class")
    def plan(self, rtx: Any) -> bytes:
        """The tiny network's engine, for batches of 1 to 4 and sides of 8 to 64."""
        library = open_library("rtx")
        builder = rtx.Builder(library.log)
        network = builder.create_network(0)
        assert rtx.OnnxParser(network, library.log).parse(catalogue.onnx_model())
        config = builder.create_builder_config()
        shapes = builder.create_optimization_profile()
        sides = facts("rtx").profile
        shapes.set_shape("image", sides.min, sides.opt, sides.max)
        assert config.add_optimization_profile(shapes) == 0
        return bytes(library.call("no engine", builder.build_serialized_network, network, config))

    @pytest.fixture
    def engine(self, plan: bytes, rtx: Any, tmp_path: Path) -> Bundle:
        about = facts("rtx", version=rtx.__version__, compute_capabilities=())
        return engine_bundle(tmp_path / "tiny", about, engine=plan)

    def test_the_fake_has_its_methods(self, rtx: Any) -> None:
        for fake, name in self.CLASSES:
            real = getattr(rtx, name)
            for method, body in vars(fake).items():
                if method.startswith("_") or not (callable(body) or isinstance(body, property)):
                    continue
                assert hasattr(real, method), f"{name}.{method}"
                if isinstance(body, property):
                    assert isinstance(getattr(real, method), property)
                    continue
                # the real ones' signatures are in their documentation, one for each overload
                signatures = re.findall(
                    rf"{method}\(self: [^,)]+,? ?(.*)\) -> ", real_doc(real, method)
                )
                found = [re.findall(r"(\w+): ", signature) for signature in signatures]
                wanted = fake_tensorrt.parameters(body)
                assert any(names[: len(wanted)] == wanted for names in found), (method, found)
        for enum in (fake_tensorrt.DataType, fake_tensorrt.TensorIOMode):
            assert set(enum.__members__) <= set(getattr(rtx, enum.__name__).__members__)
        assert rtx.DataType.HALF.name == "HALF"
        assert [int(n) for n in rtx.Dims((1, -1))] == [1, -1]
        for severity in ("INTERNAL_ERROR", "ERROR", "WARNING"):
            assert getattr(rtx.ILogger, severity) == rtx.ILogger.Severity.__members__[severity]

    def test_what_it_says_of_files_that_are_no_engines(self, rtx: Any) -> None:
        library = open_library("rtx")
        assert str(library).startswith("TensorRT-RTX 1.")
        runtime = library.call("it does not start", rtx.Runtime, library.log)
        with pytest.raises(BackendError, match=r"^no: got .*(magicTag|erialization)") as caught:
            library.call("no", runtime.deserialize_cuda_engine, b"garbage" * 100)
        assert "\n" not in str(caught.value)

    @pytest.mark.skipif(gpus() > 0, reason="there is a GPU")
    def test_an_engine_without_a_gpu(
        self, engine: Bundle, rtx: Any, real_cuda: Any, plan: bytes
    ) -> None:
        with pytest.raises(
            BackendError, match=r"no NVIDIA GPU, or its driver .*\(--backend onnxruntime\)"
        ):
            load(engine)
        library = open_library("rtx")
        runtime = library.call("it does not start", rtx.Runtime, library.log)
        with pytest.raises(BackendError, match=r"^no: got .*cudaError"):
            library.call("no", runtime.deserialize_cuda_engine, plan)

    @pytest.mark.skipif(gpus() == 0, reason="there is no GPU")
    def test_an_engine_on_a_gpu(
        self, engine: Bundle, rtx: Any, real_cuda: Any, plan: bytes
    ) -> None:
        library = open_library("rtx")
        try:
            library.check_gpu(find_gpu(real_cuda, 0))
        except BackendError as refusal:
            # and the library itself says the same
            with pytest.raises(BackendError, match=re.escape(str(refusal))):
                load(engine)
            runtime = library.call("it does not start", rtx.Runtime, library.log)
            with pytest.raises(BackendError, match=r"^no: got .*compute capabilit"):
                library.call("no", runtime.deserialize_cuda_engine, plan)
            return
        with load(engine) as backend:
            assert backend.provider.startswith("TensorRT-RTX 1.")
            for batch in (frames(2), frames(9, 32, 40), frames(1, 8, 8)):
                found = backend.infer(batch)
                np.testing.assert_allclose(found.embedding, expected(batch).embedding, atol=1e-2)
                np.testing.assert_allclose(found.seenmask, expected(batch).seenmask, atol=1e-2)
            with pytest.raises(BackendError, match="got 72 x 8, expected height 8 to 64"):
                backend.infer(frames(1, 72, 8))


def real_doc(real: Any, method: str) -> str:
    return str(getattr(real, method).__doc__)
