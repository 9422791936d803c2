"""A serialised TensorRT engine: the facts it is bound to, and the library that can run it."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from szn_runtime._json import is_int, plain, require, require_text
from szn_runtime.backends._cuda import Gpu
from szn_runtime.backends.tensors import TensorFacts
from szn_runtime.errors import BackendError, MissingDependencyError
from szn_runtime.manifest import Artefact

__all__ = [
    "FLAVOURS",
    "REBUILD",
    "WHOLE",
    "EngineFacts",
    "Library",
    "Profile",
    "is_engine",
    "open_library",
]

FLAVOURS = ("tensorrt", "rtx")
WHOLE = "tensorrt"
"""Kind of an engine of the whole network; those of its parts are "tensorrt-fcn" and so on."""

REBUILD = "rebuild it with szn-export --trt on this machine"
_USE_TENSORRT = (
    'use TensorRT: pip install "szn[gpu]" (on a Jetson see docs/jetson.md), then '
    "szn-run --rebuild-engines --flavour tensorrt, or szn-export --trt --trt-flavour tensorrt"
)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Shapes (N, C, H, W) of the input that the engine takes; C is 3 but for the network's heads.

    Of a head with several inputs it is the first; the others have their own number of channels.

    Args:
        min: The least of each dimension.
        opt: The shape that it is fastest for.
        max: The greatest of each dimension.

    Raises:
        BundleError: If they are no such shapes or not in order.
    """

    min: tuple[int, int, int, int]
    opt: tuple[int, int, int, int]
    max: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        for name in ("min", "opt", "max"):
            shape = getattr(self, name)
            right = isinstance(shape, tuple) and len(shape) == 4 and all(map(is_int, shape))
            right = right and min(shape) > 0 and shape[1] == self.min[1]
            require(right, f"engine profile's {name}", shape, "[N, C, H, W], C the same in all")
        ordered = all(a <= b <= c for a, b, c in zip(self.min, self.opt, self.max, strict=True))
        require(ordered, "engine profile", (self.min, self.opt, self.max), "min <= opt <= max")

    def batches(self, frames: int) -> list[int]:
        """Batch sizes to run one after the other, so that each fits.

        Only the last may hold more than is left of the frames: as many as the least batch.
        """
        whole, rest = divmod(frames, self.max[0])
        return [self.max[0]] * whole + ([max(rest, self.min[0])] if rest else [])

    def check_size(self, height: int, width: int) -> None:
        """Refuse frames that the engine was not built for.

        Raises:
            BackendError: If height or width is out of range.
        """
        (_, _, low_h, low_w), (_, _, high_h, high_w) = self.min, self.max
        if not (low_h <= height <= high_h and low_w <= width <= high_w):
            raise BackendError(
                "frames are out of the range that the engine was built for",
                got=f"{height} x {width}",
                expected=f"height {low_h} to {high_h}, width {low_w} to {high_w}",
                fix=f"choose another --size, or {REBUILD} for a range that holds them",
            )


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What an engine is bound to: `facts` of an artefact of kind "tensorrt", with these keys.

    ```
    {
      "flavour": "tensorrt",               or "rtx"
      "version": "10.3.0",                 `__version__` of the library that built it
      "compute_capabilities": ["8.7"],     of the GPUs it runs on; [] for RTX: those from 8.0 on
                                           that it supports (see `Library.check_gpu`)
      "profile": {"min": [1, 3, 64, 64], "opt": [1, 3, 480, 640], "max": [4, 3, 640, 640]},
      "inputs": [{"name": "image", "dtype": "float32", "shape": [-1, 3, -1, -1]}],
      "outputs": [{"name": "embedding", "dtype": "float32", "shape": [-1, 20, -1, -1]},
                  {"name": "seenmask", "dtype": "float32", "shape": [-1, 2, -1, -1]}],
      "onnx_sha256": "…"                   of the ONNX file that it was built from
    }
    ```

    The artefact's precision is that of the ONNX file: engines are strongly typed. The library
    cannot say any of this without a GPU, hence the facts beside the file.

    Raises:
        BundleError: If a value is out of its range.
    """

    flavour: str
    version: str
    compute_capabilities: tuple[str, ...]
    profile: Profile
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    onnx_sha256: str

    def __post_init__(self) -> None:
        require(self.flavour in FLAVOURS, "engine's flavour", self.flavour, " or ".join(FLAVOURS))
        right = _is_text(self.version, r"\d+(\.\d+){2,}.*")
        require(right, "engine's version", self.version, "such as 10.3.0")
        capabilities = self.compute_capabilities
        right = isinstance(capabilities, tuple) and all(
            _is_text(c, r"\d+\.\d") for c in capabilities
        )
        require(right, "engine's compute_capabilities", capabilities, "such as 8.7")
        right = _is_text(self.onnx_sha256, r"[0-9a-f]{64}")
        require(right, "engine's onnx_sha256", self.onnx_sha256, "64 hexadecimal digits")
        for tensor in (*self.inputs, *self.outputs):
            require_text(tensor.name, "name of an engine's tensor")
            require_text(tensor.dtype, f"dtype of {tensor.name}")
            right = all(size is None or (is_int(size) and size > 0) for size in tensor.shape)
            require(right, f"shape of {tensor.name}", tensor.shape, "sizes, -1 for any")

    @classmethod
    def from_artefact(cls, artefact: Artefact) -> EngineFacts:
        """Read what `to_json` wrote.

        Raises:
            BundleError: If the artefact is no engine, or its facts are not those of the class.
        """
        require(is_engine(artefact), "artefact.kind", artefact.kind, WHOLE)
        facts = _fields(artefact.facts, cls, f"facts of {artefact.file}")
        profile = _fields(facts["profile"], Profile, "engine profile")
        return cls(
            flavour=facts["flavour"],
            version=facts["version"],
            compute_capabilities=tuple(
                _list(facts["compute_capabilities"], "compute_capabilities")
            ),
            profile=Profile(**{key: tuple(_list(profile[key], key)) for key in profile}),
            inputs=_tensors(facts["inputs"], "engine's inputs"),
            outputs=_tensors(facts["outputs"], "engine's outputs"),
            onnx_sha256=facts["onnx_sha256"],
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, for `Artefact.facts`."""
        document = dataclasses.asdict(self)
        for tensor in (*document["inputs"], *document["outputs"]):
            tensor["shape"] = [-1 if size is None else size for size in tensor["shape"]]
        return plain(document, "engine facts")

    def check_library(self, name: str, version: str) -> None:
        """Refuse a library of another version than the one that built the engine.

        Raises:
            BackendError: If it is another; only the numbers that both versions state are compared.
        """
        pairs = zip(version_numbers(self.version), version_numbers(version), strict=False)
        if any(built != installed for built, installed in pairs):
            raise BackendError(
                f"the engine was built by another version of {name}",
                got=f"{version} installed",
                expected=self.version,
                fix=f"{REBUILD}, or install {name} {self.version}",
            )

    def check_gpu(self, gpu: Gpu, precision: str) -> None:
        """Refuse a GPU that the engine was not built for.

        Raises:
            BackendError: If its compute capability is another, or cannot do the precision.
        """
        if self.compute_capabilities and gpu.capability not in self.compute_capabilities:
            expected = f"compute capability {', '.join(self.compute_capabilities)}"
            raise BackendError(
                "the engine was built for another GPU", got=gpu, expected=expected, fix=REBUILD
            )
        if precision == "bf16" and version_numbers(gpu.capability) < (8, 0):
            raise BackendError(
                "the GPU does not compute in bf16",
                got=gpu,
                expected="compute capability 8.0 or more",
                fix="choose --precision fp16 or fp32",
            )


