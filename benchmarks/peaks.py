"""The machine's peak: what large matrix products reach, for `network.py` to compare with."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from szn_runtime.backends._openvino_core import openvino_core

__all__ = ["Peaks", "ProductPeak"]

_SIDE, _PRODUCTS = 2048, 4  # in a row, so that converting input and output hardly counts
_GPU_SIDE = 8192  # enough to fill one
_TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class ProductPeak:
    """The most floating-point operations a second that matrix products reach in a precision.

    Products of 2048 x 2048 matrices, the right one constant, in OpenVINO, or for fp32 in
    onnxruntime where OpenVINO is missing; on a GPU of 8192 x 8192 in PyTorch, in fp32 with TF32,
    which TensorRT uses as well. Sampled all through a run, the best sample counts: the peak is a
    bound, and other programs only lower it.

    Args:
        precision: "fp32", "bf16" or "fp16".
        threads: CPU threads that may compute, or None for the GPU.

    Raises:
        LookupError: If no library here computes such products.
    """

    def __init__(self, precision: str, threads: int | None) -> None:
        if threads is None:
            self._run, self.library, side = *_gpu_products(precision), _GPU_SIDE
        else:
            self._run, self.library, side = *_products(precision, threads), _SIDE
        self._operations = 2 * side**3 * _PRODUCTS
        self._run()
        self.samples: list[float] = []

    def sample(self, seconds: float) -> None:
        """Compute for that long, and twice at least."""
        end_s = time.perf_counter() + seconds
        taken = 0
        while taken < 2 or time.perf_counter() < end_s:
            start_s = time.perf_counter()
            self._run()
            self.samples.append(self._operations / (time.perf_counter() - start_s))
            taken += 1

    @property
    def flops(self) -> float:
        """Operations a second, of the best sample."""
        return max(self.samples)


class Peaks:
    """A `ProductPeak` for each device and precision that is asked for.

    Args:
        threads: CPU threads that may compute.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._peaks: dict[tuple[bool, str], ProductPeak | None] = {}

    def sample(self, precision: str, *, on_gpu: bool = False) -> None:
        """Compute products of that precision for half a second."""
        key = (on_gpu, precision)
        if key not in self._peaks:
            try:
                self._peaks[key] = ProductPeak(precision, None if on_gpu else self._threads)
            except LookupError:
                self._peaks[key] = None
        peak = self._peaks[key]
        if peak is not None:
            peak.sample(0.5)

    def flops(self, precision: str, *, on_gpu: bool = False) -> float | None:
        """Operations a second; None where nothing here computes such products."""
        peak = self._peaks.get((on_gpu, precision))
        return None if peak is None else peak.flops

    def to_json(self) -> dict[str, Any]:
        """For each precision, "gpu" before it where it is the GPU's, its library and teraflops."""
        return {
            f"gpu {name}" if on_gpu else name: {
                "library": peak.library,
                "teraflops": 1e-12 * peak.flops,
            }
            for (on_gpu, name), peak in self._peaks.items()
            if peak is not None
        }


def _gpu_products(precision: str) -> tuple[Callable[[], Any], str]:
    """What computes the products once on the first GPU and waits for it, and the library."""
    if importlib.util.find_spec("torch") is None:
        raise LookupError("PyTorch, which computes a GPU's peak, is not installed")
    import torch

    if precision not in _TYPES or not torch.cuda.is_available():
        raise LookupError(f"no {precision} products on a GPU here")
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    torch.backends.cuda.matmul.allow_tf32 = True
    options: dict[str, Any] = {"device": "cuda", "dtype": types[precision]}
    weights = torch.randn(_PRODUCTS, _GPU_SIDE, _GPU_SIDE, **options) * _GPU_SIDE**-0.5
    start = torch.randn(_GPU_SIDE, _GPU_SIDE, **options)

    def run() -> None:
        product = start
        for weight in weights:
            product = product @ weight
        torch.cuda.synchronize()

    return run, f"torch on {torch.cuda.get_device_name()}"


def _products(precision: str, threads: int) -> tuple[Callable[[], Any], str]:
    """What computes the products once, and the library that it is made with."""
    random = np.random.default_rng(0)
    # so that the products neither grow nor vanish
    weights = random.normal(scale=_SIDE**-0.5, size=(_PRODUCTS, _SIDE, _SIDE)).astype(np.float32)
    start = random.normal(size=(_SIDE, _SIDE)).astype(np.float32)
    if importlib.util.find_spec("openvino") is not None:
        import openvino as ov

        core = openvino_core()
        capable = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision not in _TYPES or precision.upper() not in capable:
            raise LookupError(f"no {precision} products in OpenVINO here")
        node = parameter = ov.opset13.parameter([_SIDE, _SIDE], np.float32)
        for weight in weights:
            node = ov.opset13.matmul(node, ov.opset13.constant(weight), False, False)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _TYPES[precision],
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        }
        model = ov.Model([ov.opset13.result(node)], [parameter], "products")
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        request.set_input_tensor(ov.Tensor(start))
        return request.infer, "openvino"
    if precision != "fp32" or importlib.util.find_spec("onnxruntime") is None:
        raise LookupError(f"nothing installed computes {precision} products")
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    names = ["start", *(f"product{index}" for index in range(_PRODUCTS))]
    square = [_SIDE, _SIDE]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [names[index], f"weight{index}"], [names[index + 1]])
            for index in range(_PRODUCTS)
        ],
        "products",
        [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, square)],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, square)],
        [numpy_helper.from_array(weight, f"weight{i}") for i, weight in enumerate(weights)],
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), options)
    return (lambda: session.run(None, {names[0]: start})), "onnxruntime"
