from __future__ import annotations

import builtins
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from szn_runtime.backends import BackendOptions, open_backend
from szn_runtime.backends._openvino_core import openvino_core
from szn_runtime.backends.openvino import OpenVinoBackend
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.errors import BackendError, BundleError, MissingDependencyError
from tests.runtime import catalogue
from tests.runtime.test_backends import frames

ov = pytest.importorskip("openvino", reason="the extra `openvino` is not installed")


def capable(precision: str) -> bool:
    return precision in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def mini() -> Bundle:
    return Bundle.open(default_bundle_path())


def test_more_sizes_than_are_compiled_apart(tmp_path: Path) -> None:
    bundle = Bundle.open(catalogue.tiny_bundle(tmp_path / "tiny"))
    with (
        open_backend("openvino", bundle) as backend,
        open_backend("onnxruntime", bundle) as reference,
    ):
        for columns in (1, 2, 3, 4, 5, 6, 7, 1, 7):
            batch = frames(2, 16, 8 * columns, seed=columns)
            found, expected = backend.infer(batch), reference.infer(batch)
            np.testing.assert_allclose(found.embedding, expected.embedding, atol=1e-5)
            np.testing.assert_allclose(found.seenmask, expected.seenmask, atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 0.02), ("bf16", 0.2)]
)
def test_precisions_are_really_used(mini: Bundle, precision: str, tolerance: float) -> None:
    if not capable(precision.upper()):
        pytest.skip(f"this CPU has no {precision}")
    batch = frames(1, 96, 128)
    exact = open_backend("onnxruntime", mini).infer(batch)
    # twice: the second one comes from the cache, where f32 and f16 must not be taken for each other
    for _ in range(2):
        with open_backend("openvino", mini, BackendOptions(precision=precision)) as backend:
            found = backend.infer(batch)
        assert backend.precision == precision
        scale = np.abs(exact.embedding).max()
        difference = np.abs(found.embedding - exact.embedding).max() / scale
        assert difference < tolerance
        assert difference > {"fp32": -1, "fp16": 1e-4, "bf16": 1e-3}[precision]


def test_a_precision_that_the_processor_lacks(
    mini: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Old:
        available_devices = ("CPU",)

        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(ov, "Core", Old)
    for precision in ("bf16", "int8-bf16"):
        with pytest.raises(
            BackendError,
            match=f"no {precision} on CPU of this machine: got FP32, INT8; choose another",
        ):
            open_model(mini, precision)


def test_a_precision_that_is_not_used(mini: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("szn_runtime.backends.openvino._used_precision", lambda _: "f32")
    if not capable("BF16"):
        pytest.skip("this CPU has no bf16")
    with pytest.raises(BackendError, match="computes in another precision: got f32, expected bf16"):
        open_backend("openvino", mini, BackendOptions(precision="bf16"))
    with pytest.raises(BackendError, match="in another precision: got f32, expected bf16"):
        open_model(mini, "int8-bf16")
    open_model(mini, "int8").close()


def open_model(bundle: Bundle, precision: str) -> OpenVinoBackend:
    """The FP32 file in any precision, as if it were the INT8 one."""
    options = BackendOptions(precision=precision)
    return OpenVinoBackend(bundle.model_bytes(), bundle.manifest, options)


_SIGNALLED = """
import os, signal, sys, threading
from szn_runtime.backends import open_backend
from szn_runtime.bundle import Bundle

handled = []
signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
bundle = Bundle.open(sys.argv[1])
first, second = open_backend("openvino", bundle), open_backend("openvino", bundle)
first.close()
thread = threading.Thread(target=second.close)
thread.start()
thread.join()
del first, second, thread
os.kill(os.getpid(), signal.SIGUSR1)
print(len(handled))
"""


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
def test_signals_are_handled_wherever_and_in_whatever_order_backends_are_closed(
    mini: Bundle,
) -> None:
    """OpenVINO replaces the stack of signal handlers, and would leave one that is no more."""
    command = [sys.executable, "-c", _SIGNALLED, str(mini.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr


def test_devices_that_are_not_there(mini: Bundle) -> None:
    if any(name.startswith("GPU") for name in openvino_core().available_devices):
        pytest.skip("this machine has a GPU that OpenVINO uses")
    with pytest.raises(BackendError, match=r"finds no such device: got CPU, expected GPU\.1"):
        open_backend("openvino", mini, BackendOptions(device="gpu:1"))
    with pytest.raises(BackendError, match="no such device: got tensorrt, expected auto, cpu or g"):
        open_backend("openvino", mini, BackendOptions(device="tensorrt"))


def test_int8_needs_a_file_of_its_own(mini: Bundle) -> None:
    with pytest.raises(BundleError, match="has no onnx model in int8: got onnx fp32"):
        open_backend("openvino", mini, BackendOptions(precision="int8"))
    with pytest.raises(BundleError, match="has no onnx model in int8: got onnx fp32"):
        open_backend("openvino", mini, BackendOptions(precision="int8-bf16"))


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: b"", "OpenVINO cannot load the model"),
        (lambda: b"text", "OpenVINO cannot load the model"),
        (lambda: catalogue.onnx_model()[:200], "OpenVINO cannot load the model"),
        (lambda: catalogue.onnx_model(input_name="x"), "no input 'image'.*got x; export"),
        (lambda: catalogue.onnx_model(embedding_name="x"), "no output 'embedding'.*got x, seenm"),
        (lambda: catalogue.onnx_model(dim=5), r"'embedding' of the model does not fit.*, 5, "),
        (lambda: catalogue.onnx_model(seenmask_channels=3), r"'seenmask' of the model .*, 3, "),
    ],
)
def test_models_that_do_not_fit_the_manifest(model: Callable[[], bytes], match: str) -> None:
    with pytest.raises(BackendError, match=match) as caught:
        OpenVinoBackend(model(), catalogue.manifest())
    assert "\n" not in str(caught.value)


def test_a_size_that_the_model_refuses() -> None:
    backend = OpenVinoBackend(
        catalogue.onnx_model(image_shape=(1, 3, 16, 24)), catalogue.manifest()
    )
    backend.infer(frames())
    with pytest.raises(BackendError, match=r"OpenVINO .*frames of shape \(1, 3, 4, 24\)"):
        backend.infer(frames(height=4))


def test_compiled_models_are_kept_by_hash_and_precision(
    mini: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    digest = mini.manifest.files["model.onnx"]["sha256"][:16]
    for precision in ("fp32", "fp16"):
        if capable(precision.upper()):
            with open_backend("openvino", mini, BackendOptions(precision=precision)):
                folder = tmp_path / "szn" / "openvino" / f"{digest}-{precision}-latency"
                assert list(folder.glob("*.blob"))


def test_without_openvino(mini: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "openvino":
            raise ImportError("No module named 'openvino'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match=r'pip install "szn\[openvino\]"'):
        open_backend("openvino", mini)
