"""Building engines with TensorRT and TensorRT-RTX, from nothing but an ONNX file.

Networks are strongly typed, always: the precision is that of the ONNX file, and TensorRT 10, 11
and TensorRT-RTX take one path.
"""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from szn_runtime._stopping import stopping
from szn_runtime.backends._build_options import BuildOptions, find_flags, find_targets
from szn_runtime.backends._cuda import call, find_gpu, load_cuda
from szn_runtime.backends._engine import (
    WHOLE,
    EngineFacts,
    Library,
    Profile,
    open_library,
    version_numbers,
)
from szn_runtime.backends._parsing import Network, read_network
from szn_runtime.backends._timing_cache import load_timing_cache, save_timing_cache
from szn_runtime.backends.base import PRECISIONS
from szn_runtime.backends.tensors import Expected
from szn_runtime.errors import BackendError, MissingDependencyError, UsageError
from szn_runtime.manifest import Artefact, Manifest
from szn_runtime.onnx_guard import check_onnx

if TYPE_CHECKING:
    from szn_runtime.bundle import Bundle

__all__ = ["BuildOptions", "build_engine", "rebuild_engine"]

_AMPERE = (8, 0)
_SECONDS_BETWEEN_LINES = 10.0

Progress = Callable[[str], None]


def build_engine(
    onnx: bytes,
    expected: Expected,
    *,
    flavour: str,
    profile: Profile,
    precision: str,
    options: BuildOptions | None = None,
    device_index: int = 0,
    progress: Progress | None = None,
) -> tuple[bytes, EngineFacts]:
    """Build an engine. Ctrl-C ends it at the library's next step.

    Args:
        onnx: The file, all in one, of a source that is trusted (see `check_onnx`).
        expected: Names and channels of the network's tensors.
        flavour: "tensorrt", which needs the GPU that the engine is for, or "rtx", which needs none.
        profile: Shapes that the engine is to take.
        precision: That the file has, one of `PRECISIONS`.
        options: How to build.
        device_index: Number of the GPU, for TensorRT.
        progress: Called with a line at the start, every ten seconds, and at the end.

    Returns:
        The engine, and what it is bound to. The same file gives engines of the same size, some
        bytes of which may differ: the libraries put equal things in any order.

    Raises:
        BackendError: If the library cannot read the file or build the engine; the network has
            other tensors than expected, or another precision; there is no GPU for
            TensorRT; or the timing cache cannot be read.
        MissingDependencyError: If the library or, for TensorRT, cuda-python is not installed.
        UsageError: If the precision is none, the library does not know a flag or compute
            capability, or an option is the other flavour's.
    """
    options = options or BuildOptions()
    options.check_flavour(flavour)
    if precision not in PRECISIONS:
        raise UsageError("unknown precision", got=precision, expected=", ".join(PRECISIONS))

    def say(text: str) -> None:
        if progress is not None:
            progress(f"engine {precision}: {text}")

    library = open_library(flavour)
    capabilities = options.compute_capabilities
    if flavour == "tensorrt":
        capabilities = (_use_gpu(library, device_index),)
    started = time.monotonic()
    say(f"building with {library}")
    builder = library.call(f"{library} does not start", library.module.Builder, library.log)
    config = library.call(f"{library} takes no options", builder.create_builder_config)
    _configure(library, config, options, say)
    network = read_network(library, builder, onnx, expected, precision)
    _add_profile(library, builder, config, network, profile)
    plan = _compile(library, builder, config, network, options, say)
    if options.timing_cache is not None:
        save_timing_cache(config, options.timing_cache, say)
    inputs, outputs = network.inputs, network.outputs
    # before the copy, so that the weights are in memory twice and not more often
    del network, config, builder
    engine = bytes(memoryview(plan))
    say(f"{len(engine) / 1e6:.1f} MB in {time.monotonic() - started:.1f} s")
    return engine, EngineFacts(
        flavour=flavour,
        version=library.version,
        compute_capabilities=capabilities,
        profile=profile,
        inputs=inputs,
        outputs=outputs,
        onnx_sha256=hashlib.sha256(onnx).hexdigest(),
    )


def rebuild_engine(
    bundle: Bundle,
    artefact: Artefact,
    *,
    flavour: str | None = None,
    device_index: int = 0,
    progress: Progress | None = None,
) -> tuple[bytes, EngineFacts]:
    """Build a bundle's engine again, with the library that is installed, for the GPU at hand.

    Profile and precision stay, and so does the flavour, unless another is asked for. A TensorRT-RTX
    engine stays good for the GPUs that it was for. Workspace and flags of the first build are not
    recorded, and are the usual ones.

    Args:
        bundle: The model.
        artefact: Its engine, of kind "tensorrt", or that of a part of the network.
        flavour: "tensorrt" or "rtx"; None for the engine's own.
        device_index: Number of the GPU.
        progress: As for `build_engine`.

    Returns:
        As for `build_engine`.

    Raises:
        BackendError: If the bundle does not hold the engine's ONNX file, TensorRT-RTX does not run
            on the GPU that is here, or as for `build_engine`.
        BundleError: If the artefact is no engine, or the file is damaged or no plain network.
        MissingDependencyError: As for `build_engine`.
        UsageError: If TensorRT-RTX does not build for this GPU.
    """
    old = EngineFacts.from_artefact(artefact)
    files = bundle.manifest.files
    name = next((n for n, file in files.items() if file["sha256"] == old.onnx_sha256), None)
    if name is None:
        raise BackendError(
            f"{bundle.path} does not hold the ONNX file that {artefact.file} was built from",
            got=", ".join(n for n in files if n.endswith(".onnx")) or "no ONNX file",
            expected=f"one of sha256 {old.onnx_sha256[:12]}",
            fix="export it again with szn-export --trt",
        )
    onnx = bundle.read(name)
    check_onnx(onnx, source=f"{name} of {bundle.path}")
    flavour = flavour or old.flavour
    capabilities: tuple[str, ...] = ()
    if flavour == "rtx":
        # TensorRT's own was that of its one GPU
        kept = old.compute_capabilities if old.flavour == "rtx" else ()
        capabilities = _with_this_gpu(kept, device_index)
    return build_engine(
        onnx,
        _expected(old, artefact, bundle.manifest),
        flavour=flavour,
        profile=old.profile,
        precision=artefact.precision,
        options=BuildOptions(compute_capabilities=capabilities),
        device_index=device_index,
        progress=progress,
    )