def is_engine(artefact: Artefact) -> bool:
    """Whether an artefact is an engine, of the whole network or of a part."""
    return artefact.kind == WHOLE or artefact.kind.startswith(f"{WHOLE}-")


class Library:
    """TensorRT or TensorRT-RTX, and what it last complained about.

    Args:
        name: "TensorRT" or "TensorRT-RTX".
        extra: Of szn, which installs it.
        module: The library, imported.

    Attributes:
        log: Its logger; builders, parsers and runtimes all have to take it, because the library
            keeps the first one that a process gives it.
    """

    def __init__(self, name: str, extra: str, module: Any) -> None:
        self.name, self.extra, self.module = name, extra, module
        self.version = str(module.__version__)
        self.log: Any = _log(module)

    def __str__(self) -> str:
        return f"{self.name} {'.'.join(map(str, version_numbers(self.version)[:3]))}"

    @property
    def targets(self) -> dict[str, Any]:
        """Its names of the compute capabilities that it builds for: SM86 for "8.6".

        Empty for TensorRT, which builds for the GPU at hand.
        """
        known = getattr(self.module, "ComputeCapability", None)
        members = {} if known is None else known.__members__
        return {f"{n[2:-1]}.{n[-1]}": target for n, target in members.items() if n[:2] == "SM"}

    def check_gpu(self, gpu: Gpu) -> None:
        """Refuse a GPU that no engine of this library runs on, so that another would not help.

        TensorRT-RTX is for GPUs of workstations: it knows those that it builds for and later ones,
        and none for data centres between them, such as 9.0 and 10.0.

        Raises:
            BackendError: If the library names its compute capabilities, and the GPU's is neither
                among them nor later than all of them.
        """
        targets = self.targets
        if not targets or gpu.capability in targets:
            return
        if version_numbers(gpu.capability) > max(map(version_numbers, targets)):
            return  # it says itself whether it runs there
        raise BackendError(
            f"{self} does not run on this GPU",
            got=gpu,
            expected=f"compute capability {', '.join(targets)} or later",
            fix=_USE_TENSORRT,
        )

    def call(
        self, failure: str, function: Callable[..., Any], *arguments: Any, fix: str | None = None
    ) -> Any:
        """Call `function(*arguments)` of the library, which returns None or False for failure.

        Returns:
            What it returned, neither None nor False.

        Raises:
            BackendError: If it fails: `failure`, what the library logged, and `fix`.
        """
        self.log.errors.clear()
        result, cause = None, None
        try:
            result = function(*arguments)
        except Exception as error:  # noqa: BLE001 - the bindings' errors share no base class
            cause = error
        if result is None or result is False:
            # the first error is the cause, those after it are its consequences
            reason = next(iter(self.log.errors), cause or f"no reason from {self.name}")
            raise BackendError(failure, got=reason, fix=fix) from cause
        return result


