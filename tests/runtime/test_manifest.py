from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szn_runtime.errors import BundleError
from szn_runtime.geometry import GridGeometry
from szn_runtime.manifest import Artefact, Manifest, Preprocess
from tests.runtime import catalogue

FILES = {
    "model.onnx": {"sha256": "a" * 64, "bytes": 12},
    "labels.npz": {"sha256": "b" * 64, "bytes": 0},
}
PREPROCESS: dict[str, Any] = {
    "mean": (1.0, 2.0, 3.0),
    "std": (1.0, 1.0, 1.0),
    "channel_order": "bgr",
    "long_side": 640,
    "multiple": 32,
}


def sealed(document: dict[str, Any]) -> str:
    """A manifest's text with a checksum that fits, whatever it holds."""
    document = {key: value for key, value in document.items() if key != "checksum"}
    canonical = json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=True
    )
    document["checksum"] = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_round_trip() -> None:
    made = catalogue.manifest(
        files=FILES,
        training={"seed": 1337, "losses": (1.0, None), "note": "Käse"},
        metrics={"val": {"pa": 0.5}},
    )
    again = Manifest.from_json(made.to_json())
    assert again == made
    assert again.training["losses"] == [1.0, None]
    assert again.checksum == made.checksum
    assert json.loads(made.to_json())["checksum"] == made.checksum
    assert sealed(json.loads(made.to_json())) == made.to_json()


def test_checksum_follows_every_field() -> None:
    made = catalogue.manifest(files=FILES)
    assert dataclasses.replace(made, node_offset=4.5).checksum != made.checksum
    assert dataclasses.replace(made, metrics={"pa": 0.9}).checksum != made.checksum
    assert dataclasses.replace(made).checksum == made.checksum


def test_grid_geometry() -> None:
    made = catalogue.manifest(stride=32, node_offset=12.5)
    assert made.grid_geometry == GridGeometry(stride_yx=(32, 32), offset_yx=(12.5, 12.5))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "manifest.json is not JSON"),
        ("{", "manifest.json is not JSON"),
        ("\x00\x01", "manifest.json is not JSON"),
        ('{"schema_version": NaN}', "NaN is no JSON number"),
        ("[" * 100_000, "manifest.json is not JSON"),
        ("[]", "is not the manifest of a bundle"),
        ("{}", "is not the manifest of a bundle"),
        ('{"schema_version": 2}', "another schema version: got 2, expected 1; install the szn"),
        ('{"schema_version": "1"}', "another schema version"),
        ('{"schema_version": true}', "another schema version: got True"),
        ('{"schema_version": 1}', "damaged or was edited: got checksum None"),
    ],
)
def test_text_that_is_no_manifest(text: str, match: str) -> None:
    with pytest.raises(BundleError, match=match):
        Manifest.from_json(text)


@settings(max_examples=200)
@given(st.data())
def test_every_flipped_bit_is_noticed(data: st.DataObject) -> None:
    whole = catalogue.manifest(files=FILES, metrics={"tiny": 1e-9}).to_json().encode()
    position = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 6))  # the text is ASCII, and stays UTF-8
    damaged = bytearray(whole)
    damaged[position] ^= 1 << bit
    with pytest.raises(BundleError):
        Manifest.from_json(damaged.decode())


