from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from szn_runtime.bundle import Bundle, write_bundle
from szn_runtime.errors import BundleError
from tests.runtime import catalogue


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_what_is_written(tmp_path: Path) -> None:
    files = catalogue.bundle_files()
    manifest = write_bundle(tmp_path / "new" / "tiny", catalogue.manifest(), files)
    assert names(tmp_path / "new") == ["tiny"]  # no temporary folder is left
    assert names(tmp_path / "new" / "tiny") == sorted([*files, "manifest.json"])
    assert Bundle.open(tmp_path / "new" / "tiny").manifest == manifest
    for name, data in files.items():
        digest = hashlib.sha256(data).hexdigest()
        assert manifest.files[name] == {"sha256": digest, "bytes": len(data)}


def test_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (catalogue.tiny_bundle(tmp_path / name) for name in "ab")
    for name in names(first):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_bundle_is_replaced(tmp_path: Path) -> None:
    folder = catalogue.tiny_bundle(tmp_path / "tiny")
    catalogue.tiny_bundle(folder, name="newer", files={"MODEL_CARD.md": None})
    assert Bundle.open(folder).manifest.name == "newer"
    assert not (folder / "MODEL_CARD.md").exists()
    assert names(tmp_path) == ["tiny"]


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    folder = catalogue.tiny_bundle(tmp_path / "tiny")
    (tmp_path / "latest").symlink_to(folder)
    catalogue.tiny_bundle(tmp_path / "latest", name="newer")
    assert (tmp_path / "latest").is_symlink()
    assert Bundle.open(folder).manifest.name == "newer"


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    assert Bundle.open(catalogue.tiny_bundle(tmp_path / "tiny")).manifest.name == "tiny"


def test_what_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cow.jpg").write_text("moo")
    with pytest.raises(BundleError, match="photos exists and is no bundle; choose another folder"):
        catalogue.tiny_bundle(photos)
    (photos / "manifest.json").write_text('{"files": {"cow.jpg": 1}}')
    with pytest.raises(BundleError, match="photos exists and holds files that are no part"):
        catalogue.tiny_bundle(photos)
    assert (photos / "cow.jpg").read_text() == "moo"

    folder = catalogue.tiny_bundle(tmp_path / "tiny")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"no part of a bundle: got notes\.txt"):
        catalogue.tiny_bundle(folder, name="newer")
    assert (folder / "notes.txt").read_text() == "mine"
    assert Bundle.open(folder).manifest.name == "tiny"

    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(BundleError, match="file is not a folder"):
        catalogue.tiny_bundle(file)
    with pytest.raises(BundleError, match="tiny cannot be written: got"):
        catalogue.tiny_bundle(file / "tiny")
    assert names(tmp_path) == ["file", "photos", "tiny"]


def test_a_bundle_that_would_be_broken_is_not_written(tmp_path: Path) -> None:
    files = catalogue.bundle_files()
    wrong = {
        "without its labels: expected labels": {"model.onnx": files["model.onnx"]},
        "artefact model.onnx, which is not": {"labels.npz": files["labels.npz"]},
        "cannot be one of its own: got '../x'": {**files, "../x": b""},
        "cannot be one of its own: got 'manifest.json'": {**files, "manifest.json": b""},
    }
    for match, chosen in wrong.items():
        with pytest.raises(BundleError, match=match):
            write_bundle(tmp_path / "tiny", catalogue.manifest(), chosen)
    assert names(tmp_path) == []
