"""The building half of TensorRT, for machines without a GPU; engines are `fake_tensorrt`'s.

Whatever file it is given, the network is the tiny one unless a test says otherwise.
"""

from __future__ import annotations

import enum
import weakref
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.runtime import fake_tensorrt
from tests.runtime.fake_tensorrt import FakeCuda, FakeTensorRT, Severity

DataType = enum.Enum("DataType", ["FLOAT", "HALF", "BF16", "INT8", "INT32"])
BuilderFlag = enum.IntEnum("BuilderFlag", ["TF32", "SPARSE_WEIGHTS", "DIRECT_IO", "REFIT"])
# as TensorRT 10.3 has it
CreationFlag = enum.IntEnum("CreationFlag", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1})
MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])


def tensor(name: str, channels: int, dtype: str = "FLOAT", batch: int = -1) -> Any:
    """An input or output of a network."""
    return SimpleNamespace(name=name, dtype=DataType[dtype], shape=(batch, channels, -1, -1))


class FakeBuilderTensorRT(FakeTensorRT):
    """`tensorrt` with its builder and its ONNX parser.

    Attributes:
        inputs: Of every network.
        outputs: Likewise.
        layers: Types of what its layers give, a tuple for each.
        errors: What the parser lists; if any, it fails.
        steps: What happens in the building, one step of its phase each.
        ignored: Flags that cannot be set, of which the library says nothing.
        network_flags: That networks were made with.
        parsed: Files that were parsed.
        configs: Of all builds.
        device: Number of the GPU that was chosen before something was built.
    """

    def __init__(self, cuda: FakeCuda, *, version: str = "10.3.0", typed: bool = True) -> None:
        super().__init__(cuda, version=version)
        self.typed = typed
        self.inputs = [tensor("image", 3)]
        self.outputs = [tensor("embedding", 6), tensor("seenmask", 2)]
        self.layers: list[tuple[str, ...]] = [("FLOAT",), ("FLOAT",), ("FLOAT",)]
        self.errors: list[str] = []
        self.steps: list[Callable[[], Any]] = [lambda: None]
        self.ignored: set[Any] = set()
        self.network_flags: list[int] = []
        self.parsed: list[bytes] = []
        self.configs: list[Config] = []
        self.device: int | None = None

    def module(self) -> ModuleType:
        module = super().module()
        contents = {
            "DataType": DataType,
            "BuilderFlag": BuilderFlag,
            "MemoryPoolType": MemoryPoolType,
            "IProgressMonitor": ProgressMonitor,
            "Builder": lambda logger: Builder(self, logger),
            "OnnxParser": lambda network, logger: OnnxParser(self, network, logger),
        }
        if self.typed:
            contents["NetworkDefinitionCreationFlag"] = CreationFlag
        for name, value in contents.items():
            setattr(module, name, value)
        return module


class ProgressMonitor:
    """`IProgressMonitor`."""

    def __init__(self) -> None:
        self.initialised = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError


class Builder:
    """`Builder`."""

    def __init__(self, fake: FakeBuilderTensorRT, logger: Any) -> None:
        assert logger.initialised
        fake.logger = fake.logger or logger
        if fake.fails("Builder"):
            # as the real bindings do for a null pointer
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._fake = fake

    def create_network(self, flags: int) -> Any:
        self._fake.network_flags.append(flags)
        return None if self._fake.fails("create_network") else Network(self._fake)

    def create_builder_config(self) -> Any:
        return None if self._fake.fails("create_builder_config") else Config(self._fake)

    def create_optimization_profile(self) -> Any:
        return None if self._fake.fails("create_optimization_profile") else Shapes(self._fake)

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        fake = self._fake
        fake.device = getattr(fake.cuda.device, "index", None)
        monitor = config.progress_monitor
        assert monitor.initialised
        monitor.phase_start("Building", None, len(fake.steps))
        for number, step in enumerate(fake.steps):
            step()
            if not monitor.step_complete("Building", number):
                fake.logger.log(Severity.ERROR, "Build canceled by user")
                return None
        monitor.phase_finish("Building")
        if fake.fails("build_serialized_network"):
            return None
        assert network.parser() is not None, "the weights are gone"
        (shapes,) = config.profiles
        low, _, high = shapes.ranges["image"]
        about = fake_tensorrt.facts(profile=fake_tensorrt.Profile(min=low, opt=low, max=high))
        if config.timing_cache is not None:
            config.timing_cache.data += b"+"
        return bytearray(fake_tensorrt.plan(about))


class Network:
    """`INetworkDefinition`."""

    def __init__(self, fake: FakeBuilderTensorRT) -> None:
        self._fake = fake
        self.parser: Any = None  # owns the weights, and is not kept by the network
        self.num_layers = 0

    @property
    def num_inputs(self) -> int:
        return len(self._fake.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._fake.outputs)

    def get_input(self, index: int) -> Any:
        return self._fake.inputs[index]

    def get_output(self, index: int) -> Any:
        return self._fake.outputs[index]

    def get_layer(self, index: int) -> Any:
        return Layer(self._fake.layers[index])


class Layer:
    """`ILayer`."""

    def __init__(self, dtypes: tuple[str, ...]) -> None:
        self._dtypes = dtypes

    @property
    def num_outputs(self) -> int:
        return len(self._dtypes)

    def get_output(self, index: int) -> Any:
        return tensor("inner", 1, self._dtypes[index])


class OnnxParser:
    """`OnnxParser`."""

    def __init__(self, fake: FakeBuilderTensorRT, network: Network, logger: Any) -> None:
        fake.fails("OnnxParser")
        self._fake, self.network = fake, network
        network.parser = weakref.ref(self)

    def parse(self, model: bytes) -> bool:
        self._fake.parsed.append(model)
        if self._fake.fails("parse") or self._fake.errors:
            return False
        self.network.num_layers = len(self._fake.layers)
        return True

    @property
    def num_errors(self) -> int:
        return len(self._fake.errors)

    def get_error(self, index: int) -> str:
        return self._fake.errors[index]


class Shapes:
    """`IOptimizationProfile`."""

    def __init__(self, fake: FakeBuilderTensorRT) -> None:
        self._fake = fake
        self.ranges: dict[str, tuple[Any, Any, Any]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        self._fake.fails("set_shape")
        self.ranges[input] = (min, opt, max)


class Cache:
    """`ITimingCache`."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytearray:
        return bytearray(self.data)


class Config:
    """`IBuilderConfig`."""

    def __init__(self, fake: FakeBuilderTensorRT) -> None:
        self._fake = fake
        self.set_flags: set[Any] = {BuilderFlag.TF32}
        self.limits: dict[Any, int] = {}
        self.profiles: list[Shapes] = []
        self.timing_cache: Cache | None = None
        self.progress_monitor: Any = None
        fake.configs.append(self)

    def set_flag(self, flag: Any) -> None:
        self._fake.fails("set_flag")
        if flag not in self._fake.ignored:
            self.set_flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.set_flags.discard(flag)

    def get_flag(self, flag: Any) -> bool:
        return flag in self.set_flags

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self.limits[pool] = pool_size

    def add_optimization_profile(self, profile: Shapes) -> int:
        if self._fake.fails("add_optimization_profile"):
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        if self._fake.fails("create_timing_cache"):
            return None
        return Cache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.data.startswith(b"another GPU"):
            return False
        self.timing_cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.timing_cache
