from __future__ import annotations

import builtins
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szn_runtime.backends import BACKENDS, Backend, BackendOptions, Grids, open_backend
from szn_runtime.backends.fake import FakeBackend
from szn_runtime.backends.onnxrt import OnnxRuntimeBackend
from szn_runtime.bundle import Bundle
from szn_runtime.errors import BackendError, BundleError, MissingDependencyError, UsageError
from tests.runtime import catalogue


def frames(n: int = 1, height: int = 16, width: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3, height, width)).astype(np.float32)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(catalogue.tiny_bundle(tmp_path / "tiny"))


# TensorRT needs a GPU: test_tensorrt.py drives it with a stand-in
@pytest.fixture(params=sorted(set(BACKENDS) - {"tensorrt"}))
def backend(request: pytest.FixtureRequest, bundle: Bundle) -> Backend:
    return open_backend(request.param, bundle)


class TestEveryBackend:
    def test_formula(self, backend: Backend) -> None:
        batch = frames(2)
        means = batch.reshape(2, 3, 2, 8, 3, 8).mean(axis=(3, 5))
        grids = backend.infer(batch)
        assert grids.embedding.shape == (2, 6, 2, 3)
        np.testing.assert_allclose(grids.embedding[:, :3], means, atol=1e-6)
        np.testing.assert_allclose(grids.embedding[:, 3:], -means, atol=1e-6)
        np.testing.assert_allclose(grids.seenmask[:, 0], 0, atol=1e-6)
        np.testing.assert_allclose(grids.seenmask[:, 1], means[:, 0], atol=1e-6)

    def test_sizes_and_batches_may_change(self, backend: Backend) -> None:
        for n, height, width in [(1, 8, 8), (3, 16, 8), (1, 40, 64)]:
            grids = backend.infer(frames(n, height, width))
            assert grids.embedding.shape == (n, 6, height // 8, width // 8)
            assert grids.seenmask.shape == (n, 2, height // 8, width // 8)

    def test_a_batch_is_its_frames_one_by_one(self, backend: Backend) -> None:
        batch = frames(3)
        together = backend.infer(batch)
        for i in range(3):
            alone = backend.infer(batch[i : i + 1])
            np.testing.assert_allclose(alone.embedding[0], together.embedding[i], atol=1e-6)

    def test_results_are_not_overwritten(self, backend: Backend) -> None:
        batch = frames()
        first = backend.infer(batch)
        kept = first.embedding.copy()
        batch[:] = 5
        backend.infer(batch)
        np.testing.assert_array_equal(first.embedding, kept)

    @pytest.mark.parametrize(
        ("wrong", "match"),
        [
            (frames().astype(np.float64), r"got float64 \(1, 3, 16, 24\), expected float32"),
            (frames()[0], r"got float32 \(3, 16, 24\)"),
            (frames()[:, :2], r"got float32 \(1, 2, 16, 24\)"),
            (frames()[:0], r"got float32 \(0, 3, 16, 24\)"),
            (frames()[..., ::-1], "not contiguous"),
        ],
    )
    def test_frames_that_are_refused(self, backend: Backend, wrong: np.ndarray, match: str) -> None:
        with pytest.raises(BackendError, match=match):
            backend.infer(wrong)

    def test_numbers_that_are_not_finite(self, backend: Backend) -> None:
        batch = frames()
        batch[0, 0, 0, 0] = np.nan
        with pytest.raises(BackendError, match="embedding holds numbers that are not finite"):
            backend.infer(batch)

    def test_closing(self, backend: Backend) -> None:
        with backend as entered:
            assert entered is backend
            backend.infer(frames())
        backend.close()
        with pytest.raises(BackendError, match="is closed"):
            backend.infer(frames())

    def test_facts_for_the_report(self, backend: Backend) -> None:
        assert backend.name in BACKENDS
        assert backend.precision == "fp32"
        assert backend.threads >= 1
        expected = {
            "onnxruntime": "CPUExecutionProvider",
            "openvino": "OpenVINO CPU",
            "fake": "numpy",
        }
        assert backend.provider == expected[backend.name]


@given(
    st.integers(1, 7), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99)
)
def test_the_fake_is_the_tiny_model(dim: int, stride: int, h: int, w: int, seed: int) -> None:
    model = catalogue.onnx_model(dim=dim, stride=stride)
    options = BackendOptions(threads=1)
    real = OnnxRuntimeBackend(model, catalogue.manifest(dim=dim, stride=stride), options)
    batch = frames(2, h * stride, w * stride, seed)
    expected = real.infer(batch)
    found = FakeBackend(dim=dim, stride=stride).infer(batch)
    np.testing.assert_allclose(found.embedding, expected.embedding, atol=1e-5)
    np.testing.assert_allclose(found.seenmask, expected.seenmask, atol=1e-5)


def test_backends_that_do_not_exist(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="no backend 'tpu': expected one of auto, fake, onnx"):
        open_backend("tpu", bundle)
    with pytest.raises(BundleError, match="no onnx model in int8"):
        open_backend("onnxruntime", bundle, BackendOptions(precision="int8"))
    with pytest.raises(BackendError, match="does not compute int8-bf16; use --backend openvino"):
        open_backend("onnxruntime", bundle, BackendOptions(precision="int8-bf16"))
    with pytest.raises(BackendError, match="one thread and fp32: got 4 threads, auto"):
        open_backend("fake", bundle, BackendOptions(threads=4))


def test_the_fake_can_fail_and_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    backend = catalogue.fake_backend(fail_at=1, delay_s=0.02)
    backend.infer(frames())
    with pytest.raises(BackendError, match="the fake backend failed: got call 1"):
        backend.infer(frames())
    backend.infer(frames())
    assert backend.calls == 3
    assert slept == [0.02, 0.02]
    with pytest.raises(BackendError, match=r"no multiple of the stride: got \(12, 24\)"):
        backend.infer(frames(height=12))


def test_threads(bundle: Bundle) -> None:
    usable = len(os.sched_getaffinity(0))
    assert open_backend("onnxruntime", bundle).threads == usable
    options = BackendOptions(threads=3, hint="throughput")
    for name in ("onnxruntime", "openvino"):
        alone = open_backend(name, bundle, BackendOptions(threads=1))
        assert (alone.threads, alone.requests) == (1, 1)
    several = open_backend("onnxruntime", bundle, options)
    assert (several.threads, several.requests) == (3, 3)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_calls_at_the_same_time_do_not_mix(name: str, bundle: Bundle) -> None:
    options = BackendOptions(threads=2, hint="throughput")
    batches = [frames(1 + i % 2, 8 * (1 + i % 3), 24, seed=i) for i in range(24)]
    with open_backend(name, bundle, options) as backend:
        expected = [backend.infer(batch) for batch in batches]
        with ThreadPoolExecutor(backend.requests) as pool:
            found = list(pool.map(backend.infer, batches))
    assert backend.requests >= 1
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.embedding, b.embedding)
        np.testing.assert_array_equal(a.seenmask, b.seenmask)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"precision": "fp8"}, "unknown precision: got fp8, expected one of auto, fp32, fp16"),
        ({"hint": "fast"}, "unknown hint: got fast, expected latency or throughput"),
        ({"threads": 0}, "threads is out of range: got 0, expected 1 to 1024"),
        ({"threads": 100_000}, "threads is out of range: got 100000"),
        ({"device": "npu"}, "unknown device: got npu"),
        ({"device": "gpu:x"}, "unknown device: got gpu:x"),
    ],
)
def test_options_out_of_range(values: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        BackendOptions(**values)


def test_devices() -> None:
    second = BackendOptions(device="gpu:1")
    assert (second.device_kind, second.device_index) == ("gpu", 1)
    assert (BackendOptions().device_kind, BackendOptions().device_index) == ("auto", 0)


def onnxruntime_on(device: str, *, allow_fallback: bool = False) -> OnnxRuntimeBackend:
    options = BackendOptions(device=device, allow_fallback=allow_fallback)
    return OnnxRuntimeBackend(catalogue.onnx_model(), catalogue.manifest(), options)


@pytest.mark.parametrize(("device", "name"), [("gpu", "CUDA"), ("tensorrt", "Tensorrt")])
def test_a_provider_that_is_not_there(device: str, name: str) -> None:
    import onnxruntime as ort

    if f"{name}ExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has it")
    with pytest.raises(BackendError, match=rf"has no {name}Exec.*: got .*CPU.*szn\[gpu\]"):
        onnxruntime_on(device)
    found = onnxruntime_on(device, allow_fallback=True)
    assert (found.provider, found.device) == ("CPUExecutionProvider", "cpu")


