from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szn_runtime.arrays import decode_names, encode_names, pack_arrays, unpack_arrays
from szn_runtime.errors import BundleError

MEMBERS = {"a": ("float32", 2)}


def npz(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header.encode() + data


def unpack(data: bytes, limit_bytes: int = 1 << 20) -> np.ndarray:
    arrays = unpack_arrays(data, source="x.npz", members=MEMBERS, limit_bytes=limit_bytes)
    return arrays["a"]


@given(st.integers(0, 5), st.integers(0, 5), st.booleans())
def test_round_trip(rows: int, columns: int, numpy_writes: bool) -> None:
    array = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    if numpy_writes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, a=array)
        data = buffer.getvalue()
    else:
        data = pack_arrays({"a": array})
        with np.load(io.BytesIO(data), allow_pickle=False) as loaded:  # and NumPy reads ours
            np.testing.assert_array_equal(loaded["a"], array)
    found = unpack(data)
    np.testing.assert_array_equal(found, array)
    assert not found.flags.writeable


def test_a_bomb_is_refused_before_it_expands() -> None:
    bomb = pack_arrays({"a": np.zeros((4096, 4096), np.float32)})
    assert len(bomb) < 100_000
    with pytest.raises(BundleError, match=r"a of x.npz is too large: got 67108\d+ bytes"):
        unpack(bomb)


def test_a_bomb_that_states_a_small_size_is_cut_off() -> None:
    bomb = bytearray(pack_arrays({"a": np.zeros((512, 1024), np.float32)}))
    size = (512 * 1024 * 4 + 128).to_bytes(4, "little")
    assert bomb.count(size) == 2  # in the entry and in the table of contents
    lying = bytes(bomb).replace(size, (4096).to_bytes(4, "little"))
    with pytest.raises(BundleError, match=r"Bad CRC-32|does not hold what its header says"):
        unpack(lying, limit_bytes=8192)


def test_a_header_that_asks_for_more_than_there_is() -> None:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627775, 1000000)}"
    with pytest.raises(BundleError, match="does not hold what its header says: got 4 bytes"):
        unpack(npz("a.npy", npy(header, b"\0\0\0\0")))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}"), "not a plain array"),
        (npy("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1)}"), "not a plain array"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 1)}"), "not a plain array"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': 7}"), "unreadable header|plain"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 1)}"), "has another type"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0,)}"), "has another type"),
        (npy("{'descr': 'nonsense', 'fortran_order': False, 'shape': (0, 1)}"), "unreadable head"),
        (npy("__import__('os').system('false')"), "unreadable header"),
        (npy("["), "unreadable header"),
        (npy("{" * 3000), "unreadable header"),
        (npy(" " * 5000), "header that is too long"),
        (npy("{}", version=b"\x09\x00"), "not an NPY file"),
        (b"\x93NUM", "not an NPY file"),
        (b"", "not an NPY file"),
        (b"a picture of a cow", "not an NPY file"),
    ],
)
def test_members_that_are_refused(content: bytes, match: str) -> None:
    with pytest.raises(BundleError, match=match):
        unpack(npz("a.npy", content))


def test_files_that_are_no_npz() -> None:
    with pytest.raises(BundleError, match=r"array a of x\.npz is missing: got"):
        unpack(npz("b.npy", b""))
    with pytest.raises(BundleError, match=r"x\.npz is not a readable NPZ file"):
        unpack(b"text")
    whole = pack_arrays({"a": np.ones((9, 9), np.float32)})
    with pytest.raises(BundleError, match=r"x\.npz is not a readable NPZ file"):
        unpack(whole[: len(whole) // 2])


@given(st.data())
@settings(max_examples=300)
def test_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    damaged = bytearray(pack_arrays({"a": array}))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = unpack(bytes(damaged))
    except BundleError:
        return
    # what is read in spite of it is checked by ZIP's own checksum
    np.testing.assert_array_equal(found, array)


def test_names() -> None:
    names = ("cow", "Käse", "traffic light")
    assert decode_names(encode_names(names), source="x") == names
    assert decode_names(np.zeros(0, np.uint8), source="x") == ()
    with pytest.raises(BundleError, match="names in x are not UTF-8 text"):
        decode_names(np.array([255], np.uint8), source="x")
    for wrong in ("", "a\nb"):
        with pytest.raises(BundleError, match="a name cannot be stored"):
            encode_names(["cow", wrong])
