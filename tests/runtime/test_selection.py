from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from szn_runtime import selection
from szn_runtime.backends import BackendOptions
from szn_runtime.backends.fake import FakeBackend
from szn_runtime.bundle import Artefact, Bundle
from szn_runtime.errors import BackendError, MissingDependencyError
from szn_runtime.selection import Choice, Measured, choose_backend
from tests.runtime import catalogue

SHAPE = (1, 3, 48, 64)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(catalogue.tiny_bundle(tmp_path / "tiny"))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Backends are stand-ins of a given speed; what was opened is noted."""
    delays = {
        ("onnxruntime", "fp32"): 0.006,
        ("openvino", "fp32"): 0.0059,  # not worth another library
        ("openvino", "bf16"): 0.002,
        ("openvino", "fp16"): None,
    }
    noted: list[tuple[str, str]] = []

    def open_backend(name: str, bundle: Bundle, options: BackendOptions) -> FakeBackend:
        noted.append((name, options.precision))
        delay_s = delays[name, options.precision]
        if delay_s is None:
            raise BackendError("this machine has no fp16")
        return catalogue.fake_backend(delay_s=delay_s)

    monkeypatch.setattr(selection, "open_backend", open_backend)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    return noted


def choose(bundle: Bundle, folder: Path, **options: Any) -> Choice:
    shape = options.pop("input_shape", SHAPE)
    return choose_backend(
        bundle, BackendOptions(**options), input_shape=shape, budget_s=0.2, folder=folder
    )


def test_the_fastest_is_chosen_and_remembered(
    bundle: Bundle, tmp_path: Path, opened: list[tuple[str, str]]
) -> None:
    choice = choose(bundle, tmp_path)
    assert (choice.backend, choice.precision) == ("openvino", "bf16")
    assert len(opened) == 4
    assert [c.problem for c in choice.candidates] == [None, None, None, "this machine has no fp16"]
    pattern = (
        r"backend openvino bf16: [\d.]+ ms a frame of 64 x 48 \(onnxruntime fp32 [\d.]+, "
        r"openvino fp32 [\d.]+; measured now\); --precision fp32 is exact"
    )
    assert re.fullmatch(pattern, choice.summary())
    again = choose(bundle, tmp_path)
    assert len(opened) == 4
    assert again.remembered
    assert again.candidates == choice.candidates
    assert "measured earlier" in again.summary()


def test_another_library_has_to_be_worth_it(
    bundle: Bundle, tmp_path: Path, opened: list[tuple[str, str]]
) -> None:
    choice = choose(bundle, tmp_path, precision="fp32")
    assert (choice.backend, choice.precision) == ("onnxruntime", "fp32")
    assert opened == [("onnxruntime", "fp32"), ("openvino", "fp32")]
    assert "is exact" not in choice.summary()


@pytest.mark.parametrize(
    "change",
    [
        {"input_shape": (1, 3, 48, 72)},
        {"input_shape": (4, 3, 48, 64)},
        {"threads": 1},
        {"hint": "throughput"},
        {"precision": "fp32"},
    ],
)
def test_a_verdict_is_for_what_it_was_measured_with(
    bundle: Bundle, tmp_path: Path, opened: list[tuple[str, str]], change: dict[str, Any]
) -> None:
    choose(bundle, tmp_path)
    assert not choose(bundle, tmp_path, **change).remembered


def test_a_verdict_is_for_one_bundle_and_one_set_of_versions(
    bundle: Bundle,
    tmp_path: Path,
    opened: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose(bundle, tmp_path)
    other = Bundle.open(catalogue.tiny_bundle(tmp_path / "other", name="other"))
    assert not choose(other, tmp_path).remembered
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99")
    assert not choose(bundle, tmp_path).remembered


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"facts": {}}', "null"])
def test_a_damaged_verdict_is_measured_again(
    bundle: Bundle, tmp_path: Path, opened: list[tuple[str, str]], damage: str
) -> None:
    folder = tmp_path / "verdicts"
    choose(bundle, folder)
    (path,) = folder.iterdir()
    path.write_text(damage)
    assert not choose(bundle, folder).remembered
    assert json.loads(path.read_text())["backend"] == "openvino"


def test_a_cache_that_cannot_be_written(
    bundle: Bundle, tmp_path: Path, opened: list[tuple[str, str]]
) -> None:
    (tmp_path / "file").write_text("x")
    for _ in range(2):
        assert not choose(bundle, tmp_path / "file").remembered


def test_one_candidate_is_not_measured(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: name if name == "onnxruntime" else None
    )
    choice = choose(bundle, tmp_path / "verdicts")
    assert choice.candidates == (Measured(backend="onnxruntime", precision="fp32"),)
    assert choice.summary() == "backend onnxruntime fp32: the only one that can run here"
    assert not (tmp_path / "verdicts").exists()


def test_nothing_installed_and_nothing_that_works(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> FakeBackend:
        raise BackendError("it is broken")

    monkeypatch.setattr(selection, "open_backend", fail)
    with pytest.raises(
        BackendError, match=r"no backend can run the model: got onnxruntime fp32: i"
    ):
        choose(bundle, tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r'pip install "szn\[cpu\]"'):
        choose(bundle, tmp_path)


def test_engines_and_int8_take_part_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = catalogue.onnx_model()
    artefacts = (
        Artefact(kind="onnx", precision="fp32", file="model.onnx"),
        Artefact(kind="onnx", precision="int8", file="model.int8.onnx"),
        Artefact(kind="tensorrt", precision="fp16", file="fp16.engine"),
        Artefact(kind="tensorrt", precision="int8", file="int8.engine"),
    )
    files = dict.fromkeys(("model.int8.onnx", "fp16.engine", "int8.engine"), onnx)
    bundle = Bundle.open(catalogue.tiny_bundle(tmp_path / "b", artefacts=artefacts, files=files))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)

    def candidates(**options: Any) -> list[tuple[str, str]]:
        return list(selection._candidates(bundle, BackendOptions(**options)))

    floats = [("onnxruntime", "fp32")] + [("openvino", p) for p in ("fp32", "bf16", "fp16")]
    assert candidates() == [*floats, ("tensorrt", "fp16")]
    assert candidates(device="cpu") == floats
    assert candidates(precision="int8") == [
        ("onnxruntime", "int8"),
        ("openvino", "int8"),
        ("tensorrt", "int8"),
    ]
    assert candidates(precision="bf16") == [("openvino", "bf16")]
    assert candidates(precision="int8-bf16") == [("openvino", "int8-bf16")]


def test_what_the_gate_found_past_its_budget_is_avoided(
    tmp_path: Path, opened: list[tuple[str, str]]
) -> None:
    gate = {
        "openvino bf16": {"label_flips": 0.86, "within_budget": False},
        "openvino fp16": {"label_flips": 0.1, "within_budget": True},
    }
    artefact = Artefact(
        kind="onnx", precision="fp32", file="model.onnx", opset=20, facts={"gate": gate}
    )
    bundle = Bundle.open(catalogue.tiny_bundle(tmp_path / "b", artefacts=(artefact,)))
    choice = choose(bundle, tmp_path / "v")
    assert (choice.backend, choice.precision) == ("onnxruntime", "fp32")
    assert ("openvino", "bf16") not in opened
    for summary in (choice.summary(), choose(bundle, tmp_path / "v").summary()):
        assert "; not openvino bf16: past its budget at export (0.86 % of the labels " in summary
    # who asks for it gets it
    asked = choose(bundle, tmp_path / "v", precision="bf16")
    assert (asked.backend, asked.precision) == ("openvino", "bf16")


@pytest.mark.parametrize(
    ("verdict", "chosen"),
    [
        ({"label_flips": 0.86, "miou_lost": 0.02}, True),
        ({"label_flips": 0.86, "miou_lost": -1.0}, True),
        ({"label_flips": 0.86, "miou_lost": 0.51}, False),
        ({"label_flips": 2.01, "miou_lost": 0.0}, False),
        ({"miou_lost": 0.0}, False),
    ],
)
def test_as_good_on_masks_is_good_enough(
    tmp_path: Path, opened: list[tuple[str, str]], verdict: dict[str, float], chosen: bool
) -> None:
    gate = {"openvino bf16": {"within_budget": False, **verdict}}
    artefact = Artefact(
        kind="onnx", precision="fp32", file="model.onnx", opset=20, facts={"gate": gate}
    )
    choose(Bundle.open(catalogue.tiny_bundle(tmp_path / "b", artefacts=(artefact,))), tmp_path)
    assert (("openvino", "bf16") in opened) is chosen


def test_real_backends(bundle: Bundle, tmp_path: Path) -> None:
    choice = choose(bundle, tmp_path, precision="fp32")
    assert choice.precision == "fp32"
    assert all(c.frame_ms is None or c.frame_ms > 0 for c in choice.candidates)
