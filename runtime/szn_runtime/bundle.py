"""The model on disk: a manifest, model files, labels and words, each with its checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path

from szn_runtime.archive import Archive, open_archive
from szn_runtime.bundle_files import (
    LABELS_FILE,
    MANIFEST_FILE,
    MAX_FILE_BYTES,
    MODEL_CARD_FILE,
    PROJECTION_FILE,
    VOCABULARY_FILE,
)
from szn_runtime.bundle_writer import write_bundle
from szn_runtime.errors import BundleError, InputError
from szn_runtime.labels import LabelSet
from szn_runtime.manifest import Artefact, Manifest, Preprocess
from szn_runtime.onnx_guard import check_onnx
from szn_runtime.vocabulary import Projection, Vocabulary

__all__ = [
    "LABELS_FILE",
    "MANIFEST_FILE",
    "MODEL_CARD_FILE",
    "PROJECTION_FILE",
    "VOCABULARY_FILE",
    "Artefact",
    "Bundle",
    "Manifest",
    "Preprocess",
    "default_bundle_path",
    "write_bundle",
]

_MAX_MANIFEST_BYTES = 16 << 20


class Bundle:
    """A trained model with everything that running it needs, read from a folder or a ZIP file.

    Nothing stays open between reads, and nothing in a bundle is executed. Every read checks size
    and SHA-256 against the manifest, so that what was verified is what is used.

    Example:
        >>> bundle = Bundle.open("szn-mini")          # doctest: +SKIP
        >>> bundle.manifest.dim, bundle.label_set().names[:2]  # doctest: +SKIP
        (20, ('building', 'grass'))
    """

    def __init__(self, archive: Archive, manifest: Manifest) -> None:
        """Use `Bundle.open`."""
        self._archive = archive
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open a bundle: read its manifest and see that every file of it is there.

        Args:
            path: Its folder, or a ZIP file with the files at its root or in one folder.

        Raises:
            BundleError: If there is no bundle, the manifest is damaged or of another schema
                version, a file is missing or of another size, or there are symbolic links or
                paths that lead outside.
        """
        archive = open_archive(path)
        data = archive.read(MANIFEST_FILE, limit_bytes=_MAX_MANIFEST_BYTES)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BundleError(f"{MANIFEST_FILE} of {path} is not UTF-8 text", got=error) from error
        manifest = Manifest.from_json(text, source=f"{MANIFEST_FILE} of {path}")
        if LABELS_FILE not in manifest.files:
            raise BundleError(f"{MANIFEST_FILE} of {path} lists no {LABELS_FILE}")
        bundle = cls(archive, manifest)
        for name in manifest.files:
            bundle._check_size(name, archive.size(name))
        return bundle

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}, name={self.manifest.name!r})"

    @property
    def path(self) -> Path:
        """The folder or ZIP file."""
        return self._archive.path

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.files

    def read(self, name: str) -> bytes:
        """The bytes of a file, verified against the manifest.

        Raises:
            BundleError: If the manifest does not list the file, or its size or hash differ.
        """
        facts = self.manifest.files.get(name)
        if facts is None:
            raise BundleError(
                f"the bundle {self.path} has no file {name}", got=sorted(self.manifest.files)
            )
        if facts["bytes"] > MAX_FILE_BYTES:
            raise BundleError(
                f"{name} of {self.path} is too large",
                got=f"{facts['bytes']} bytes",
                expected=f"at most {MAX_FILE_BYTES}",
                fix="models over 2 GB would need external data, which is not supported",
            )
        data = self._archive.read(name, limit_bytes=facts["bytes"])
        self._check_size(name, len(data))
        digest = hashlib.sha256(data).hexdigest()
        if digest != facts["sha256"]:
            raise BundleError(
                f"{name} of {self.path} is damaged",
                got=f"sha256 {digest[:12]}",
                expected=facts["sha256"][:12],
                fix="copy or export the bundle again",
            )
        return data

    def _check_size(self, name: str, size: int) -> None:
        expected = self.manifest.files[name]["bytes"]
        if size != expected:
            raise BundleError(
                f"{name} of {self.path} is damaged",
                got=f"{size} bytes",
                expected=expected,
                fix="copy or export the bundle again",
            )

    def label_set(self) -> LabelSet:
        """The labels the network came with.

        Raises:
            BundleError: If they are damaged or do not fit the manifest.
        """
        try:
            labels = LabelSet.from_npz(self.read(LABELS_FILE), source=LABELS_FILE)
        except InputError as error:
            raise BundleError(f"{LABELS_FILE} of {self.path} cannot be used", got=error) from error
        manifest = self.manifest
        self._check_dim(LABELS_FILE, labels.dim)
        groups = {*manifest.train_seen, *manifest.train_unseen, *manifest.unseen}
        seen = {name for name, flag in zip(labels.names, labels.seen, strict=True) if flag}
        if set(labels.names) != groups or seen != set(manifest.train_seen):
            odd = sorted(set(labels.names) ^ groups or seen ^ set(manifest.train_seen))
            raise BundleError(
                f"{LABELS_FILE} and {MANIFEST_FILE} of {self.path} disagree on labels", got=odd
            )
        return labels

    def vocabulary(self) -> Vocabulary | None:
        """The words that labels can be made of, or None if the bundle has none.

        Raises:
            BundleError: If they are damaged or do not fit the manifest.
        """
        if VOCABULARY_FILE not in self:
            return None
        try:
            vocabulary = Vocabulary.from_npz(self.read(VOCABULARY_FILE), source=VOCABULARY_FILE)
        except InputError as error:
            raise BundleError(
                f"{VOCABULARY_FILE} of {self.path} cannot be used", got=error
            ) from error
        self._check_dim(VOCABULARY_FILE, vocabulary.dim)
        return vocabulary

    def projection(self) -> Projection | None:
        """What turns word vectors into embeddings, or None if the bundle has none.

        Raises:
            BundleError: If it is damaged or does not fit the manifest.
        """
        if PROJECTION_FILE not in self:
            return None
        try:
            projection = Projection.from_npz(self.read(PROJECTION_FILE), source=PROJECTION_FILE)
        except InputError as error:
            raise BundleError(
                f"{PROJECTION_FILE} of {self.path} cannot be used", got=error
            ) from error
        self._check_dim(PROJECTION_FILE, projection.basis.shape[0])
        return projection

    def _check_dim(self, name: str, dim: int) -> None:
        if dim != self.manifest.dim:
            raise BundleError(
                f"{name} of {self.path} does not fit the network",
                got=f"{dim} dimensions",
                expected=self.manifest.dim,
            )

    def artefact(self, *, kind: str = "onnx", precision: str = "fp32") -> Artefact:
        """The entry of a file that a backend can run.

        Raises:
            BundleError: If the bundle has none of that kind and precision.
        """
        for artefact in self.manifest.artefacts:
            if (artefact.kind, artefact.precision) == (kind, precision):
                return artefact
        raise BundleError(
            f"the bundle {self.path} has no {kind} model in {precision}",
            got=", ".join(f"{a.kind} {a.precision}" for a in self.manifest.artefacts),
            fix="choose one of these, or export it with szn-export",
        )

    def model_bytes(self, precision: str = "fp32") -> bytes:
        """The verified ONNX file of a precision, which is a plain network (see `check_onnx`).

        Raises:
            BundleError: If there is none, it is damaged, or it would do more than a network does.
        """
        name = self.artefact(precision=precision).file
        data = self.read(name)
        check_onnx(data, source=f"{name} of {self.path}")
        return data


def default_bundle_path() -> Path:
    """Where the bundle that ships with the package lies."""
    return Path(__file__).parent / "assets" / "szn-mini"
