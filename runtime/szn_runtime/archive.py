"""The files of a bundle, in a folder or in a ZIP file that is read in place."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Protocol

from szn_runtime.errors import BundleError

__all__ = ["Archive", "FolderArchive", "ZipArchive", "open_archive"]

_MAX_ENTRIES = 10_000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_SPECIAL_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Archive(Protocol):
    """Flat names to bytes. Nothing is ever written or extracted."""

    path: Path

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            BundleError: If it is missing or no regular file.
        """

    def read(self, name: str, *, limit_bytes: int) -> bytes:
        """The bytes of a file.

        Raises:
            BundleError: If it is missing, no regular file, unreadable or larger than the limit.
        """


def open_archive(path: str | Path) -> Archive:
    """Open a bundle's folder or ZIP file.

    Raises:
        BundleError: If the path is neither, or holds symbolic links or names that lead outside.
    """
    path = Path(path)
    if path.is_dir():
        return FolderArchive(path)
    fix = "give the folder or .zip file that szn-export wrote"
    if not path.exists():
        raise BundleError(f"there is no bundle at {path}", fix=fix)
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise BundleError(f"{path} is not a bundle", expected="a folder or a .zip file", fix=fix)
    return ZipArchive(path)


class FolderArchive:
    """The regular files directly in a folder."""

    def __init__(self, path: Path) -> None:
        """Look for links, which a bundle must not hold."""
        self.path = path
        try:
            links = [entry.name for entry in path.iterdir() if entry.is_symlink()]
        except OSError as error:
            raise BundleError(f"{path} cannot be read", got=error.strerror) from error
        if links:
            raise BundleError(
                f"{path} holds a symbolic link",
                got=links[0],
                expected="regular files",
                fix="copy the bundle with `cp -rL`",
            )

    def size(self, name: str) -> int:
        """Bytes of a file; see `Archive`."""
        try:
            facts = os.lstat(self.path / name)
        except OSError as error:
            raise BundleError(
                f"{name} of {self.path} cannot be read",
                got=error.strerror,
                fix="copy or export the bundle again",
            ) from error
        if not stat.S_ISREG(facts.st_mode):
            raise BundleError(f"{name} of {self.path} is not a regular file")
        return facts.st_size

    def read(self, name: str, *, limit_bytes: int) -> bytes:
        """The bytes of a file; see `Archive`."""
        _check_size(name, self.size(name), limit_bytes)
        try:
            # the file may have been replaced by a link or a pipe since its size was read
            descriptor = os.open(self.path / name, os.O_RDONLY | _SPECIAL_FLAGS)
            with os.fdopen(descriptor, "rb") as file:
                data = file.read(limit_bytes + 1)
        except OSError as error:
            raise BundleError(
                f"{name} of {self.path} cannot be read", got=error.strerror
            ) from error
        _check_size(name, len(data), limit_bytes)
        return data


class ZipArchive:
    """The files of a ZIP, at its root or in the one folder that holds `manifest.json`."""

    def __init__(self, path: Path) -> None:
        """Read the table of contents and check every entry of it."""
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise BundleError(f"{path} is not a readable ZIP file", got=error) from error
        if len(entries) > _MAX_ENTRIES:
            raise BundleError(f"{path} has too many entries", got=len(entries))
        manifests = [
            e.filename for e in entries if PurePosixPath(e.filename).name == "manifest.json"
        ]
        roots = {str(PurePosixPath(name).parent) for name in manifests}
        if len(roots) > 1:
            raise BundleError(f"{path} holds several bundles", got=sorted(roots), expected="one")
        root = roots.pop() if roots else "."
        self._prefix = "" if root == "." else f"{root}/"
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            self._check_entry(entry)
            self._entries[entry.filename] = entry

    def _check_entry(self, entry: zipfile.ZipInfo) -> None:
        """Refuse links, names that lead outside, and everything that is read in another way."""
        name = entry.filename
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if name.startswith("/") or ".." in parts or "\0" in name or ":" in name:
            raise BundleError(f"{self.path} holds a path that leads outside", got=repr(name))
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise BundleError(
                f"{self.path} holds a symbolic link", got=name, fix="zip the bundle without -y"
            )
        if name in self._entries:
            raise BundleError(f"{self.path} holds {name} twice")
        if entry.flag_bits & 1 or entry.compress_type not in _METHODS:
            raise BundleError(
                f"{name} of {self.path} is encrypted or compressed in an unusual way",
                expected="stored or deflated",
            )

    def size(self, name: str) -> int:
        """Bytes of a file; see `Archive`."""
        entry = self._entries.get(self._prefix + name)
        if entry is None or entry.is_dir():
            raise BundleError(
                f"{name} of {self.path} cannot be read",
                got="no such file in it",
                fix="copy or export the bundle again",
            )
        return entry.file_size

    def read(self, name: str, *, limit_bytes: int) -> bytes:
        """The bytes of a file; see `Archive`."""
        _check_size(name, self.size(name), limit_bytes)
        try:
            # zipfile stops at the size that the entry states, which was just checked
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self._entries[self._prefix + name])
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, ValueError) as error:
            raise BundleError(f"{name} of {self.path} is damaged", got=error) from error
        except (NotImplementedError, RuntimeError) as error:
            raise BundleError(f"{name} of {self.path} is damaged", got=error) from error


def _check_size(name: str, size: int, limit_bytes: int) -> None:
    if size > limit_bytes:
        raise BundleError(
            f"{name} is too large", got=f"{size} bytes", expected=f"at most {limit_bytes}"
        )