def open_library(flavour: str) -> Library:
    """Import the library of a flavour, "tensorrt" or "rtx".

    Raises:
        MissingDependencyError: If it is not installed, or a library that it needs is not.
    """
    rtx = flavour == "rtx"
    name, extra = ("TensorRT-RTX", "rtx") if rtx else ("TensorRT", "gpu")
    cause: Exception | None = None
    for path in ("tensorrt_rtx", "tensorrt_rtx_bindings") if rtx else ("tensorrt",):
        try:
            module = importlib.import_module(path)
        except (ImportError, OSError) as error:
            # without its traceback, which would keep the callers' files in memory
            cause = error.with_traceback(None)
            continue
        if hasattr(module, "__version__"):
            return Library(name, extra, module)
    raise MissingDependencyError(
        f"{name} is not installed",
        got=cause,
        fix=f'pip install "szn[{extra}]" (on a Jetson see docs/jetson.md)',
    ) from cause


@functools.cache
def _log(module: Any) -> Any:
    """A logger that keeps errors, the only one of its library in this process."""

    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=20)

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR):
                self.errors.append(message)

    return Log()


def version_numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: "10.3.0.post1" gives (10, 3, 0)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


def _is_text(value: object, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _fields(values: object, cls: Any, name: str) -> dict[str, Any]:
    """An object of JSON that has exactly the fields of a dataclass."""
    names = sorted(field.name for field in dataclasses.fields(cls))
    right = isinstance(values, Mapping) and sorted(values) == names
    require(right, name, values, ", ".join(names))
    return dict(values)  # type: ignore[call-overload,no-any-return]


def _list(value: object, name: str) -> list[Any]:
    require(isinstance(value, list), name, value, "a list")
    return list(value)  # type: ignore[call-overload,no-any-return]


def _tensors(value: object, name: str) -> tuple[TensorFacts, ...]:
    """A list of names, types and shapes."""
    found = []
    for each in _list(value, name):
        tensor = _fields(each, TensorFacts, name)
        shape = tuple(None if size == -1 else size for size in _list(tensor["shape"], name))
        found.append(TensorFacts(name=tensor["name"], dtype=tensor["dtype"], shape=shape))
    return tuple(found)
