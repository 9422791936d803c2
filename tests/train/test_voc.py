from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from szn_runtime.errors import InputError
from szn_train.datasets.voc import VOC_CLASSES, VOC_SPLITS, VocDataset
from tests.train import trees


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree that may be damaged."""
    return trees.write_voc_sbd(tmp_path / "pascal")


def dataset(root: Path, split: str = "train") -> VocDataset:
    return VocDataset(root=root, split=split)


# splits ---------------------------------------------------------------------------------------


def test_train_is_sbds_list_with_sbds_labels(root: Path) -> None:
    data = dataset(root)
    assert data.ids == tuple(trees.SBD_TRAIN)
    assert data.class_names == VOC_CLASSES
    assert data.published == 8498
    for image_id, (image, mask) in trees.sbd_pairs(trees.SBD_TRAIN).items():
        got_image, got_mask = data.pair(image_id)
        np.testing.assert_array_equal(got_mask, mask)
        assert got_mask.dtype == np.uint8
        assert np.abs(got_image.astype(int) - image).mean() < 8  # a JPEG of the same picture


def test_val_is_what_voc_2011_has_outside_sbd_with_vocs_labels(root: Path) -> None:
    data = dataset(root, "val")
    assert data.ids == tuple(trees.VAL)
    assert data.published == 736
    expected = trees.voc_pairs(trees.VAL)
    for image_id in data.ids:
        _, mask = data.pair(image_id)
        np.testing.assert_array_equal(mask, expected[image_id][1])
        assert (mask[-1] == 255).all()


def test_no_image_is_in_train_and_in_val(root: Path) -> None:
    assert not set(dataset(root).ids) & set(dataset(root, "val").ids)


@pytest.mark.parametrize(
    ("split", "ids", "published"),
    [
        ("sbd-val", list(trees.SBD_VAL), 2857),
        ("voc-train", list(trees.SBD_VAL), 1464),
        ("voc-val", list(trees.VAL), 1449),
        ("voc-trainval", sorted(trees.VAL | trees.SBD_VAL), 2913),
    ],
)
def test_the_data_sets_own_splits(root: Path, split: str, ids: list[str], published: int) -> None:
    data = dataset(root, split)
    assert list(data.ids) == ids
    assert data.published == published
    # SBD's labels have no void, VOC's do
    assert (data.mask(ids[0]) == 255).any() == split.startswith("voc")


def test_every_split_is_described() -> None:
    assert set(VOC_SPLITS) == {"train", "val", "sbd-val", "voc-train", "voc-val", "voc-trainval"}


def test_voc_2011_alone_serves_its_own_splits(tmp_path: Path) -> None:
    trees.write_devkit(
        tmp_path / "VOCdevkit" / "VOC2011",
        trees.voc_pairs(trees.VAL),
        {"Segmentation/val": list(trees.VAL)},
    )
    data = dataset(tmp_path, "voc-val")
    assert data.ids == tuple(trees.VAL)
    assert data.published == 1111
    assert data.pair("2007_000042")[1][0, -1] == VOC_CLASSES.index("person")


def test_an_image_that_voc_2012_lacks_is_taken_from_voc_2011(root: Path) -> None:
    image, mask = trees.voc_pairs(trees.VAL)["2007_000033"]
    for name, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (root / "VOCdevkit" / "VOC2012" / name / f"2007_000033.{suffix}").unlink()
    with pytest.raises(
        InputError, match=r"mask '2007_000033' of split 'val' is not at .*VOC2012.*"
    ):
        dataset(root, "val").mask("2007_000033")
    trees.write_devkit(
        root / "TrainVal" / "VOCdevkit" / "VOC2011", {"2007_000033": (image, mask)}, {}
    )
    np.testing.assert_array_equal(dataset(root, "val").pair("2007_000033")[1], mask)


def test_the_thesis_lists(data_dir: Path, tmp_path: Path) -> None:
    lists = {
        name: (data_dir / "splits" / f"{name}.txt").read_text().split()
        for name in ("voc_sbd_train", "voc_seg11valid")
    }
    train, val = lists["voc_sbd_train"], lists["voc_seg11valid"]
    assert (len(train), len(val)) == (8498, 736)
    # VOC 2011 val has 1111 images: these 736, and others that SBD labels too
    sbd = tmp_path / "benchmark_RELEASE" / "dataset"
    (sbd / "cls").mkdir(parents=True)
    trees.write_list(sbd / "train.txt", train)
    trees.write_list(sbd / "val.txt", [f"2011_9{number:05}" for number in range(2857)])
    voc = tmp_path / "VOCdevkit" / "VOC2011" / "ImageSets" / "Segmentation" / "val.txt"
    trees.write_list(
        voc, sorted([*val, *train[::23][:275], *(f"2011_9{n:05}" for n in range(100))])
    )
    assert dataset(tmp_path).ids == tuple(train)
    assert dataset(tmp_path, "val").ids == tuple(val)
    # lists of the official lengths that give another number are not the official ones
    trees.write_list(
        voc, sorted([*val, *train[::23][:275], *(f"2011_8{n:05}" for n in range(100))])
    )
    with pytest.raises(
        InputError, match=r"the official lengths but other images: got 836 images o"
    ):
        dataset(tmp_path, "val")


def test_the_classes_are_those_of_the_label_embeddings(data_dir: Path) -> None:
    with np.load(data_dir / "word2vec" / "voc21.npz") as arrays:
        assert tuple(arrays["names"]) == VOC_CLASSES


# where the folders may be ---------------------------------------------------------------------


def move(old: str, new: str) -> Callable[[Path], Path]:
    def moved(root: Path) -> Path:
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)
        return root

    return moved


@pytest.mark.parametrize(
    "arrange",
    [
        move("benchmark_RELEASE/dataset", "dataset"),
        move("TrainVal/VOCdevkit/VOC2011", "VOCdevkit/VOC2011"),
        move("VOCdevkit/VOC2012", "VOC2012"),
    ],
)
def test_other_usual_places(root: Path, arrange: Callable[[Path], Path]) -> None:
    root = arrange(root)
    assert dataset(root).mask("2008_000002").shape == trees.SIZE_HW
    assert dataset(root, "val").pair("2011_000003")[1].shape == trees.SIZE_HW


def test_the_folder_of_a_year_or_its_parent_may_be_named(root: Path) -> None:
    for folder in ("VOCdevkit", "VOCdevkit/VOC2012"):
        assert dataset(root / folder, "voc-val").ids == tuple(trees.VAL)


# what is missing ------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val", "sbd-val"])
def test_without_sbd_it_says_what_to_download_and_where_to(root: Path, split: str) -> None:
    (root / "benchmark_RELEASE" / "dataset").rename(root / "elsewhere")
    expected = (
        r"no SBD \(Semantic Boundaries Dataset\) in .*pascal: expected benchmark_RELEASE/dataset "
        r"with .*; download https://\S+benchmark\.tgz and unpack it in .*pascal$"
    )
    with pytest.raises(InputError, match=expected):
        dataset(root, split)


def test_without_voc_2011_val_says_what_to_download(root: Path) -> None:
    (root / "TrainVal").rename(root / "elsewhere")
    expected = (
        r"no PASCAL VOC 2011, whose list split 'val' is made of, in .*: expected "
        r"VOCdevkit/VOC2011/ImageSets/Segmentation/val\.txt; download http://\S+25-May-2011\.tar"
    )
    with pytest.raises(InputError, match=expected):
        dataset(root, "val")
    assert len(dataset(root, "voc-val").ids) == len(trees.VAL)


def test_without_any_voc_its_own_splits_say_what_to_download(tmp_path: Path) -> None:
    expected = r"no PASCAL VOC in .*; download http://\S+VOCtrainval_11-May-2012\.tar and unpack it"
    with pytest.raises(InputError, match=expected):
        dataset(tmp_path, "voc-val")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for split in VOC_SPLITS:
        with pytest.raises(InputError, match=r"no .*nowhere"):
            dataset(tmp_path / "nowhere", split)


def test_an_unknown_split_names_those_there_are(root: Path) -> None:
    with pytest.raises(
        InputError, match="PASCAL VOC has no split 'test': expected one of train, v"
    ):
        dataset(root, "test")


def test_a_val_list_within_sbd_leaves_nothing(root: Path) -> None:
    path = root / "TrainVal/VOCdevkit/VOC2011/ImageSets/Segmentation/val.txt"
    trees.write_list(path, trees.SBD_VAL)
    with pytest.raises(InputError, match=r"split 'val' of .* is empty"):
        dataset(root, "val")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("2008_000002\n2008_000002\n", r"train\.txt lists '2008_000002' twice"),
        ("2008_000002  1\n", r"train\.txt: got '2008_000002 1', expected one image id a line"),
        ("\n", r"train\.txt is empty"),
    ],
)
def test_a_damaged_list_is_refused(root: Path, content: str, message: str) -> None:
    (root / "benchmark_RELEASE" / "dataset" / "train.txt").write_text(content)
    with pytest.raises(InputError, match=message):
        dataset(root)


# damaged files --------------------------------------------------------------------------------


def sbd_mask(root: Path) -> Path:
    return root / "benchmark_RELEASE" / "dataset" / "cls" / "2008_000002.mat"


def test_a_missing_image_or_mask_is_named(root: Path) -> None:
    sbd_mask(root).unlink()
    with pytest.raises(InputError, match=r"mask .*2008_000002\.mat is missing"):
        dataset(root).pair("2008_000002")
    (root / "benchmark_RELEASE" / "dataset" / "img" / "2008_000008.jpg").unlink()
    expected = r"image '2008_000008' of split 'train' is not at .*img.*, nor at .*VOC2012"
    with pytest.raises(InputError, match=expected):
        dataset(root).image("2008_000008")


@pytest.mark.parametrize("content", [b"", b"no mat", b"MATLAB 5.0 MAT-file" + bytes(200)])
def test_a_file_that_is_no_mat_is_refused(root: Path, content: bytes) -> None:
    sbd_mask(root).write_bytes(content)
    with pytest.raises(InputError, match=r"mask .*2008_000002\.mat (is not a MATLAB|has no varia)"):
        dataset(root).mask("2008_000002")


@pytest.mark.parametrize("length", [60, 150, 400])
def test_a_truncated_mat_is_refused(root: Path, length: int) -> None:
    content = sbd_mask(root).read_bytes()
    assert len(content) > length
    sbd_mask(root).write_bytes(content[:length])
    with pytest.raises(
        InputError, match=r"mask .*2008_000002\.mat is not a MATLAB file|has no var"
    ):
        dataset(root).mask("2008_000002")


@pytest.mark.parametrize(
    "variables",
    [
        {"GTcls": np.zeros((3, 4), np.uint8)},
        {"GTcls": {"Boundaries": 1}},
        {"GTcls": {"Segmentation": "text"}},
        {"GTcls": {"Segmentation": np.zeros((3, 4))}},
    ],
)
def test_a_mat_without_a_label_map_is_refused(root: Path, variables: dict[str, object]) -> None:
    savemat(sbd_mask(root), variables)
    with pytest.raises(
        InputError, match=r"has no label map: expected GTcls\.Segmentation, as in S"
    ):
        dataset(root).mask("2008_000002")


def test_a_mat_with_another_variable_is_refused(root: Path) -> None:
    savemat(sbd_mask(root), {"GTinst": {"Segmentation": np.zeros((3, 4), np.uint8)}})
    with pytest.raises(InputError, match="has no variable 'GTcls'"):
        dataset(root).mask("2008_000002")


@pytest.mark.parametrize(
    ("split", "image_id"), [("train", "2008_000002"), ("voc-val", "2007_000033")]
)
def test_a_label_outside_the_classes_is_refused(root: Path, split: str, image_id: str) -> None:
    mask = dataset(root, split).mask(image_id).copy()
    mask[3, 3], mask[4, 4] = 21, 254
    trees.write_sbd_mat(sbd_mask(root), mask)
    trees.write_palette_png(
        root / "VOCdevkit" / "VOC2012" / "SegmentationClass" / f"{image_id}.png", mask
    )
    expected = (
        rf"mask .*{image_id}.* has an index outside the 21 classes of PASCAL VOC: got 21, 254, "
        "expected 0 to 20, or 255"
    )
    with pytest.raises(InputError, match=expected):
        dataset(root, split).mask(image_id)


@pytest.mark.parametrize("value", [-1, 300])
def test_a_label_that_is_no_byte_is_refused(root: Path, value: int) -> None:
    labels = np.full((4, 5), value, np.int16)
    savemat(sbd_mask(root), {"GTcls": {"Segmentation": labels}})
    with pytest.raises(InputError, match=rf"got labels {value} to {value}, expected 0 to 20"):
        dataset(root).mask("2008_000002")


def test_an_image_and_a_mask_of_other_sizes_are_refused(root: Path) -> None:
    trees.write_sbd_mat(sbd_mask(root), np.zeros((20, 30), np.uint8))
    with pytest.raises(
        InputError, match="image and mask '2008_000002' differ in size: got image 48"
    ):
        dataset(root).pair("2008_000002")


def test_the_builder_writes_sbds_structure(root: Path) -> None:
    # read as SBD's own users read it
    labels = loadmat(sbd_mask(root))["GTcls"][0]["Segmentation"][0]
    np.testing.assert_array_equal(labels, trees.sbd_pairs(trees.SBD_TRAIN)["2008_000002"][1])
