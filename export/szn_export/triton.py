"""A model repository for NVIDIA's Triton Inference Server.

```
szn/                 ensemble: network, then SEI
szn_onnxruntime/     the network, one model for each backend
szn_sei/             SEI in Triton's Python backend, with its labels
labels.txt           a name a line, in the order of the numbers in a label map
szn_triton.json      what wrote the repository, and its files
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from szn_export._triton_config import Tensor, batching, model, parameters, runs_on, step
from szn_runtime.backends._engine import EngineFacts
from szn_runtime.backends.base import PRECISIONS
from szn_runtime.bundle import Artefact, Bundle
from szn_runtime.errors import ExportError, UsageError
from szn_runtime.folder_writer import write_folder
from szn_runtime.labels import LabelSet
from szn_runtime.manifest import Manifest
from szn_runtime.sei import label_dtype

__all__ = ["triton_repository"]

_BACKENDS = ("onnxruntime", "openvino", "tensorrt")
_MARKER = "szn_triton.json"
_ENSEMBLE, _SEI = "szn", "szn_sei"
_FRAME_SIZE, _LABELS = "frame_hw", "labels"

Files = dict[str, bytes]


def triton_repository(
    folder: Path,
    bundle: Bundle,
    *,
    backends: tuple[str, ...] = ("onnxruntime",),
    max_batch: int = 8,
    dynamic_batching: bool = True,
) -> None:
    """Write a model repository: all of it, or nothing.

    The ensemble `szn` takes normalised frames, as `szn_runtime.preprocess` makes them, and the
    height and width of the frames they were made from; it gives label maps of that size. It joins
    the first of the backends; the other networks stand beside it.

    Triton's OpenVINO backend runs batches of one size only, unless Triton is told nothing of them.
    Its model takes whole batches (N, 3, H, W) as a client sends them, and so does an ensemble that
    begins with it; Triton joins no requests there.

    Args:
        folder: Of the repository; an older one that this function wrote is replaced.
        bundle: The model. Its most exact IR and TensorRT engine are taken; the IR is made now if
            there is none.
        backends: Of "onnxruntime", "openvino" and "tensorrt", each once.
        max_batch: Most frames that Triton runs at once.
        dynamic_batching: Whether Triton joins waiting requests of one size.

    Raises:
        UsageError: If backends or batch are none.
        BundleError: If the bundle has no FP32 ONNX model, or is damaged.
        ExportError: If there is no engine that Triton can run, it does not fit, or the folder
            exists and is no such repository, or cannot be written.
        MissingDependencyError: If an IR is to be made and OpenVINO is not installed.
    """
    if not backends or len(set(backends)) < len(backends) or not set(backends) <= set(_BACKENDS):
        raise UsageError(
            "backends of a Triton repository",
            got=", ".join(backends) or "none",
            expected=f"some of {', '.join(_BACKENDS)}, each once",
        )
    if max_batch < 1:
        raise UsageError("greatest batch of a Triton repository", got=max_batch, expected=">= 1")
    manifest, labels = bundle.manifest, bundle.label_set()
    taken = {name for name, _, _ in _network_tensors(manifest)} & {_FRAME_SIZE, _LABELS}
    if taken:
        raise ExportError("a tensor of the network has a name that SEI needs", got=taken.pop())
    files: Files = {"labels.txt": _lines(labels.names)}
    for backend in backends:
        batch = 0 if backend == "openvino" else max_batch
        contents, (frames, *grids), more = _network(bundle, backend, batch)
        config = model(f"{_ENSEMBLE}_{backend}", batch, [frames], grids)
        config += batching(batch) if dynamic_batching else ""
        files |= _files(f"{_ENSEMBLE}_{backend}", config + more, contents)
    batch = 0 if backends[0] == "openvino" else max_batch
    files |= _sei(manifest, labels, batch)
    files |= _ensemble(manifest, labels, batch, f"{_ENSEMBLE}_{backends[0]}")
    facts = {
        "szn_triton": 1,
        "bundle": manifest.name,
        "checksum": manifest.checksum,
        "files": sorted((*files, _MARKER)),
    }
    files[_MARKER] = (json.dumps(facts, indent=2) + "\n").encode()
    _write(folder, files)


def _network_tensors(manifest: Manifest) -> list[Tensor]:
    """Input and outputs of the network, of any size."""
    return [
        (manifest.input_name, "TYPE_FP32", (3, -1, -1)),
        (manifest.embedding_name, "TYPE_FP32", (manifest.dim, -1, -1)),
        (manifest.seenmask_name, "TYPE_FP32", (2, -1, -1)),
    ]


def _sei_tensors(manifest: Manifest, labels: LabelSet) -> tuple[list[Tensor], Tensor]:
    """Inputs and output of SEI."""
    kind = f"TYPE_{label_dtype(len(labels)).name.upper()}"
    _, *grids = _network_tensors(manifest)
    return [*grids, (_FRAME_SIZE, "TYPE_INT32", (2,))], (_LABELS, kind, (-1, -1))


def _network(bundle: Bundle, backend: str, batch: int) -> tuple[Files, Sequence[Tensor], str]:
    """Files of the network for a backend, its tensors, and the end of its configuration."""
    tensors = _network_tensors(bundle.manifest)
    if backend == "openvino":
        # Triton has it for CPUs only
        settings = runs_on(backend, "CPU") + parameters({"PERFORMANCE_HINT": "LATENCY"})
        return _ir(bundle), tensors, settings
    if backend == "tensorrt":
        plan, shapes = _engine(bundle, batch)
        tensors = [(name, kind, shapes[name]) for name, kind, _ in tensors]
        return {"model.plan": plan}, tensors, runs_on(backend, "GPU")
    return {"model.onnx": bundle.model_bytes()}, tensors, runs_on(backend, "AUTO")


def _ir(bundle: Bundle) -> Files:
    """The network in OpenVINO's format, made now if the bundle has none."""
    artefact = _most_exact(bundle, "openvino")
    if artefact is None:
        from szn_export.to_openvino import ir_from_onnx

        xml, weights = ir_from_onnx(bundle.model_bytes())
    else:
        xml, weights = bundle.read(artefact.file), bundle.read(str(artefact.facts.get("weights")))
    return {"model.xml": xml, "model.bin": weights}


