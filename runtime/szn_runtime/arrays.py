"""Arrays in NPZ files that come from elsewhere: nothing executes, nothing expands unasked."""

from __future__ import annotations

import ast
import io
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_runtime.errors import BundleError

__all__ = ["decode_names", "encode_names", "pack_arrays", "unpack_arrays"]

_MAX_HEADER_BYTES = 4096
_PREFIX_BYTES = {(1, 0): 10, (2, 0): 12}  # magic, version and the header's length


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Write arrays as a compressed NPZ file; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), (1, 0), False)
            # a fixed date, so that the same arrays give the same checksum
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            archive.writestr(info, member.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=6)
    return buffer.getvalue()


def unpack_arrays(
    data: bytes, *, source: str, members: Mapping[str, tuple[str, int]], limit_bytes: int
) -> dict[str, NDArray[Any]]:
    """Read the named arrays of an NPZ file; members that are not named are not touched.

    Sizes are checked before anything is decompressed or allocated, and pickled objects are never
    read.

    Args:
        data: The NPZ file.
        source: Its name, for the error messages.
        members: Name to dtype and number of dimensions, such as `{"seen": ("bool", 1)}`.
        limit_bytes: The most that one uncompressed member may hold.

    Returns:
        Name to a read-only, C-contiguous array.

    Raises:
        BundleError: If the file is no NPZ file, a member is missing, too large or of another type.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {
                name: _member(archive, name, source, dtype, ndim, limit_bytes)
                for name, (dtype, ndim) in members.items()
            }
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, struct.error) as e:
        raise BundleError(f"{source} is not a readable NPZ file", got=e) from e
    except (ValueError, NotImplementedError, RuntimeError) as e:  # unknown method, encryption
        raise BundleError(f"{source} is not a readable NPZ file", got=e) from e


def _member(
    archive: zipfile.ZipFile, name: str, source: str, dtype: str, ndim: int, limit_bytes: int
) -> NDArray[Any]:
    """Decompress and check one array."""
    what = f"array {name} of {source}"
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise BundleError(f"{what} is missing", got=sorted(archive.namelist())) from None
    if info.file_size > limit_bytes:
        raise BundleError(
            f"{what} is too large", got=f"{info.file_size} bytes", expected=f"<= {limit_bytes}"
        )
    # zipfile stops at the size that the entry states, which was just checked
    raw = archive.read(info)
    kind, shape, start = _header(raw, what)
    if kind != np.dtype(dtype) or len(shape) != ndim:
        raise BundleError(
            f"{what} has another type",
            got=f"{kind} of shape {shape}",
            expected=f"{dtype} with {ndim} dimensions",
        )
    count = math.prod(shape)
    if len(raw) - start != count * kind.itemsize:
        raise BundleError(
            f"{what} does not hold what its header says",
            got=f"{len(raw) - start} bytes",
            expected=f"{count * kind.itemsize} for shape {shape}",
        )
    return np.frombuffer(raw, kind, count, start).reshape(shape)


def _header(raw: bytes, what: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Read dtype, shape and the data's start of an NPY file (NumPy's NEP 1), in C order.

    NumPy's own reader allocates what the header asks for before it has seen the data.
    """
    version = tuple(raw[6:8])
    prefix = _PREFIX_BYTES.get((version[0], version[1])) if len(version) == 2 else None
    if raw[:6] != b"\x93NUMPY" or prefix is None or len(raw) < prefix:
        raise BundleError(f"{what} is not an NPY file", got=raw[:8])
    start = prefix + int.from_bytes(raw[8:prefix], "little")
    if start > min(len(raw), _MAX_HEADER_BYTES):
        raise BundleError(f"{what} has a header that is too long", got=f"{start} bytes")
    try:
        header = ast.literal_eval(raw[prefix:start].decode("latin-1").strip())
        kind, shape = np.dtype(str(header["descr"])), header["shape"]
        plain = not kind.hasobject and header["fortran_order"] is False
    except (ValueError, TypeError, SyntaxError, KeyError, RecursionError, MemoryError) as error:
        raise BundleError(f"{what} has an unreadable header", got=error) from error
    sizes = shape if isinstance(shape, tuple) else (None,)
    if not plain or not all(isinstance(n, int) and 0 <= n < 1 << 40 for n in sizes):
        raise BundleError(f"{what} is not a plain array", got=f"{kind} of shape {shape}")
    return kind, sizes, start


def encode_names(names: Sequence[str]) -> NDArray[np.uint8]:
    """Join names with newlines as UTF-8 bytes: one array that needs no pickle.

    Raises:
        BundleError: If a name is empty or holds a newline.
    """
    for name in names:
        if not name or "\n" in name:
            raise BundleError(
                "a name cannot be stored", got=repr(name), expected="one line of text"
            )
    return np.frombuffer("\n".join(names).encode("utf-8"), np.uint8)


def decode_names(blob: NDArray[np.uint8], *, source: str) -> tuple[str, ...]:
    """Split what `encode_names` joined.

    Raises:
        BundleError: If the bytes are no UTF-8 text.
    """
    try:
        text = blob.tobytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"the names in {source} are not UTF-8 text", got=error) from error
    return tuple(text.split("\n")) if text else ()
