"""From an ONNX file to a TensorRT or TensorRT-RTX engine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from szn_runtime.backends._building import BuildOptions, build_engine
from szn_runtime.backends._cuda import find_gpu, load_cuda
from szn_runtime.backends._engine import FLAVOURS, EngineFacts, Profile, open_library
from szn_runtime.backends.tensors import Expected
from szn_runtime.errors import BackendError, ExportError, MissingDependencyError, UsageError
from szn_runtime.manifest import Manifest, Preprocess

__all__ = ["TensorRTConfig", "choose_flavour", "engine_from_onnx"]

_MAX_SIDE = 1 << 15
_MAX_BATCH = 1 << 10
# what 32 bits count, as the libraries do in places; past it they build, and only warn
_MAX_VALUES = (1 << 31) - 1

Range = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class TensorRTConfig(BuildOptions):
    """How to build engines: as `BuildOptions`, and for which library and frames.

    Args:
        flavour: "tensorrt", "rtx", or "auto": TensorRT where it and an NVIDIA GPU are there, else
            TensorRT-RTX.
        batch: Least, usual and greatest number of frames at a time.
        heights: Least, usual and greatest height of the network's input, multiples of what the
            network needs; None for all up to the bundle's long side, fastest for 3/4 of that.
        widths: Likewise; fastest for the long side.

    Raises:
        UsageError: If a value is out of its range, the range has more values than can be counted,
            or see `BuildOptions`.
    """

    flavour: str = "auto"
    batch: Range = (1, 1, 4)
    heights: Range | None = None
    widths: Range | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flavour not in ("auto", *FLAVOURS):
            raise UsageError(
                "unknown TensorRT flavour", got=self.flavour, expected="auto, tensorrt or rtx"
            )
        self.check_flavour(self.flavour)
        _check_range("batch", self.batch, _MAX_BATCH)
        for name in ("heights", "widths"):
            if (sizes := getattr(self, name)) is not None:
                _check_range(name, sizes, _MAX_SIDE)

    def profile(self, preprocess: Preprocess) -> Profile:
        """Shapes of the network's input.

        Args:
            preprocess: Of the bundle.

        Raises:
            UsageError: If a height or width is no multiple of what the network needs, or the
                greatest shape has more values than can be counted.
        """
        side = preprocess.long_side
        heights = self._sides("heights", round(0.75 * side), preprocess)
        widths = self._sides("widths", side, preprocess)
        low, usual, high = (
            (n, 3, height, width)
            for n, height, width in zip(self.batch, heights, widths, strict=True)
        )
        if math.prod(high) > _MAX_VALUES:
            raise UsageError(
                "the engine's largest batch of frames is too large",
                got=" x ".join(map(str, high)),
                expected=f"at most {_MAX_VALUES} values",
                fix="choose smaller frames or batches",
            )
        return Profile(min=low, opt=usual, max=high)

    def _sides(self, name: str, usual: int, preprocess: Preprocess) -> Range:
        """The heights or widths that were chosen, or those for the bundle's frames."""
        multiple = preprocess.multiple
        sides: Range | None = getattr(self, name)
        if sides is None:
            usual, most = (
                -(-side // multiple) * multiple for side in (usual, preprocess.long_side)
            )
            return (multiple, usual, most)
        if any(side % multiple for side in sides):
            raise UsageError(
                f"{name} that the network cannot take",
                got=", ".join(map(str, sides)),
                expected=f"multiples of {multiple}",
            )
        return sides


def engine_from_onnx(
    onnx: bytes,
    manifest: Manifest,
    config: TensorRTConfig,
    *,
    precision: str,
    expected: Expected | None = None,
    profile: Profile | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[bytes, EngineFacts]:
    """Build an engine.

    Args:
        onnx: The file, all in one.
        manifest: Names and channels of the network's tensors, and the frames it is for.
        config: How to build.
        precision: That the file has: "fp32", "fp16", "bf16" or "int8". The engine takes it over.
        expected: Tensors of a part of the network; None for the whole.
        profile: Shapes of the part's input; None for the frames.
        progress: Called with lines that say how far it is.

    Returns:
        The engine and its facts, for an `Artefact` of kind "tensorrt". Two builds from the same
        file are equally good and equally large, and may differ in some bytes.

    Raises:
        ExportError: If the library cannot read the file or build the engine, the file has another
            precision or other inputs and outputs than it should, or TensorRT finds no GPU.
        MissingDependencyError: If the library is not installed.
        UsageError: If the sizes do not suit the network, the library does not know a flag or
            compute capability, or an option is not for the flavour that "auto" chose.
    """
    profile = profile or config.profile(manifest.preprocess)
    flavour = choose_flavour() if config.flavour == "auto" else config.flavour
    if config.flavour == "auto" and flavour == "rtx" and config.timing_cache is not None:
        if progress is not None:
            progress(f"TensorRT-RTX does not use the timing cache {config.timing_cache}")
        config = dataclasses.replace(config, timing_cache=None)
    try:
        return build_engine(
            onnx,
            expected or Expected.of(manifest),
            flavour=flavour,
            profile=profile,
            precision=precision,
            options=config,
            progress=progress,
        )
    except BackendError as error:
        raise ExportError(
            error.what, got=error.got, expected=error.expected, fix=error.fix
        ) from error


def choose_flavour() -> str:
    """What "auto" means: "tensorrt" where TensorRT and an NVIDIA GPU are there, else "rtx".

    Raises:
        MissingDependencyError: If no engine can be built here.
    """
    try:
        find_gpu(load_cuda(extra=open_library("tensorrt").extra), 0)
    except (MissingDependencyError, BackendError) as error:
        without = error
    else:
        return "tensorrt"
    try:
        open_library("rtx")
    except MissingDependencyError as error:
        raise MissingDependencyError(
            "no engine can be built here",
            got=f"{_reason(without)}, and {_reason(error)}",
            fix='pip install "szn[rtx]", which builds without a GPU, or "szn[gpu]" where one is',
        ) from error
    return "rtx"


def _reason(error: MissingDependencyError | BackendError) -> str:
    return error.what if error.got is None else f"{error.what} ({error.got})"


def _check_range(name: str, values: Range, most: int) -> None:
    right = len(values) == 3 and all(isinstance(value, int) for value in values)
    if not right or not 1 <= values[0] <= values[1] <= values[2] <= most:
        raise UsageError(
            f"{name} of the engine",
            got=",".join(map(str, values)),
            expected=f"least, usual and greatest, of 1 to {most}",
        )
