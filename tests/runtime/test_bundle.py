from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from szn_runtime.arrays import encode_names, pack_arrays
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.errors import BundleError
from szn_runtime.labels import LabelSet
from tests.runtime import catalogue
from tests.runtime.test_manifest import sealed

NAMES = ["manifest.json", *catalogue.bundle_files()]


def read_everything(path: Path) -> None:
    """Use all of a bundle."""
    bundle = Bundle.open(path)
    bundle.label_set()
    bundle.vocabulary()
    bundle.projection()
    for name in bundle.manifest.files:
        bundle.read(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return catalogue.tiny_bundle(tmp_path / "tiny")


@pytest.fixture(params=["folder", "zip", "zip with a folder"])
def path(request: pytest.FixtureRequest, folder: Path) -> Path:
    if request.param == "folder":
        return folder
    return catalogue.zipped(folder, "tiny/" if request.param == "zip with a folder" else "")


def test_what_a_bundle_holds(path: Path) -> None:
    bundle = Bundle.open(path)
    assert bundle.path == path
    assert bundle.manifest.name == "tiny"
    assert set(bundle.manifest.files) == set(catalogue.bundle_files())
    for name, data in catalogue.bundle_files().items():
        assert bundle.read(name) == data
        assert name in bundle
    assert bundle.model_bytes() == catalogue.onnx_model()
    assert bundle.label_set().names == tuple(catalogue.COLOURS_RGB)
    vocabulary, projection = bundle.vocabulary(), bundle.projection()
    assert vocabulary is not None
    assert vocabulary.words == catalogue.colour_vocabulary().words
    assert projection is not None
    np.testing.assert_array_equal(projection.basis, catalogue.colour_projection().basis)
    assert repr(bundle) == f"Bundle('{path}', name='tiny')"


def test_parts_that_a_bundle_may_lack(tmp_path: Path) -> None:
    absent = dict.fromkeys(("vocabulary.npz", "projection.npz", "MODEL_CARD.md"))
    bundle = Bundle.open(catalogue.tiny_bundle(tmp_path / "tiny", files=absent))
    assert bundle.vocabulary() is None
    assert bundle.projection() is None
    assert "vocabulary.npz" not in bundle
    with pytest.raises(BundleError, match=r"has no file MODEL_CARD.md: got \['labels.npz'"):
        bundle.read("MODEL_CARD.md")


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def cut_last_byte(data: bytes) -> bytes:
    return data[:-1]


def empty(_: bytes) -> bytes:
    return b""


def flip_first(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def flip_middle(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x40]) + data[middle + 1 :]


def flip_last(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 0x80])


def append(data: bytes) -> bytes:
    return data + b"\0"


def replace_by_text(_: bytes) -> bytes:
    return b"this is no longer what it was\n"


DAMAGES = [
    truncate,
    cut_last_byte,
    empty,
    flip_first,
    flip_middle,
    flip_last,
    append,
    replace_by_text,
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("as_zip", [False, True])
def test_each_damage_to_each_file_is_named(
    folder: Path, name: str, damage: Callable[[bytes], bytes], as_zip: bool
) -> None:
    file = folder / name
    file.write_bytes(damage(file.read_bytes()))
    path = catalogue.zipped(folder) if as_zip else folder
    with pytest.raises(BundleError, match=name.replace(".", r"\.")) as caught:
        read_everything(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("as_zip", [False, True])
def test_each_missing_file_is_named_on_opening(folder: Path, name: str, as_zip: bool) -> None:
    (folder / name).unlink()
    path = catalogue.zipped(folder) if as_zip else folder
    with pytest.raises(BundleError, match=f"{name} of .* cannot be read: got (no such|No such)"):
        Bundle.open(path)


def test_damage_after_opening_is_noticed(folder: Path) -> None:
    bundle = Bundle.open(folder)
    file = folder / "model.onnx"
    file.write_bytes(flip_middle(file.read_bytes()))
    with pytest.raises(BundleError, match=r"model.onnx of .* is damaged: got sha256 .*expected"):
        bundle.model_bytes()
    file.write_bytes(b"\0" * 10_000)
    with pytest.raises(BundleError, match=r"model.onnx is too large: got 10000 bytes"):
        bundle.model_bytes()


def test_paths_that_are_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"there is no bundle at .*nowhere; give the folder or"):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"manifest.json of .* cannot be read"):
        Bundle.open(tmp_path)
    text = tmp_path / "model.onnx"
    text.write_text("hello")
    with pytest.raises(BundleError, match=r"model.onnx is not a bundle"):
        Bundle.open(text)


