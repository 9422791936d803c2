"""The network in TensorRT or TensorRT-RTX."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from szn_runtime.backends._cuda import (
    DeviceBuffer,
    PinnedBuffer,
    Stream,
    call,
    find_gpu,
    load_cuda,
)
from szn_runtime.backends._engine import REBUILD, EngineFacts, open_library
from szn_runtime.backends.base import PRECISIONS, Backend, BackendOptions, Grids, check_frames
from szn_runtime.backends.tensors import (
    ENGINE_DTYPES,
    Expected,
    TensorFacts,
    check_engine_tensors,
)
from szn_runtime.errors import BackendError, BundleError
from szn_runtime.manifest import Manifest

if TYPE_CHECKING:
    from szn_runtime.bundle import Artefact, Bundle

__all__ = ["TensorRTBackend"]


class _Tensor:
    """An input or output of the engine, with memory for it on both sides."""

    def __init__(self, name: str, channels: int, dtype: str, cuda: Any) -> None:
        self.name, self.channels = name, channels
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.device, self.host = DeviceBuffer(cuda), PinnedBuffer(cuda)

    def nbytes(self, *shape: int) -> int:
        return math.prod(shape) * self.dtype.itemsize


class TensorRTBackend(Backend):
    """Runs a bundle's serialised engine with TensorRT, or with TensorRT-RTX if that built it.

    The engine is bound to a version of the library and to GPUs; both are compared with its facts
    before it is loaded. It is executable code, and comes from nowhere but the bundle, which
    compares it with the manifest's SHA-256 first.

    A batch greater than the engine takes is run in parts, a smaller one filled up.

    Args:
        bundle: The model.
        artefact: Its engine, of kind "tensorrt".
        device_index: Number of the GPU.

    Raises:
        BundleError: If the engine is damaged, or its facts are not those of `EngineFacts`.
        BackendError: If there is no NVIDIA GPU or driver, the library does not run on the GPU,
            library or GPU are not those that the engine was built for, the engine cannot be loaded,
            or its tensors are not those of the manifest.
        MissingDependencyError: If the library or cuda-python is not installed.
    """

    name = "tensorrt"
    threads = 1
    requests = 1
    input_dtype = "float32"
    input_layout = "NCHW"

    def __init__(self, bundle: Bundle, artefact: Artefact, *, device_index: int = 0) -> None:
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self.precision = artefact.precision
        facts = EngineFacts.from_artefact(artefact)
        self._profile = facts.profile
        expected = Expected.of(bundle.manifest)
        check_engine_tensors(facts.inputs, facts.outputs, expected, fix=REBUILD)
        self._library = open_library(facts.flavour)
        facts.check_library(self._library.name, self._library.version)
        self._cuda = load_cuda(extra=self._library.extra)
        self._gpu = find_gpu(self._cuda, device_index)
        self._library.check_gpu(self._gpu)
        facts.check_gpu(self._gpu, self.precision)
        self.device = str(self._gpu)
        self.provider = str(self._library)
        call(self._cuda, "cudaSetDevice", device_index)
        self._load(bundle.read(artefact.file), bundle.manifest)

    @classmethod
    def from_bundle(cls, bundle: Bundle, options: BackendOptions) -> Self:
        """Load the bundle's engine of a precision; "auto" takes the most exact one that is there.

        `options.threads`, `hint` and `allow_fallback` change nothing: the network is the GPU's.

        Raises:
            BundleError: If there is no such engine, or as for the class.
            BackendError: If the device is not a GPU, or as for the class.
            MissingDependencyError: As for the class.
        """
        if options.device_kind not in ("auto", "gpu"):
            raise BackendError(
                "the tensorrt backend runs on NVIDIA GPUs",
                got=options.device,
                expected="auto, gpu or gpu:1",
                fix="use --backend onnxruntime for other devices",
            )
        precision = options.precision
        if precision == "auto":
            engines = {a.precision for a in bundle.manifest.artefacts if a.kind == "tensorrt"}
            if not engines:
                raise BundleError(
                    f"the bundle {bundle.path} has no TensorRT engine",
                    got=", ".join(f"{a.kind} {a.precision}" for a in bundle.manifest.artefacts),
                    fix="build one with szn-export --trt on this machine",
                )
            precision = min(engines, key=PRECISIONS.index)
        artefact = bundle.artefact(kind="tensorrt", precision=precision)
        return cls(bundle, artefact, device_index=options.device_index)

    def infer(self, frames: NDArray[np.float32]) -> Grids:
        """Run the network; see `Backend.infer`."""
        if self._context is None:
            raise BackendError("the tensorrt backend is closed", fix="load the bundle again")
        check_frames(frames)
        self._profile.check_size(*frames.shape[2:])
        # each thread has a current device of its own, and this may be another thread than before
        call(self._cuda, "cudaSetDevice", self._gpu.index)
        try:
            embedding, seenmask = self._run(frames)
        except BaseException:
            self._stream.drain()  # so that nothing touches the buffers any more
            raise
        return Grids(embedding=embedding, seenmask=seenmask)

    def close(self) -> None:
        """Release the engine and its memory."""
        if self._context is not None:
            self._context = self._engine = self._runtime = None
            self._resources.close()

    def _load(self, plan: bytes, manifest: Manifest) -> None:
        """Make the engine ready to run."""
        library, cuda = self._library, self._cuda
        self._runtime = library.call(
            f"{library} does not start", library.module.Runtime, library.log
        )
        self._engine = library.call(
            f"{library} cannot load the engine",
            self._runtime.deserialize_cuda_engine,
            plan,
            fix=REBUILD,
        )
        inputs, outputs = self._read_tensors()
        check_engine_tensors(inputs, outputs, Expected.of(manifest), fix=REBUILD)
        types = {tensor.name: tensor.dtype for tensor in (*inputs, *outputs)}
        names = {manifest.input_name: 3, manifest.embedding_name: manifest.dim}
        names[manifest.seenmask_name] = 2
        tensors = [_Tensor(name, n, types[name], cuda) for name, n in names.items()]
        with ExitStack() as stack:
            self._stream = stack.enter_context(Stream(cuda))
            for tensor in tensors:
                stack.enter_context(tensor.device)
                stack.enter_context(tensor.host)
            context = library.call(
                f"{library} cannot prepare the engine",
                self._engine.create_execution_context,
                fix="free GPU memory, or build the engine for smaller frames or batches",
            )
            self._resources = stack.pop_all()
        self._input, *self._outputs = tensors
        self._context = context

    def _read_tensors(self) -> tuple[list[TensorFacts], list[TensorFacts]]:
        """Inputs and outputs, as the engine itself names them."""
        engine = self._engine
        inputs: list[TensorFacts] = []
        outputs: list[TensorFacts] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            dtype = engine.get_tensor_dtype(name).name
            sizes = [int(size) for size in engine.get_tensor_shape(name)]
            tensor = TensorFacts(
                name=name,
                dtype=ENGINE_DTYPES.get(dtype, dtype),
                shape=tuple(None if size < 0 else size for size in sizes),
            )
            is_input = engine.get_tensor_mode(name) == self._library.module.TensorIOMode.INPUT
            (inputs if is_input else outputs).append(tensor)
        return inputs, outputs

    def _run(self, frames: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Copy in, compute and copy out, all queued in the stream; then wait once."""
        count, *size = frames.shape
        batches = self._profile.batches(count)
        rows = sum(batches)
        self._input.host.grow(self._input.nbytes(rows, *size))
        staged = self._input.host.view((rows, *size), self._input.dtype)
        with np.errstate(over="ignore"):  # past the range of float16, which `Grids` refuses
            staged[:count] = frames
            staged[count:] = frames[-1]
        first, grids = 0, []
        for batch in batches:
            grids = self._enqueue(first, (batch, *size), rows)
            first += batch
        self._stream.synchronise()
        views = [
            o.host.view((rows, *g[1:]), o.dtype) for o, g in zip(self._outputs, grids, strict=True)
        ]
        return [view[:count].astype(np.float32) for view in views]

    def _enqueue(self, first: int, shape: tuple[int, ...], rows: int) -> list[tuple[int, ...]]:
        """Queue one batch, the rows of the host's buffers from `first` on.

        The first batch of a call is the greatest, so that no buffer grows while work is queued.

        Returns:
            Shapes of the outputs.
        """
        library, context, source = self._library, self._context, self._input
        library.call(
            f"the engine refuses frames of shape {shape}",
            context.set_input_shape,
            source.name,
            shape,
        )
        grids = [self._grid(output, shape[0]) for output in self._outputs]
        source.device.grow(source.nbytes(*shape))
        for output, grid in zip(self._outputs, grids, strict=True):
            output.device.grow(output.nbytes(*grid))
            output.host.grow(output.nbytes(rows, *grid[1:]))
        for tensor in (source, *self._outputs):
            library.call(
                f"the engine refuses memory for {tensor.name!r}",
                context.set_tensor_address,
                tensor.name,
                tensor.device.address,
            )
        offset = source.nbytes(first, *shape[1:])
        self._stream.copy_to_device(
            source.device.address, source.host.address + offset, source.nbytes(*shape)
        )
        library.call(
            f"the engine failed on frames of shape {shape}",
            context.execute_async_v3,
            self._stream.handle,
        )
        for output, grid in zip(self._outputs, grids, strict=True):
            offset = output.nbytes(first, *grid[1:])
            self._stream.copy_to_host(
                output.host.address + offset, output.device.address, output.nbytes(*grid)
            )
        return grids

    def _grid(self, output: _Tensor, batch: int) -> tuple[int, ...]:
        """Shape of an output for the input shape that is set."""
        shape = tuple(int(size) for size in self._context.get_tensor_shape(output.name))
        if len(shape) != 4 or shape[:2] != (batch, output.channels) or min(shape) < 1:
            raise BackendError(
                f"the engine's {output.name!r} has another shape",
                got=shape,
                expected=f"({batch}, {output.channels}, h, w)",
            )
        return shape
