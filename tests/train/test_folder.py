from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from szn_runtime.errors import InputError
from szn_train.datasets import FolderDataset
from tests.train import catalogue


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images with masks, free to be damaged."""
    pairs = {
        "a": catalogue.scene("grass", "sky", "cow"),
        "b": catalogue.scene("sky", "sheep", size_hw=(40, 30)),
    }
    return catalogue.write_dataset(tmp_path / "data", {"train": pairs, "val": {"b": pairs["b"]}})


def dataset(root: Path, split: str = "train") -> FolderDataset:
    return FolderDataset(root=root, split=split)


def test_a_split_gives_its_ids_images_and_masks(root: Path) -> None:
    image, mask = catalogue.scene("grass", "sky", "cow")
    data = dataset(root)
    assert data.ids == ("a", "b")
    assert data.class_names == catalogue.CLASSES
    got_image, got_mask = data.pair("a")
    np.testing.assert_array_equal(got_image, image)
    np.testing.assert_array_equal(got_mask, mask)
    assert got_mask.dtype == np.uint8
    assert dataset(root, "val").ids == ("b",)


def test_void_and_blank_lines_are_allowed(root: Path) -> None:
    (root / "splits" / "train.txt").write_text("\n a \n\n")
    mask = catalogue.scene("grass", "sky", "cow")[1]
    mask[:3] = 255
    catalogue.write_png(root / "masks" / "a.png", mask)
    data = dataset(root)
    assert data.ids == ("a",)
    np.testing.assert_array_equal(data.mask("a"), mask)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".bmp", ".webp"])
def test_images_may_have_other_suffixes(root: Path, suffix: str) -> None:
    path = root / "images" / "a.png"
    with Image.open(path) as picture:
        picture.save(path.with_suffix(suffix))
    path.unlink()
    data = dataset(root)
    assert data.image_path("a").suffix == suffix
    assert data.image("a").shape == (48, 64, 3)


def test_a_palette_mask_is_read_as_indices(root: Path) -> None:
    indices = dataset(root).mask("a")
    picture = Image.fromarray(indices, mode="P")
    picture.putpalette([200, 10, 30, 0, 0, 255, 120, 120, 0] * 20)
    picture.save(root / "masks" / "a.png")
    with Image.open(root / "masks" / "a.png") as written:
        assert written.mode == "P"
    np.testing.assert_array_equal(dataset(root).mask("a"), indices)


def test_a_grey_image_is_read_as_bgr(root: Path) -> None:
    grey = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
    catalogue.write_png(root / "images" / "a.png", grey)
    np.testing.assert_array_equal(dataset(root).image("a"), np.stack([grey] * 3, axis=2))


def test_an_index_outside_the_classes_is_refused(root: Path) -> None:
    mask = dataset(root).mask("a").copy()
    mask[0, 0], mask[5, 5] = 6, 254
    catalogue.write_png(root / "masks" / "a.png", mask)
    expected = r"a\.png has an index outside classes\.txt: got 6, 254, expected 0 to 5, or 255"
    with pytest.raises(InputError, match=expected):
        dataset(root).mask("a")


def test_an_image_and_a_mask_of_other_sizes_are_refused(root: Path) -> None:
    catalogue.write_png(root / "masks" / "a.png", np.zeros((20, 30), np.uint8))
    expected = "image and mask 'a' differ in size: got image 64 x 48, mask 30 x 20, expected the sa"
    with pytest.raises(InputError, match=expected):
        dataset(root).pair("a")


def test_a_missing_image_is_named(root: Path) -> None:
    (root / "images" / "a.png").unlink()
    with pytest.raises(
        InputError, match=r"image 'a' of split 'train' is not in .*images: .*a\.jpg"
    ):
        dataset(root).image("a")


def test_a_missing_mask_is_named(root: Path) -> None:
    (root / "masks" / "a.png").unlink()
    with pytest.raises(InputError, match=r"mask .*a\.png is missing"):
        dataset(root).pair("a")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1", "I;16"])
def test_a_mask_that_is_no_map_of_indices_is_refused(root: Path, mode: str) -> None:
    picture = Image.fromarray(dataset(root).mask("a"))
    picture = picture.convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)
    picture.save(root / "masks" / "a.png")
    with pytest.raises(InputError, match=rf"is not a map of class indices: got mode {mode}, exp"):
        dataset(root).mask("a")


def test_a_grey_mask_of_four_bits_is_refused(root: Path) -> None:
    # Pillow would stretch its indices to 0, 17, 34 and so on
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 4, 2, 4, 0, 0, 0, 0)  # 4 x 2, 4 bits, grey
    pixels = zlib.compress(b"\0\x01\x23" + b"\0\x01\x00")
    (root / "masks" / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
    with pytest.raises(InputError, match=r"is not a map of class indices: got mode L;4"):
        dataset(root).mask("a")


@pytest.mark.parametrize("content", [b"", b"not an image\n", b"\x89PNG\r\n\x1a\n half"])
def test_a_file_that_is_no_image_is_refused(root: Path, content: bytes) -> None:
    (root / "images" / "a.png").write_bytes(content)
    (root / "masks" / "b.png").write_bytes(content)
    data = dataset(root)
    expected = rf"a\.png is not an image that OpenCV decodes: got {len(content)} bytes"
    with pytest.raises(InputError, match=expected):
        data.pair("a")
    with pytest.raises(InputError, match=r"mask .*b\.png is not an image"):
        data.mask("b")


def test_a_truncated_mask_is_refused(root: Path) -> None:
    path = root / "masks" / "a.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"mask .*a\.png is not an image"):
        dataset(root).mask("a")


def test_a_missing_split_lists_those_that_exist(root: Path) -> None:
    with pytest.raises(InputError, match=r"has no split 'test': expected one of train, val"):
        dataset(root, "test")


def test_a_data_set_without_splits_says_what_is_needed(root: Path) -> None:
    for path in (root / "splits").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"has no split 'train': expected splits/<split>\.txt"):
        dataset(root)


def test_an_id_that_comes_twice_is_refused(root: Path) -> None:
    (root / "splits" / "train.txt").write_text("a\nb\na\n")
    with pytest.raises(InputError, match=r"split 'train' of .* lists 'a' twice"):
        dataset(root)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no data set at .*nowhere.*check --data"):
        dataset(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"classes\.txt is missing: expected one class name a line"),
        (b"\n \n", r"classes\.txt is empty"),
        (b"\xff\xfe\x00c\x00a", r"classes\.txt is not text"),
        (b"\n".join(b"c%d" % i for i in range(256)), r"classes\.txt: got 256, expected <= 255"),
    ],
)
def test_class_names_that_cannot_be_read_are_refused(
    root: Path, content: bytes | None, message: str
) -> None:
    (root / "classes.txt").unlink()
    if content is not None:
        (root / "classes.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        dataset(root)


def test_class_names_are_read_once(root: Path) -> None:
    data, other = dataset(root), dataset(root)
    (root / "classes.txt").write_text("grass\n")  # the masks would not do
    np.testing.assert_array_equal(data.mask("a"), catalogue.scene("grass", "sky", "cow")[1])
    assert data.class_names == catalogue.CLASSES
    assert data == other
