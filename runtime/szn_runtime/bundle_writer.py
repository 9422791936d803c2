"""Writing a bundle: all of it, or nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from szn_runtime.bundle_files import (
    LABELS_FILE,
    MANIFEST_FILE,
    MAX_FILE_BYTES,
    FileFacts,
    check_file_name,
)
from szn_runtime.errors import BundleError
from szn_runtime.folder_writer import write_folder
from szn_runtime.manifest import Manifest

__all__ = ["write_bundle"]


def write_bundle(
    folder: str | Path, manifest_without_files: Manifest, files: Mapping[str, bytes]
) -> Manifest:
    """Write a bundle: all of it, or nothing.

    The files are written into a temporary folder beside the target, which then takes the target's
    name. An older bundle there is replaced; anything else is left alone.

    Args:
        folder: The bundle's folder; its parent is made if it is missing.
        manifest_without_files: What to say about the model; its `files` are replaced.
        files: Name to bytes, `labels.npz` and every artefact among them.

    Returns:
        The manifest as written, with the checksums of all files.

    Raises:
        BundleError: If a file is missing or too large, its name is not plain, the folder exists
            and is no bundle, or it cannot be written.
    """
    folder = Path(folder)
    if LABELS_FILE not in files:
        raise BundleError("a bundle cannot be written without its labels", expected=LABELS_FILE)
    facts: dict[str, FileFacts] = {}
    for name, data in files.items():
        check_file_name(name)
        if len(data) > MAX_FILE_BYTES:
            raise BundleError(
                f"{name} is too large", got=f"{len(data)} bytes", expected=f"<= {MAX_FILE_BYTES}"
            )
        facts[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    manifest = dataclasses.replace(manifest_without_files, files=facts)
    try:
        folder = folder.resolve()  # so that a link to a bundle stays one
        _check_replaceable(folder)
        text = manifest.to_json().encode("utf-8")
        write_folder(folder, {**files, MANIFEST_FILE: text})
    except OSError as error:
        raise BundleError(f"{folder} cannot be written", got=error.strerror or error) from error
    return manifest


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace anything but an empty folder or a bundle without files of its owner."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder", fix="choose another name for the bundle")
    present = {entry.name for entry in folder.iterdir()}
    if not present:
        return
    fix = "choose another folder, or remove it yourself"
    try:
        document = json.loads((folder / MANIFEST_FILE).read_bytes())
        listed = {MANIFEST_FILE, *document["files"]} if "schema_version" in document else set()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{folder} exists and is no bundle", fix=fix) from error
    if not present <= listed:
        raise BundleError(
            f"{folder} exists and holds files that are no part of a bundle",
            got=", ".join(sorted(present - listed)[:5]),
            fix=fix,
        )