def test_edits_are_noticed() -> None:
    text = catalogue.manifest(files=FILES).to_json()
    for edited in (text.replace('"dim": 6', '"dim": 7'), text + " ", text.replace("  ", "\t")):
        assert edited != text
        with pytest.raises(BundleError, match=r"damaged or was edited.*copy or export the bundle"):
            Manifest.from_json(edited)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"dim": 0}, "dim of the manifest is out of range: got 0, expected 1 to"),
        ({"dim": 2.0}, "dim of the manifest"),
        ({"dim": True}, "dim of the manifest"),
        ({"stride": "8"}, "stride of the manifest"),
        ({"node_offset": "x"}, "node_offset of the manifest"),
        ({"node_offset": 10**400}, "node_offset of the manifest"),
        ({"name": ""}, "name of the manifest"),
        ({"name": "a\nb"}, "name of the manifest"),
        ({"backbone": 7}, "backbone of the manifest"),
        ({"input_name": "embedding"}, "three different names"),
        ({"unseen": ["red"]}, "label names of the manifest.*each once"),
        ({"unseen": "red"}, "label names of the manifest.*a list"),
        ({"unseen": [7]}, "label name of the manifest"),
        ({"train_seen": []}, "train_seen of the manifest"),
        ({"training": []}, "training of the manifest"),
        ({"files": []}, "files of the manifest"),
        ({"files": {"../x": FILES["model.onnx"]}}, "a file that cannot be one of its own"),
        ({"files": {"model.onnx": {}}}, "expected sha256 and bytes"),
        ({"files": {"model.onnx": {"sha256": "A" * 64, "bytes": 1}}}, "64 hexadecimal digits"),
        ({"files": {"model.onnx": {"sha256": "a" * 64, "bytes": -1}}}, "expected >= 0"),
        ({"files": {"labels.npz": FILES["labels.npz"]}}, "the artefact model.onnx, which is not"),
        ({"artefacts": []}, "artefacts of the manifest"),
        ({"artefacts": 7}, "does not have the fields"),
        ({"artefacts": [{}]}, "does not have the fields"),
        ({"preprocess": None}, "does not have the fields"),
        ({"preprocess": {}}, "does not have the fields"),
        ({"surprise": 1}, "does not have the fields of a manifest.*surprise"),
    ],
)
def test_fields_that_are_out_of_range(changes: dict[str, Any], match: str) -> None:
    document = json.loads(catalogue.manifest(files=FILES).to_json())
    with pytest.raises(BundleError, match=match):
        Manifest.from_json(sealed({**document, **changes}))


@pytest.mark.parametrize("missing", ["dim", "preprocess", "artefacts", "train_seen"])
def test_fields_that_are_missing(missing: str) -> None:
    document = json.loads(catalogue.manifest(files=FILES).to_json())
    del document[missing]
    with pytest.raises(BundleError, match=f"does not have the fields of a manifest.*{missing}"):
        Manifest.from_json(sealed(document))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"mean": (1.0, 2.0)}, "preprocess.mean .*three numbers"),
        ({"mean": (1.0, 2.0, float("nan"))}, "preprocess.mean"),
        ({"std": (1.0, 0.0, 1.0)}, "preprocess.std .*above 0"),
        ({"channel_order": "gbr"}, "got gbr, expected rgb or bgr"),
        ({"long_side": 0}, "preprocess.long_side"),
        ({"long_side": 640.0}, "preprocess.long_side"),
        ({"multiple": 1 << 20}, "preprocess.multiple"),
    ],
)
def test_preprocessing_that_is_out_of_range(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(BundleError, match=match):
        Preprocess(**{**PREPROCESS, **changes})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"precision": "fp64"}, "artefact.precision .*got fp64"),
        ({"file": "/etc/passwd"}, "a file that cannot be one of its own: got '/etc/passwd'"),
        ({"file": "manifest.json"}, "a file that cannot be one of its own"),
        ({"opset": 0}, "artefact.opset"),
        ({"facts": {"x": object()}}, "artefact.facts of the manifest cannot be written as JSON"),
        ({"facts": {"x": float("inf")}}, "cannot be written as JSON"),
        ({"facts": {"x": "\ud800"}}, "cannot be written as JSON"),
    ],
)
def test_artefacts_that_are_out_of_range(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(BundleError, match=match):
        Artefact(**{"kind": "onnx", "precision": "fp32", "file": "model.onnx", **changes})


def test_two_artefacts_for_one_purpose() -> None:
    twice = tuple(
        Artefact(kind="onnx", precision="fp32", file=name) for name in ("a.onnx", "b.onnx")
    )
    with pytest.raises(BundleError, match="each kind and precision once"):
        catalogue.manifest(artefacts=twice)


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "", ".", "..", ".hidden", "a b", "c:x"])
def test_file_names_that_lead_elsewhere(name: str) -> None:
    with pytest.raises(BundleError, match="expected a plain name of letters"):
        catalogue.manifest(files={**FILES, name: FILES["labels.npz"]})
