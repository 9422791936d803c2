from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from szn_export.calibration import calibrate
from szn_export.precision import to_fp16, to_int8
from szn_export.to_tensorrt import TensorRTConfig, choose_flavour, engine_from_onnx
from szn_runtime.backends import BackendOptions
from szn_runtime.backends._cuda import find_gpu, load_cuda
from szn_runtime.backends._engine import EngineFacts
from szn_runtime.backends.tensorrt import TensorRTBackend
from szn_runtime.bundle import Artefact, Bundle, default_bundle_path
from szn_runtime.errors import (
    BackendError,
    ExportError,
    MissingDependencyError,
    UsageError,
)
from tests.runtime import catalogue, fake_tensorrt
from tests.runtime.fake_builder import FakeBuilderTensorRT
from tests.runtime.fake_tensorrt import FakeCuda

TINY = catalogue.onnx_model()
RTX = TensorRTConfig(flavour="rtx")


def build(
    content: bytes = TINY, config: TensorRTConfig = RTX, precision: str = "fp32", **changes: Any
) -> tuple[bytes, EngineFacts]:
    """The tiny network's engine."""
    return engine_from_onnx(content, catalogue.manifest(**changes), config, precision=precision)


def edited(change: Callable[[onnx.ModelProto], object]) -> bytes:
    """The tiny network with something wrong."""
    model = onnx.load_from_string(TINY)
    change(model)
    return bytes(model.SerializeToString())


def has_gpu() -> bool:
    try:
        find_gpu(load_cuda(extra="rtx"), 0)
    except (BackendError, MissingDependencyError):
        return False
    return True


@pytest.fixture(scope="module")
def rtx() -> Any:
    return pytest.importorskip(
        "tensorrt_rtx_bindings",
        reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13-libs "
        "tensorrt-rtx-cu13-bindings",
        exc_type=ImportError,
    )


@pytest.fixture(scope="module")
def mini() -> Bundle:
    return Bundle.open(default_bundle_path())


def install(
    monkeypatch: pytest.MonkeyPatch, *, gpus: int, modules: tuple[str, ...]
) -> FakeBuilderTensorRT:
    """The fake under these names."""
    fake = FakeBuilderTensorRT(FakeCuda(gpus=gpus))
    fake_tensorrt.install(monkeypatch, fake, module=None)
    for name in modules:
        monkeypatch.setitem(sys.modules, name, fake.module())
    return fake