@pytest.fixture
def listed_cuda(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A wheel with CUDA lists its providers, and falls back where there is no GPU."""
    import onnxruntime as ort

    listed = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: listed)
    session, asked = ort.InferenceSession, []

    def open_on_the_cpu(model: bytes, options: Any, providers: list[Any]) -> Any:
        key = "session.disable_cpu_ep_fallback"
        try:
            strict = options.get_session_config_entry(key) == "1"
        except RuntimeError:
            strict = False
        asked.append({"providers": providers, "strict": strict})
        assert not strict or "CPUExecutionProvider" not in providers  # see the test of both
        return session(model, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", open_on_the_cpu)
    return asked


def test_a_provider_that_falls_back(listed_cuda: list[dict[str, Any]]) -> None:
    for device, name in (("gpu", "CUDA"), ("tensorrt", "Tensorrt")):
        with pytest.raises(BackendError, match=rf"fell back .*got CPU.*expected {name}.*--allow-f"):
            onnxruntime_on(device)
        assert onnxruntime_on(device, allow_fallback=True).provider == "CPUExecutionProvider"
    # where no device was named the CPU is an answer, and it is reported
    auto = onnxruntime_on("auto")
    assert (auto.provider, auto.device) == ("CPUExecutionProvider", "cpu")
    assert onnxruntime_on("cpu").provider == "CPUExecutionProvider"
    assert [each["strict"] for each in listed_cuda] == [True, False, True, False, False, False]
    chains = [
        [p if isinstance(p, str) else p[0] for p in each["providers"]] for each in listed_cuda
    ]
    cuda, tensorrt, cpu = (
        "CUDAExecutionProvider",
        "TensorrtExecutionProvider",
        "CPUExecutionProvider",
    )
    assert chains == [
        [cuda],
        [cuda, cpu],
        [tensorrt, cuda],
        [tensorrt, cuda, cpu],
        [cuda, cpu],
        [cpu],
    ]


def test_naming_the_cpu_and_forbidding_it_is_a_contradiction() -> None:
    """Which is why a strict session names the GPU alone; only seen where there is a GPU."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for providers, said in (
        (["CPUExecutionProvider"], "explicitly added the CPU EP"),
        (None, "assigned to the default CPU EP"),
    ):
        with pytest.raises(Exception, match=said):
            ort.InferenceSession(catalogue.onnx_model(), settings, providers=providers)


