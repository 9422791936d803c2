"""What a bundle says about itself: `manifest.json`, checked field by field."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from szn_runtime._json import dump, is_int, is_number, plain, refuse_constant, require, require_text
from szn_runtime.bundle_files import FileFacts, check_file_name
from szn_runtime.errors import BundleError
from szn_runtime.geometry import GridGeometry

__all__ = ["SCHEMA_VERSION", "Artefact", "Manifest", "Preprocess"]

SCHEMA_VERSION = 1

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_SIDE = 1 << 15


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a frame becomes the network's input.

    Args:
        mean: Subtracted per channel, in the network's channel order, in units of 0..255.
        std: Divided by per channel, likewise; greater than 0.
        channel_order: "rgb" or "bgr", the order in which the network takes its channels.
        long_side: Pixels that the frame's longer side is resized to.
        multiple: The padded height and width are multiples of this.

    Raises:
        BundleError: If a value is out of its range.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: str
    long_side: int
    multiple: int

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            require(
                isinstance(values, tuple) and len(values) == 3 and all(map(is_number, values)),
                f"preprocess.{name}",
                values,
                "three numbers",
            )
            object.__setattr__(self, name, tuple(map(float, values)))
        require(min(self.std) > 0, "preprocess.std", self.std, "three numbers above 0")
        order = self.channel_order
        require(order in ("rgb", "bgr"), "preprocess.channel_order", order, "rgb or bgr")
        for name in ("long_side", "multiple"):
            side = getattr(self, name)
            require(
                is_int(side) and 1 <= side <= _MAX_SIDE,
                f"preprocess.{name}",
                side,
                f"1 to {_MAX_SIDE}",
            )


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One file that a backend can run.

    Args:
        kind: File format, "onnx".
        precision: "fp32", "fp16", "bf16" or "int8".
        file: Its name in the bundle.
        opset: ONNX operator set, None for other formats.
        facts: Whatever else it is bound to, as plain JSON.

    Raises:
        BundleError: If a value is out of its range.
    """

    kind: str
    precision: str
    file: str
    opset: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_text(self.kind, "artefact.kind")
        known = ("fp32", "fp16", "bf16", "int8")
        require(self.precision in known, "artefact.precision", self.precision, f"one of {known}")
        check_file_name(self.file)
        require(
            self.opset is None or (is_int(self.opset) and self.opset > 0),
            "artefact.opset",
            self.opset,
            "a positive integer",
        )
        object.__setattr__(self, "facts", plain(self.facts, "artefact.facts"))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Facts of a model and the checksums of its files.

    Args:
        name: Of the model.
        szn_version: That wrote the bundle.
        backbone: Name of the network's trunk.
        dim: Length j of an embedding.
        stride: Network pixels between two nodes of the output grid.
        node_offset: Network pixel at which node 0 sits (see `GridGeometry`).
        preprocess: How a frame becomes the network's input.
        input_name: Of the network's input, (N, 3, H, W) float32.
        embedding_name: Of its output (N, j, h, w) float32.
        seenmask_name: Of its output (N, 2, h, w) float32; channel 1 is seen.
        train_seen: Names the heads were trained on.
        train_unseen: Names that only trained the seenmask.
        unseen: Names that no training image showed.
        embeddings_source: Where the label embeddings come from.
        artefacts: What backends can run; no two of the same kind and precision.
        training: Facts of the training, as plain JSON.
        metrics: Measured results, as plain JSON.
        files: Name to `{"sha256": ..., "bytes": ...}` of every file but the manifest; empty until
            the bundle is written.
        schema_version: Of this format.

    Raises:
        BundleError: If a value is out of its range or does not fit another.
    """

    name: str
    szn_version: str
    backbone: str
    dim: int
    stride: int
    node_offset: float
    preprocess: Preprocess
    input_name: str
    embedding_name: str
    seenmask_name: str
    train_seen: tuple[str, ...]
    train_unseen: tuple[str, ...]
    unseen: tuple[str, ...]
    embeddings_source: str
    artefacts: tuple[Artefact, ...]
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileFacts] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _check_schema(self.schema_version)
        for name in ("name", "szn_version", "backbone", "embeddings_source"):
            require_text(getattr(self, name), name)
        tensors = (self.input_name, self.embedding_name, self.seenmask_name)
        for tensor in tensors:
            require_text(tensor, "tensor name")
        require(len(set(tensors)) == 3, "tensor names", tensors, "three different names")
        require(is_int(self.dim) and 1 <= self.dim <= 65536, "dim", self.dim, "1 to 65536")
        stride = self.stride
        require(is_int(stride) and 1 <= stride <= 1024, "stride", stride, "1 to 1024")
        require(is_number(self.node_offset), "node_offset", self.node_offset, "a finite number")
        object.__setattr__(self, "node_offset", float(self.node_offset))
        self._check_groups()
        for name in ("training", "metrics", "files"):
            object.__setattr__(self, name, plain(getattr(self, name), name))
        self._check_files()

    def _check_groups(self) -> None:
        """Label names: each in one group, and something to have trained on."""
        groups = (self.train_seen, self.train_unseen, self.unseen)
        for group in groups:
            require(isinstance(group, tuple), "label names", group, "a list")
            for name in group:
                require_text(name, "label name")
        names = [name for group in groups for name in group]
        require(len(names) == len(set(names)), "label names", sorted(names), "each once")
        require(len(self.train_seen) > 0, "train_seen", "no name", "at least one")

    def _check_files(self) -> None:
        """Checksums have their form, and every artefact is one of the files."""
        for name, facts in self.files.items():
            check_file_name(name)
            right = isinstance(facts, dict) and set(facts) == {"sha256", "bytes"}
            require(right, f"files[{name}]", facts, "sha256 and bytes")
            digest, size = facts["sha256"], facts["bytes"]
            right = isinstance(digest, str) and _SHA256.fullmatch(digest) is not None
            require(right, f"files[{name}].sha256", digest, "64 hexadecimal digits")
            require(is_int(size) and size >= 0, f"files[{name}].bytes", size, ">= 0")
        require(len(self.artefacts) > 0, "artefacts", "none", "at least one")
        keys = [(artefact.kind, artefact.precision) for artefact in self.artefacts]
        require(len(keys) == len(set(keys)), "artefacts", keys, "each kind and precision once")
        for artefact in self.artefacts:
            if self.files and artefact.file not in self.files:
                raise BundleError(
                    f"manifest.json names the artefact {artefact.file}, which is not in its files"
                )

    @property
    def grid_geometry(self) -> GridGeometry:
        """Where the nodes lie among the pixels of the network's input."""
        return GridGeometry.square(self.stride, self.node_offset)

    @property
    def checksum(self) -> str:
        """SHA-256 over the canonical JSON: one number that names the model and all its files."""
        return _checksum(self._document())

    def _document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(dump(dataclasses.asdict(self)))
        return document

    def to_json(self) -> str:
        """The text of `manifest.json`, with the checksum over everything else in it."""
        document = self._document()
        return dump(document | {"checksum": _checksum(document)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "manifest.json") -> Manifest:
        """Read what `to_json` wrote.

        Raises:
            BundleError: If the text is no JSON, of another schema version, damaged (its checksum
                does not fit), or holds a value that does not belong there.
        """
        try:
            document = json.loads(text, parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{source} is not JSON", got=error) from error
        if not isinstance(document, dict) or "schema_version" not in document:
            raise BundleError(
                f"{source} is not the manifest of a bundle", expected="schema_version"
            )
        _check_schema(document["schema_version"])
        stated = document.pop("checksum", None)
        actual = _checksum(document)
        # the second half catches changes that JSON does not see, such as in white space
        whole = dump(document | {"checksum": stated}, indent=2) + "\n"
        if stated != actual or whole != text:
            raise BundleError(
                f"{source} is damaged or was edited",
                got=f"checksum {str(stated)[:12]}",
                expected=actual[:12],
                fix="copy or export the bundle again",
            )
        return _build(document, source)


def _build(document: dict[str, Any], source: str) -> Manifest:
    """Turn checked JSON into the dataclass, lists into tuples."""
    values = dict(document)
    try:
        values["preprocess"] = Preprocess(**_tuples(values["preprocess"], ("mean", "std")))
        values["artefacts"] = tuple(Artefact(**artefact) for artefact in values["artefacts"])
        return Manifest(**_tuples(values, ("train_seen", "train_unseen", "unseen")))
    except (TypeError, KeyError, AttributeError) as error:
        raise BundleError(f"{source} does not have the fields of a manifest", got=error) from error


def _tuples(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """A copy with the named lists as tuples; other types are left for the checks."""
    fixed = {name: tuple(values[name]) for name in names if isinstance(values[name], list)}
    return {**values, **fixed}


def _check_schema(version: object) -> None:
    if not is_int(version) or version != SCHEMA_VERSION:
        raise BundleError(
            "manifest.json has another schema version",
            got=version,
            expected=SCHEMA_VERSION,
            fix="install the szn version that wrote the bundle, or export it again",
        )


def _checksum(document: dict[str, Any]) -> str:
    # a lone surrogate has no UTF-8 form; it is hashed like any other wrong text
    return hashlib.sha256(dump(document).encode("utf-8", "surrogatepass")).hexdigest()
