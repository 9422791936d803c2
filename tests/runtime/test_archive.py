from __future__ import annotations

import hashlib
import os
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from szn_runtime.bundle import Bundle
from szn_runtime.errors import BundleError
from tests.runtime import catalogue


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return catalogue.tiny_bundle(tmp_path / "tiny")


@pytest.mark.parametrize("position", range(0, 100, 7))
def test_each_damage_to_a_zip_is_refused(folder: Path, position: int) -> None:
    path = catalogue.zipped(folder)
    data = bytearray(path.read_bytes())
    whole = [Bundle.open(path).read(name) for name in catalogue.bundle_files()]
    data[len(data) * position // 100] ^= 0x55
    path.write_bytes(data)
    try:
        bundle = Bundle.open(path)
        read = [bundle.read(name) for name in catalogue.bundle_files()]
    except BundleError:
        return
    assert read == whole  # only dates and attributes can change unnoticed


def test_a_zip_that_ends_early(folder: Path) -> None:
    path = catalogue.zipped(folder)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(BundleError, match=r"tiny.zip is not a bundle: expected a folder or a .zip"):
        Bundle.open(path)


@pytest.mark.parametrize("name", ["model.onnx", "extra", "manifest.json"])
def test_symbolic_links_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "target"
    if (folder / name).exists():
        (folder / name).rename(target)
    else:
        target.write_text("x")
    (folder / name).symlink_to(target)
    with pytest.raises(BundleError, match=f"holds a symbolic link: got {name}"):
        Bundle.open(folder)


def test_a_link_that_comes_later_is_not_followed(folder: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(folder)
    (folder / "model.onnx").rename(tmp_path / "model.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=r"model.onnx of .* is not a regular file"):
        bundle.model_bytes()


def test_pipes_and_folders_are_refused(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")
    with pytest.raises(BundleError, match=r"model.onnx of .* is not a regular file"):
        Bundle.open(folder)
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    with pytest.raises(BundleError, match=r"model.onnx of .* is not a regular file"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:evil"])
def test_zip_entries_that_lead_outside(folder: Path, name: str) -> None:
    path = catalogue.zipped(folder)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(BundleError, match="holds a path that leads outside"):
        Bundle.open(path)


def test_zip_entries_of_other_kinds(folder: Path) -> None:
    path = catalogue.zipped(folder)
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, b"/etc/passwd")
    with pytest.raises(BundleError, match="holds a symbolic link: got link"):
        Bundle.open(path)

    path = catalogue.zipped(folder)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.write(folder / "model.onnx", "model.onnx")
    with pytest.raises(BundleError, match=r"holds model.onnx twice"):
        Bundle.open(path)

    path = catalogue.zipped(folder)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("extra", b"x")
    with pytest.raises(BundleError, match=r"extra of .* expected stored or deflated"):
        Bundle.open(path)

    path = catalogue.zipped(folder)
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(folder / "manifest.json", "other/manifest.json")
    with pytest.raises(BundleError, match="holds several bundles"):
        Bundle.open(path)


def test_a_zip_bomb_is_refused_before_it_expands(folder: Path) -> None:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.writestr(file.name, bytes(1 << 25))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(BundleError, match=r"manifest.json is too large: got 33554432 bytes"):
        Bundle.open(path)


def test_a_bundle_can_be_read_where_nothing_can_be_written(folder: Path, tmp_path: Path) -> None:
    read_only = tmp_path / "read-only"
    shutil.copytree(folder, read_only)
    before = {file.name: hashlib.sha256(file.read_bytes()).digest() for file in read_only.iterdir()}
    read_only.chmod(0o555)
    bundle = Bundle.open(read_only)
    assert {name: bundle.read(name) for name in bundle.manifest.files} == catalogue.bundle_files()
    read_only.chmod(0o755)
    after = {file.name: hashlib.sha256(file.read_bytes()).digest() for file in read_only.iterdir()}
    assert after == before