class TestConfig:
    @pytest.mark.parametrize(
        ("values", "match"),
        [
            ({"flavour": "lean"}, "flavour: got lean, expected auto, tensorrt or rtx"),
            ({"batch": (1, 1)}, "batch of the engine: got 1,1, expected least, usual and greatest"),
            ({"batch": (0, 1, 1)}, "batch of the engine: got 0,1,1, expected .*of 1 to 1024"),
            ({"batch": (1, 4, 2)}, "batch of the engine: got 1,4,2"),
            ({"batch": (1, 1, 2000)}, "batch of the engine: got 1,1,2000"),
            ({"heights": (64, 32, 64)}, "heights of the engine: got 64,32,64"),
            ({"widths": (32, 64, 1 << 16)}, "widths of the engine: .*of 1 to 32768"),
            ({"widths": (32.0, 64, 64)}, "widths of the engine: got 32.0,64,64"),
            ({"flags": ("FP16",)}, "FP16 cannot be set; an engine has the precision of its ONNX"),
            ({"flags": ("REFIT",)}, "REFIT cannot be set; it needs a GPU"),
            ({"workspace_mib": -1}, "workspace: got -1"),
            ({"compute_capabilities": ("86",)}, "compute capability: got 86"),
            (
                {"flavour": "tensorrt", "compute_capabilities": ("8.6",)},
                "for the GPU of this machine only: .*choose the flavour rtx",
            ),
            (
                {"flavour": "rtx", "timing_cache": Path("cache")},
                "TensorRT-RTX measures nothing while it builds: got the timing cache cache",
            ),
        ],
    )
    def test_values_that_are_refused(self, values: dict[str, Any], match: str) -> None:
        with pytest.raises(UsageError, match=match):
            TensorRTConfig(**values)

    def test_the_usual_profile(self, mini: Bundle) -> None:
        profile = TensorRTConfig().profile(mini.manifest.preprocess)
        # frames of 4 to 3 at the nominal size, and any smaller or squarer ones
        assert profile.min == (1, 3, 16, 16)
        assert profile.opt == (1, 3, 240, 320)
        assert profile.max == (4, 3, 320, 320)

    def test_sides_are_rounded_up(self) -> None:
        preprocess = catalogue.Preprocess(
            mean=(0.0,) * 3, std=(1.0,) * 3, channel_order="rgb", long_side=500, multiple=32
        )
        profile = TensorRTConfig(batch=(2, 2, 2)).profile(preprocess)
        assert (profile.min, profile.opt, profile.max) == (
            (2, 3, 32, 32),
            (2, 3, 384, 512),
            (2, 3, 512, 512),
        )

    def test_chosen_sizes(self, mini: Bundle) -> None:
        config = TensorRTConfig(batch=(1, 2, 8), heights=(160, 160, 160), widths=(16, 32, 1600))
        profile = config.profile(mini.manifest.preprocess)
        assert profile.min == (1, 3, 160, 16)
        assert profile.opt == (2, 3, 160, 32)
        assert profile.max == (8, 3, 160, 1600)

    def test_sizes_that_do_not_suit_the_network(self, mini: Bundle) -> None:
        config = TensorRTConfig(heights=(16, 240, 248))
        with pytest.raises(
            UsageError,
            match=r"heights that the network .*got 16, 240, 248, expected multiples of 16",
        ):
            config.profile(mini.manifest.preprocess)
        config = TensorRTConfig(heights=(16, 240, 32768), batch=(1, 1, 100))
        with pytest.raises(UsageError, match="got 100 x 3 x 32768 x 320, expected at most 214748"):
            config.profile(mini.manifest.preprocess)
        with pytest.raises(UsageError, match="widths that the network cannot take"):
            build(config=TensorRTConfig(flavour="rtx", widths=(9, 9, 9)))