def test_the_number_of_a_gpu_and_the_engine_cache(listed_cuda: list[dict[str, Any]]) -> None:
    onnxruntime_on("gpu:1", allow_fallback=True)
    fixed = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    cuda = ("CUDAExecutionProvider", {"device_id": "1", **fixed})
    assert listed_cuda[-1]["providers"][0] == cuda
    onnxruntime_on("tensorrt", allow_fallback=True)
    assert listed_cuda[-1]["providers"][1] == (cuda[0], {"device_id": "0", **fixed})
    settings = listed_cuda[-1]["providers"][0][1]
    assert settings["trt_engine_cache_enable"] == "1"
    assert settings["trt_engine_cache_path"].endswith("onnxruntime-tensorrt")


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: b"", "cannot load the model"),
        (lambda: b"text", "cannot load the model"),
        (lambda: catalogue.onnx_model()[:200], "cannot load the model"),
        (lambda: catalogue.onnx_model(input_name="x"), "no input 'image'.*got x; export"),
        (lambda: catalogue.onnx_model(embedding_name="x"), "no output 'embedding'.*got x, seenm"),
        (lambda: catalogue.onnx_model(seenmask_name="x"), "no output 'seenmask'.*got embedding, x"),
        (lambda: catalogue.onnx_model(dim=5), r"'embedding' of the model does not fit.*, 5, "),
        (lambda: catalogue.onnx_model(seenmask_channels=3), r"'seenmask' of the model .*, 3, "),
    ],
)
def test_models_that_do_not_fit_the_manifest(model: Callable[[], bytes], match: str) -> None:
    with pytest.raises(BackendError, match=match) as caught:
        OnnxRuntimeBackend(model(), catalogue.manifest())
    assert "\n" not in str(caught.value)