def test_a_manifest_of_another_schema(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_text(sealed({**json.loads(file.read_text()), "schema_version": 2}))
    with pytest.raises(BundleError, match="another schema version: got 2, expected 1"):
        Bundle.open(folder)


def test_a_manifest_that_is_not_text(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match="is not UTF-8 text"):
        Bundle.open(folder)


def test_a_manifest_that_is_too_large(folder: Path) -> None:
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(BundleError, match=r"manifest.json is too large"):
        Bundle.open(folder)


def test_a_file_that_is_too_large(folder: Path) -> None:
    file = folder / "manifest.json"
    document = json.loads(file.read_text())
    document["files"]["model.onnx"]["bytes"] = 1 << 31
    file.write_text(sealed(document))
    with (folder / "model.onnx").open("wb") as model:
        model.truncate(1 << 31)  # takes no space on the disk
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match=r"model.onnx of .* too large.* external data"):
        bundle.model_bytes()


def test_an_npz_bomb_is_refused_before_it_expands(tmp_path: Path) -> None:
    bomb = pack_arrays(
        {
            "names": encode_names(["red"]),
            "embeddings": np.zeros((1 << 23, 6), np.float32),
            "seen": np.array([True]),
        }
    )
    assert len(bomb) < 1 << 20
    bundle = Bundle.open(catalogue.tiny_bundle(tmp_path / "tiny", files={"labels.npz": bomb}))
    with pytest.raises(BundleError, match=r"embeddings of labels.npz is too large: got 201326"):
        bundle.label_set()


def test_files_with_right_hashes_and_wrong_contents(tmp_path: Path) -> None:
    two = LabelSet(names=("red", "cow"), embeddings=np.eye(2, 6), seen=np.array([True, False]))
    wrong = {
        "labels.npz": (two.to_npz(), "disagree on labels: got .*'cow'"),
        "vocabulary.npz": (catalogue.colour_vocabulary(3).to_npz(), "got 3 dimensions, expected 6"),
        "projection.npz": (catalogue.colour_projection(3).to_npz(), "got 3 dimensions, expected 6"),
    }
    for name, (data, match) in wrong.items():
        path = catalogue.tiny_bundle(tmp_path / name, files={name: data})
        with pytest.raises(BundleError, match=f"{name} .*{match}"):
            read_everything(path)
    zero = pack_arrays(
        {
            "names": encode_names(list(catalogue.COLOURS_RGB)),
            "embeddings": np.zeros((6, 6), np.float32),
            "seen": np.zeros(6, bool),
        }
    )
    path = catalogue.tiny_bundle(tmp_path / "zero", files={"labels.npz": zero})
    with pytest.raises(BundleError, match=r"labels.npz of .* cannot be used: got .*is zero"):
        read_everything(path)


def test_seen_flags_that_differ_from_the_manifest(tmp_path: Path) -> None:
    own = catalogue.colour_labels()
    flipped = LabelSet(names=own.names, embeddings=own.embeddings, seen=~own.seen)
    path = catalogue.tiny_bundle(tmp_path / "tiny", files={"labels.npz": flipped.to_npz()})
    with pytest.raises(BundleError, match=r"disagree on labels: got .*'red'"):
        Bundle.open(path).label_set()


def test_a_precision_that_is_not_there(folder: Path) -> None:
    with pytest.raises(BundleError, match="no onnx model in int8: got onnx fp32; choose one"):
        Bundle.open(folder).model_bytes("int8")


def test_default_bundle_lies_in_the_package() -> None:
    assert default_bundle_path().parts[-3:] == ("szn_runtime", "assets", "szn-mini")


def test_a_model_that_loops_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    from tests.runtime.test_onnx_guard import endless_loop

    bundle = Bundle.open(
        catalogue.tiny_bundle(tmp_path / "tiny", files={"model.onnx": endless_loop()})
    )
    with pytest.raises(BundleError, match=r"model\.onnx of .*tiny is refused: got the operator L"):
        bundle.model_bytes()
