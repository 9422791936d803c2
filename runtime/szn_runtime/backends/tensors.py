"""A loaded model's tensors, compared with what the manifest says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from szn_runtime.errors import BackendError
from szn_runtime.manifest import Manifest

__all__ = [
    "ENGINE_DTYPES",
    "Expected",
    "TensorFacts",
    "check_engine_tensors",
    "check_tensors",
]

ENGINE_DTYPES = {"FLOAT": "float32", "HALF": "float16"}
"""TensorRT's names of the types that engines may take and give."""


@dataclass(frozen=True, kw_only=True)
class TensorFacts:
    """An input or output of a model, as its library reports it.

    Args:
        name: Of the tensor.
        dtype: numpy's name of its type where there is one, else the library's.
        shape: Sizes, None for those that are not fixed.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a model should take and give.

    Args:
        inputs: Name to number of channels.
        outputs: Likewise.
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]

    @classmethod
    def of(cls, manifest: Manifest) -> Expected:
        """Frames in, both grids out."""
        return cls(
            inputs={manifest.input_name: 3},
            outputs={manifest.embedding_name: manifest.dim, manifest.seenmask_name: 2},
        )


def check_tensors(
    inputs: Sequence[TensorFacts],
    outputs: Sequence[TensorFacts],
    expected: Expected,
    *,
    dtypes: Sequence[str] = ("float32",),
) -> None:
    """See that the model takes and gives what it should.

    Args:
        inputs: What the model takes.
        outputs: What it gives; more than the expected ones are allowed.
        expected: Names and channels of the tensors.
        dtypes: Types that the backend can feed and read.

    Raises:
        BackendError: If a tensor is missing, has another type, rank or number of channels, or if
            there are other inputs.
    """
    for name, channels in expected.inputs.items():
        _check(inputs, "input", name, channels, dtypes)
    if len(inputs) != len(expected.inputs):
        most = "one input" if len(expected.inputs) == 1 else f"{len(expected.inputs)} inputs"
        raise BackendError(f"the model has more than {most}", got=_names(inputs))
    for name, channels in expected.outputs.items():
        _check(outputs, "output", name, channels, dtypes)


def check_engine_tensors(
    inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts], expected: Expected, *, fix: str
) -> None:
    """As `check_tensors`; and nothing else comes out, since TensorRT wants memory for all of it.

    Raises:
        BackendError: If that is not so; `fix` says what to do about other outputs.
    """
    check_tensors(inputs, outputs, expected, dtypes=tuple(ENGINE_DTYPES.values()))
    others = {t.name for t in outputs} - set(expected.outputs)
    if others:
        raise BackendError(
            "the engine has outputs that the manifest does not name",
            got=", ".join(sorted(others)),
            fix=fix,
        )


def _check(
    tensors: Sequence[TensorFacts], kind: str, name: str, channels: int, dtypes: Sequence[str]
) -> None:
    found = next((tensor for tensor in tensors if tensor.name == name), None)
    if found is None:
        raise BackendError(
            f"the model has no {kind} {name!r}, which the manifest names",
            got=_names(tensors),
            fix="export the bundle again",
        )
    shape = found.shape
    if found.dtype not in dtypes or len(shape) != 4 or shape[1] not in (None, channels):
        sizes = ", ".join("?" if size is None else str(size) for size in shape)
        raise BackendError(
            f"{kind} {name!r} of the model does not fit the manifest",
            got=f"{found.dtype} ({sizes})",
            expected=f"{' or '.join(dtypes)} (?, {channels}, ?, ?)",
            fix="export the bundle again",
        )


def _names(tensors: Sequence[TensorFacts]) -> str:
    return ", ".join(tensor.name for tensor in tensors)