def test_models_with_other_inputs() -> None:
    import onnx

    model = onnx.load_model_from_string(catalogue.onnx_model())
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("extra", onnx.TensorProto.FLOAT, [1])
    )
    with pytest.raises(BackendError, match="more than one input: got image, extra"):
        OnnxRuntimeBackend(model.SerializeToString(), catalogue.manifest())

    half = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT16, ["n", 3, "h", "w"])
    cast = onnx.helper.make_node("Cast", ["image"], ["real"], to=onnx.TensorProto.FLOAT)
    model = onnx.load_model_from_string(catalogue.onnx_model())
    model.graph.input[0].CopyFrom(half)
    model.graph.node[0].input[0] = "real"
    model.graph.node.insert(0, cast)
    with pytest.raises(BackendError, match=r"input 'image' .*got tensor\(float16\)"):
        OnnxRuntimeBackend(model.SerializeToString(), catalogue.manifest())


def test_a_model_that_fails_at_run_time() -> None:
    fixed = catalogue.onnx_model(image_shape=(1, 3, 16, 24))
    backend = OnnxRuntimeBackend(fixed, catalogue.manifest())
    backend.infer(frames())
    with pytest.raises(BackendError, match=r"failed on frames of shape \(2, 3, 16, 24\): got") as e:
        backend.infer(frames(2))
    assert "\n" not in str(e.value)


def test_a_model_whose_seenmask_is_not_a_number() -> None:
    backend = OnnxRuntimeBackend(catalogue.onnx_model(poison=True), catalogue.manifest())
    with pytest.raises(BackendError, match="seenmask holds numbers that are not finite; use fp32"):
        backend.infer(frames())


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(
        MissingDependencyError, match=r'onnxruntime is not installed.*pip install "szn\[cpu\]"'
    ):
        open_backend("onnxruntime", bundle)


def test_importing_the_backends_imports_no_library() -> None:
    code = (
        "import sys, szn_runtime.backends, szn_runtime.backends.onnxrt\n"
        "print('onnxruntime' in sys.modules)\n"
        "import onnxruntime\n"
        "print('onnxruntime' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["False", "True"]  # the second shows that the probe can fail


@pytest.mark.parametrize(
    ("embedding", "seenmask", "match"),
    [
        (np.ones((1, 6, 2, 3)), np.ones((1, 2, 2, 3), np.float32), "got float64 and float32"),
        (np.ones((6, 2, 3), np.float32), np.ones((1, 2, 2, 3), np.float32), "do not fit together"),
        (np.ones((1, 6, 2, 3), np.float32), np.ones((1, 3, 2, 3), np.float32), "do not fit toget"),
        (np.ones((1, 6, 2, 3), np.float32), np.ones((1, 2, 3, 2), np.float32), "do not fit toget"),
        (np.ones((0, 6, 2, 3), np.float32), np.ones((0, 2, 2, 3), np.float32), "do not fit toget"),
    ],
)
def test_grids_that_are_refused(embedding: np.ndarray, seenmask: np.ndarray, match: str) -> None:
    with pytest.raises(BackendError, match=match):
        Grids(embedding=embedding, seenmask=seenmask)