class TestFlavour:
    @pytest.mark.parametrize(
        ("gpus", "modules", "flavour"),
        [
            (1, ("tensorrt", "tensorrt_rtx"), "tensorrt"),
            (1, ("tensorrt",), "tensorrt"),
            (0, ("tensorrt", "tensorrt_rtx_bindings"), "rtx"),
            (0, ("tensorrt_rtx",), "rtx"),
            (1, ("tensorrt_rtx_bindings",), "rtx"),
        ],
    )
    def test_auto(
        self, gpus: int, modules: tuple[str, ...], flavour: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install(monkeypatch, gpus=gpus, modules=modules)
        assert choose_flavour() == flavour

    def test_tensorrt_without_cuda_python(self, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, gpus=1, modules=("tensorrt", "tensorrt_rtx"))
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
        assert choose_flavour() == "rtx"

    @pytest.mark.parametrize(
        ("gpus", "modules", "match"),
        [
            (1, (), r"got TensorRT is not installed \(.*\), and TensorRT-RTX is not installed"),
            (0, ("tensorrt",), "got there is no NVIDIA GPU.*, and TensorRT-RTX is not installed"),
        ],
    )
    def test_nothing_to_build_with(
        self, gpus: int, modules: tuple[str, ...], match: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install(monkeypatch, gpus=gpus, modules=modules)
        with pytest.raises(MissingDependencyError, match=f"no engine can be built here: {match}"):
            build(config=TensorRTConfig())
        with pytest.raises(
            MissingDependencyError,
            match=r'pip install "szn\[rtx\]", which builds without a GPU, or "szn\[gpu\]" where',
        ):
            choose_flavour()

    def test_an_engine_of_tensorrt(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        fake = install(monkeypatch, gpus=1, modules=("tensorrt",))
        cache = tmp_path / "cache"
        config = TensorRTConfig(timing_cache=cache, workspace_mib=256, flags=("SPARSE_WEIGHTS",))
        engine, facts = build(config=config)
        assert engine
        assert (facts.flavour, facts.version) == ("tensorrt", "10.3.0")
        assert facts.compute_capabilities == ("8.7",)
        assert facts.profile == config.profile(catalogue.manifest().preprocess)
        assert facts.profile.max == (4, 3, 64, 64)
        assert facts.onnx_sha256 == hashlib.sha256(TINY).hexdigest()
        assert list(fake.configs[0].limits.values()) == [256 << 20]
        assert cache.read_bytes() == b"+"

    def test_capabilities_where_auto_means_tensorrt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, gpus=1, modules=("tensorrt", "tensorrt_rtx"))
        with pytest.raises(UsageError, match=r"this machine only: .*choose the flavour rtx"):
            build(config=TensorRTConfig(compute_capabilities=("8.6",)))

    def test_a_timing_cache_where_auto_means_rtx(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        install(monkeypatch, gpus=1, modules=("tensorrt_rtx",))
        cache, lines = tmp_path / "cache", list[str]()
        _, facts = engine_from_onnx(
            TINY,
            catalogue.manifest(),
            TensorRTConfig(timing_cache=cache),
            precision="fp32",
            progress=lines.append,
        )
        assert facts.flavour == "rtx"
        assert lines[0] == f"TensorRT-RTX does not use the timing cache {cache}"
        assert not cache.exists()

    def test_failures_keep_their_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = install(monkeypatch, gpus=1, modules=("tensorrt",))
        fake.failures["build_serialized_network"] = "CUDA error"
        with pytest.raises(
            ExportError, match=r"^TensorRT 10\.3\.0 cannot build the engine: got CUDA error; a work"
        ) as caught:
            build(config=TensorRTConfig(workspace_mib=1))
        assert caught.value.got == "CUDA error"
        assert isinstance(caught.value.__cause__, BackendError)
        install(monkeypatch, gpus=0, modules=("tensorrt",))
        with pytest.raises(ExportError, match="there is no NVIDIA GPU"):
            build(config=TensorRTConfig(flavour="tensorrt"))

    def test_nothing_is_imported_before_it_is_needed(self) -> None:
        source = (
            "import sys, szn_export.to_tensorrt as module; module.TensorRTConfig(); "
            "roots = {m.partition('.')[0] for m in sys.modules}; print(sorted(roots & {'torch', "
            "'onnx', 'cuda', 'tensorrt', 'tensorrt_rtx', 'tensorrt_rtx_bindings'}))"
        )
        result = subprocess.run(
            [sys.executable, "-c", source], capture_output=True, text=True, check=True
        )
        assert result.stdout == "[]\n"


@pytest.mark.usefixtures("rtx")
class TestFailures:
    """What the real library says."""

    @pytest.mark.parametrize(
        "content",
        [b"", b"this is a text, not a network. " * 20, b"\x00\xff" * 100],
        ids=["empty", "text", "garbage"],
    )
    def test_files_that_it_takes_for_networks(self, content: bytes) -> None:
        with pytest.raises(ExportError, match="the ONNX file holds no network: got 0 layers"):
            build(content)

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            (TINY[:-7], "MODEL_DESERIALIZE_FAILED: .*Failed to parse the ONNX model"),
            (TINY[:60], "MODEL_DESERIALIZE_FAILED"),
            (
                edited(lambda m: setattr(m.graph.node[1], "op_type", "Frobnicate")),
                "In node 1 .*operator: Frobnicate .*Plugin not found",
            ),
            (edited(lambda m: m.graph.initializer.pop()), "In node 2 .*input was not registered"),
        ],
        ids=["cut", "cut early", "unknown operator", "no weights"],
    )
    def test_files_that_it_cannot_read(self, content: bytes, match: str) -> None:
        with pytest.raises(
            ExportError, match=rf"TensorRT-RTX 1\..* cannot read the ONNX file: got .*{match}"
        ) as caught:
            build(content)
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith("; export it again")

    def test_a_profile_that_does_not_fit(self) -> None:
        fixed = catalogue.onnx_model(image_shape=(1, 3, "height", "width"))
        with pytest.raises(ExportError, match=r"cannot build the engine: got .*Dimension mismatch"):
            build(fixed)
        config = TensorRTConfig(flavour="rtx", batch=(1, 1, 1))
        assert build(fixed, config)[1].inputs[0].shape == (1, 3, None, None)

    def test_a_workspace_that_is_too_small(self, mini: Bundle) -> None:
        config = TensorRTConfig(flavour="rtx", workspace_mib=1)
        with pytest.raises(ExportError, match=r"got .*OutOfMemory.*; a workspace of 1 MiB may be"):
            engine_from_onnx(mini.model_bytes(), mini.manifest, config, precision="fp32")

    @pytest.mark.parametrize(
        ("values", "match"),
        [
            ({"flags": ("FASTER",)}, "no such builder flag: got FASTER, expected one of .*TF32"),
            ({"compute_capabilities": ("9.0",)}, "got 9.0, expected one of 7.5, 8.0, 8.6, 8.9, 12"),
        ],
    )
    def test_what_it_does_not_know(self, values: dict[str, Any], match: str) -> None:
        with pytest.raises(UsageError, match=match):
            build(config=TensorRTConfig(flavour="rtx", **values))

    def test_another_precision(self) -> None:
        with pytest.raises(ExportError, match=r"another precision.* got fp32, expected fp16; conv"):
            build(precision="fp16")

    def test_other_outputs(self) -> None:
        def mark(model: onnx.ModelProto) -> None:
            extra = helper.make_tensor_value_info("mean", TensorProto.FLOAT, [None] * 4)
            model.graph.output.append(extra)

        with pytest.raises(ExportError, match="outputs that the manifest does not name: got mean"):
            build(edited(mark))
        with pytest.raises(ExportError, match="no output 'grid', which the manifest names"):
            build(embedding_name="grid")

    def test_bf16_for_a_gpu_that_has_none(self) -> None:
        def convert(model: onnx.ModelProto) -> None:
            graph = model.graph
            for weights in graph.initializer:
                values = numpy_helper.to_array(weights)
                weights.CopyFrom(
                    helper.make_tensor(
                        weights.name, TensorProto.BFLOAT16, values.shape, values.ravel().tolist()
                    )
                )
            outputs = [output.name for output in graph.output]
            for node, output in zip(list(graph.node)[1:], outputs, strict=True):
                node.output[0] = f"{output}_bf16"
                graph.node.append(
                    helper.make_node("Cast", [node.output[0]], [output], to=TensorProto.FLOAT)
                )
            graph.node[0].input[0] = "frames_bf16"
            graph.node.insert(
                0, helper.make_node("Cast", ["image"], ["frames_bf16"], to=TensorProto.BFLOAT16)
            )

        content = edited(convert)
        assert len(build(content, precision="bf16")[0]) > 100_000
        config = TensorRTConfig(flavour="rtx", compute_capabilities=("7.5",))
        with pytest.raises(ExportError, match=r"cannot build .*Cannot compile for target.* sm75"):
            build(content, config, "bf16")


@pytest.mark.usefixtures("rtx")
class TestEngines:
    """szn-mini, built by the real library."""

    @pytest.fixture(scope="class")
    def contents(self, mini: Bundle) -> dict[str, bytes]:
        """ONNX files of every precision that can be made."""
        fp32 = mini.model_bytes()
        found = {"fp32": fp32}
        if importlib.util.find_spec("onnxconverter_common") is not None:
            found["fp16"] = to_fp16(fp32)
        frames = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
        calibration = calibrate(fp32, [frames])
        found["int8"] = to_int8(fp32, calibration, target="tensorrt")
        found["int8 for the CPU"] = to_int8(fp32, calibration, target="cpu")
        return found

    @pytest.mark.parametrize(
        ("precision", "capabilities", "megabytes"),
        [
            ("fp32", (), (13, 18)),
            ("fp16", ("8.6", "8.9", "12.0"), (6, 10)),
            ("int8", (), (3.4, 14)),
        ],
    )
    def test_facts_and_size(
        self,
        precision: str,
        capabilities: tuple[str, ...],
        megabytes: tuple[float, float],
        contents: dict[str, bytes],
        mini: Bundle,
        rtx: Any,
        tmp_path: Path,
    ) -> None:
        if precision not in contents:
            pytest.skip("onnxconverter-common is not installed")
        content = contents[precision]
        config = TensorRTConfig(flavour="rtx", compute_capabilities=capabilities)
        engine, facts = engine_from_onnx(content, mini.manifest, config, precision=precision)
        assert megabytes[0] < len(engine) / 1e6 < megabytes[1]
        assert facts.flavour == "rtx"
        assert facts.version == rtx.__version__
        assert facts.compute_capabilities == capabilities
        assert facts.profile == config.profile(mini.manifest.preprocess)
        assert facts.onnx_sha256 == hashlib.sha256(content).hexdigest()
        tensors = [(t.name, t.dtype, t.shape) for t in (*facts.inputs, *facts.outputs)]
        assert tensors == [
            ("frames", "float32", (None, 3, None, None)),
            ("embedding", "float32", (None, mini.manifest.dim, None, None)),
            ("seenmask", "float32", (None, 2, None, None)),
        ]
        bundle = with_engine(tmp_path / "bundle", mini, engine, facts, precision)
        found = EngineFacts.from_artefact(bundle.artefact(kind="tensorrt", precision=precision))
        assert found == facts
        if not has_gpu():
            with pytest.raises(BackendError, match="there is no NVIDIA GPU, or its driver is not"):
                TensorRTBackend.from_bundle(bundle, BackendOptions(precision=precision))

    def test_int8_of_the_cpu(self, contents: dict[str, bytes], mini: Bundle) -> None:
        with pytest.raises(ExportError, match="Non-zero zero point is not supported"):
            engine_from_onnx(contents["int8 for the CPU"], mini.manifest, RTX, precision="int8")

    def test_weights_of_vgg16(self, mini: Bundle) -> None:
        content = vgg16_in_half()
        manifest = catalogue.manifest(stride=32, dim=20)
        engine, facts = engine_from_onnx(content, manifest, RTX, precision="fp16")
        assert 1 < len(engine) / len(content) < 1.02
        assert len(engine) > 268e6
        assert facts.profile.max == (4, 3, 64, 64)


def with_engine(
    folder: Path, mini: Bundle, engine: bytes, facts: EngineFacts, precision: str
) -> Bundle:
    """The tiny bundle's files with szn-mini's tensors, and an engine."""
    artefact = Artefact(
        kind="tensorrt", precision=precision, file="model.engine", facts=facts.to_json()
    )
    path = catalogue.tiny_bundle(
        folder,
        dim=mini.manifest.dim,
        files={"model.engine": engine, "model.onnx": None},
        input_name="frames",
        artefacts=(artefact,),
    )
    return Bundle.open(path)


def vgg16_in_half() -> bytes:
    """VGG16's layers with both heads in half precision; a layer's weights are all alike."""
    nodes, weights = [], []
    last, channels = "frames", 3

    def convolve(name: str, source: str, inputs: int, outputs: int, side: int) -> str:
        # the library keeps equal layers once
        values = np.full((outputs, inputs, side, side), 0.01 * (len(weights) + 1), np.float16)
        weights.append(numpy_helper.from_array(values, name))
        pads = [side // 2] * 4
        nodes.append(helper.make_node("Conv", [source, name], [f"{name}_out"], pads=pads))
        return f"{name}_out"

    nodes.append(helper.make_node("Cast", ["image"], [last], to=TensorProto.FLOAT16))
    for block, (layers, outputs) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)]):
        for layer in range(layers):
            last = convolve(f"conv{block}_{layer}", last, channels, outputs, 3)
            nodes.append(helper.make_node("Relu", [last], [f"{last}_relu"]))
            last, channels = f"{last}_relu", outputs
        pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
        nodes.append(helper.make_node("MaxPool", [last], [f"pool{block}"], **pool))
        last = f"pool{block}"
    for name, side in (("fc6", 7), ("fc7", 1)):
        last = convolve(name, last, channels, 4096, side)
        nodes.append(helper.make_node("Relu", [last], [f"{name}_relu"]))
        last, channels = f"{name}_relu", 4096
    outputs = []
    for name, size in (("embedding", 20), ("seenmask", 2)):
        grid = convolve(f"{name}_head", last, 4096, size, 1)
        nodes.append(helper.make_node("Cast", [grid], [name], to=TensorProto.FLOAT))
        shape = ["batch", size, "grid_height", "grid_width"]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    frames = helper.make_tensor_value_info(
        "image", TensorProto.FLOAT, ["batch", 3, "height", "width"]
    )
    graph = helper.make_graph(nodes, "vgg16", [frames], outputs, weights)
    opsets = [helper.make_opsetid("", 20)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