def _expected(old: EngineFacts, artefact: Artefact, manifest: Manifest) -> Expected:
    """Tensors of an engine; of a part of the network only the engine's own facts tell them."""
    if artefact.kind == WHOLE:
        return Expected.of(manifest)
    inputs, outputs = (
        {tensor.name: tensor.shape[1] or 0 for tensor in tensors if len(tensor.shape) == 4}
        for tensors in (old.inputs, old.outputs)
    )
    return Expected(inputs=inputs, outputs=outputs)


def _use_gpu(library: Library, index: int) -> str:
    """Let TensorRT build for a GPU, whose compute capability this is."""
    cuda = load_cuda(extra=library.extra)
    gpu = find_gpu(cuda, index)
    call(cuda, "cudaSetDevice", index)
    return gpu.capability


def _with_this_gpu(capabilities: tuple[str, ...], index: int) -> tuple[str, ...]:
    """The capabilities and, if there is a GPU, its own; none still means those from Ampere on."""
    try:
        gpu = find_gpu(load_cuda(extra="rtx"), index)
    except (BackendError, MissingDependencyError):
        return capabilities
    open_library("rtx").check_gpu(gpu)
    if capabilities or version_numbers(gpu.capability) < _AMPERE:
        return tuple(dict.fromkeys((*capabilities, gpu.capability)))
    return capabilities


def _configure(library: Library, config: Any, options: BuildOptions, say: Progress) -> None:
    known = library.module.BuilderFlag
    if "TF32" not in options.flags and hasattr(known, "TF32"):
        config.clear_flag(known.TF32)
    for name, flag in find_flags(library, options.flags).items():
        library.call(f"{library} refuses the builder flag {name}", _set_flag, config, flag)
    if options.workspace_mib is not None:
        pool = library.module.MemoryPoolType.WORKSPACE
        config.set_memory_pool_limit(pool, options.workspace_mib << 20)
    targets = find_targets(library, options.compute_capabilities)
    if targets:
        config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        library.call(
            f"{library} refuses a compute capability", config.set_compute_capability, target, index
        )
    if options.timing_cache is not None:
        load_timing_cache(library, config, options.timing_cache, say)


def _set_flag(config: Any, flag: Any) -> bool:
    """Set a flag; one that does not go with the others stays unset without a word."""
    config.set_flag(flag)
    return bool(config.get_flag(flag))


def _add_profile(
    library: Library, builder: Any, config: Any, network: Network, profile: Profile
) -> None:
    shapes = library.call(f"{library} makes no profile", builder.create_optimization_profile)

    def add() -> bool:
        for tensor in network.inputs:  # a head may read two grids of one size
            channels = tensor.shape[1]
            ranges = [(n, channels, h, w) for n, _, h, w in (profile.min, profile.opt, profile.max)]
            shapes.set_shape(tensor.name, *ranges)
        return bool(config.add_optimization_profile(shapes) >= 0)

    library.call(f"{library} refuses the range of frames", add)


def _compile(
    library: Library,
    builder: Any,
    config: Any,
    network: Network,
    options: BuildOptions,
    say: Progress,
) -> Any:
    """The engine, in the library's memory."""
    stop = threading.Event()
    monitor = _monitor(library.module, stop, say)
    config.progress_monitor = monitor
    limit = options.workspace_mib
    plan = None
    # not KeyboardInterrupt: it would come up in a callback, where the bindings drop it
    with stopping(stop.set) as interruption:
        try:
            plan = library.call(
                f"{library} cannot build the engine",
                builder.build_serialized_network,
                network.network,
                config,
                fix=None if limit is None else f"a workspace of {limit} MiB may be too small",
            )
        except BackendError:
            if not stop.is_set():
                raise
    if interruption.signal_number is not None:
        signal.raise_signal(interruption.signal_number)
    if monitor.error is not None:
        raise monitor.error
    if plan is None:
        raise BackendError("the engine was not built", got="a signal to stop")
    return plan


def _monitor(module: Any, stop: threading.Event, say: Progress) -> Any:
    """The library's progress monitor: says now and then where it is, and ends it on `stop`."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.error: Exception | None = None
            self._steps: dict[str, int] = {}
            self._said = time.monotonic()

        def phase_start(self, phase_name: str, _: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            now = time.monotonic()
            if now - self._said >= _SECONDS_BETWEEN_LINES:
                self._said = now
                try:
                    say(f"{phase_name}, step {step + 1} of {self._steps.get(phase_name, '?')}")
                except Exception as error:  # noqa: BLE001 - the bindings would drop it
                    self.error = error
                    stop.set()
            return not stop.is_set()

    return Monitor()