def _engine(bundle: Bundle, batch: int) -> tuple[bytes, Mapping[str, tuple[int, ...]]]:
    """The bundle's engine, if Triton's TensorRT can run it with every batch up to `batch`.

    Returns:
        The engine, and the sizes of each tensor without the batch, -1 for those that are not fixed.
    """
    artefact = _most_exact(bundle, "tensorrt")
    if artefact is None:
        raise ExportError("the bundle has no TensorRT engine", fix="add --trt, or leave it out")
    facts = EngineFacts.from_artefact(artefact)
    if facts.flavour != "tensorrt":
        raise ExportError(
            "Triton cannot run an engine of TensorRT-RTX",
            got=artefact.file,
            fix="build it with --trt-flavour tensorrt on the server, or use onnxruntime",
        )
    least, most = facts.profile.min[0], facts.profile.max[0]
    if least > 1 or most < batch:
        raise ExportError(
            f"the engine {artefact.file} does not take every batch that Triton may run",
            got=f"{least} to {most} frames",
            expected=f"1 to {batch}",
            fix=f"choose a greatest batch of {most}, or build it with --batch 1,{batch},{batch}",
        )
    tensors = (*facts.inputs, *facts.outputs)
    kinds = {tensor.dtype for tensor in tensors}
    if kinds != {"float32"}:
        raise ExportError(
            f"the engine {artefact.file} has other inputs and outputs than float32",
            got=", ".join(sorted(kinds)),
            fix="keep them in float32 when building it",
        )
    shapes = {each.name: tuple(-1 if n is None else n for n in each.shape[1:]) for each in tensors}
    return bundle.read(artefact.file), shapes


def _most_exact(bundle: Bundle, kind: str) -> Artefact | None:
    found = [artefact for artefact in bundle.manifest.artefacts if artefact.kind == kind]
    return min(found, key=lambda each: PRECISIONS.index(each.precision), default=None)


def _sei(manifest: Manifest, labels: LabelSet, batch: int) -> Files:
    """The model that turns grids into label maps."""
    inputs, output = _sei_tensors(manifest, labels)
    settings = {
        "long_side": str(manifest.preprocess.long_side),
        "multiple": str(manifest.preprocess.multiple),
        "stride": str(manifest.stride),
        "node_offset": repr(manifest.node_offset),
        "seen_bias": "0.0",
        "use_seenmask": "true",
    }
    config = model(_SEI, batch, inputs, [output])
    config += runs_on("python", "CPU") + parameters(settings)
    source = resources.files("szn_export").joinpath("triton_sei", "model.py").read_bytes()
    return _files(_SEI, config, {"model.py": source, "labels.npz": labels.to_npz()})


def _ensemble(manifest: Manifest, labels: LabelSet, batch: int, network: str) -> Files:
    """The model that joins the network and SEI."""
    frames, *grids = _network_tensors(manifest)
    inputs, output = _sei_tensors(manifest, labels)
    config = model(_ENSEMBLE, batch, [frames, inputs[-1]], [output]) + 'platform: "ensemble"\n'
    steps = step(network, [frames], grids) + step(_SEI, inputs, [output])
    config += f"ensemble_scheduling {{\n{steps}}}\n"
    # a version without a file is an empty folder, which git and object stores do not keep
    return _files(_ENSEMBLE, config, {".keep": b""})


def _files(name: str, config: str, contents: Mapping[str, bytes]) -> Files:
    """Files of a model with one version."""
    version = {f"{name}/1/{file}": content for file, content in contents.items()}
    return {f"{name}/config.pbtxt": config.encode(), **version}


def _lines(names: Sequence[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write into a folder beside, which then takes the name."""
    try:
        folder = folder.resolve()  # so that a link to a repository stays one
        _check_replaceable(folder)
        write_folder(folder, files)
    except OSError as error:
        raise ExportError(f"{folder} cannot be written", got=error.strerror or error) from error


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace anything but an empty folder, or a repository with files of ours alone."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ExportError(f"{folder} is not a folder", fix="choose another name")
    present = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()
    }
    if not present:
        return
    fix = "choose another folder, or remove it yourself"
    try:
        document = json.loads((folder / _MARKER).read_bytes())
        _, listed = document["szn_triton"], set(document["files"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ExportError(f"{folder} exists and is no Triton repository of szn", fix=fix) from error
    if not present <= listed:
        raise ExportError(
            f"{folder} exists and holds files that szn did not write",
            got=", ".join(sorted(present - listed)[:5]),
            fix=fix,
        )
