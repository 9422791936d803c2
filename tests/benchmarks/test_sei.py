from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sei
from click.testing import CliRunner
from photo import photo
from sei_cases import Case, cases
from sei_inputs import Field, labels_of
from sei_methods import dense, in_graph

from szn_runtime.backends import Grids
from szn_runtime.bundle import Bundle
from szn_runtime.errors import SourceError
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_runtime.sei import segment_grid
from tests.runtime import catalogue

NODES_HW, STRIDE = (4, 5), 8
GEOMETRY = GridGeometry.square(STRIDE, (STRIDE - 1) / 2)


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    return Bundle.open(catalogue.tiny_bundle(tmp_path / "tiny"))


@pytest.mark.parametrize("size_hw", [(32, 40), (29, 37)])
def test_the_methods_give_the_same_labels(size_hw: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    grids = Grids(
        embedding=random.normal(size=(1, 6, *NODES_HW)).astype(np.float32),
        seenmask=random.normal(size=(1, 2, *NODES_HW)).astype(np.float32),
    )
    labels = LabelSet(
        names=tuple("abcdefghijkl"),
        embeddings=random.normal(size=(12, 6)).astype(np.float32),
        seen=np.arange(12) % 2 == 0,
    )
    ours, _ = segment_grid(
        grids.embedding[0], grids.seenmask[0], labels, geometry=GEOMETRY, size_hw=size_hw
    )
    assert len(np.unique(ours)) > 6
    np.testing.assert_array_equal(dense(grids, labels, GEOMETRY, size_hw)(), ours)
    np.testing.assert_array_equal(in_graph(grids, labels, STRIDE, size_hw)(), ours)


def test_labels_are_the_bundles_then_words_then_random(tiny: Bundle) -> None:
    own, vocabulary = tiny.label_set(), tiny.vocabulary()
    assert vocabulary is not None
    words = vocabulary.embeddings.astype(np.float32)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    known = len(own) + len(words)
    labels = labels_of(tiny, known + 4, "own")
    assert len(labels) == known + 4
    np.testing.assert_array_equal(labels.embeddings[: len(own)], own.embeddings)
    np.testing.assert_allclose(labels.embeddings[len(own) : known], words, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(labels.seen[: len(own)], own.seen)
    np.testing.assert_array_equal(labels_of(tiny, 4, "half").seen, [True, False, True, False])


def test_the_seenmask_half_leaves_half_of_the_nodes_unseen(tiny: Bundle) -> None:
    field = Field(tiny, None)
    own, half = (field.grids((6, 7), seenmask) for seenmask in ("own", "half"))
    assert half.embedding.shape == (1, catalogue.DIM, 6, 7)
    np.testing.assert_array_equal(half.embedding, own.embedding)
    seen = half.seenmask[0, 1] > half.seenmask[0, 0]
    assert seen.mean() == 0.5
    assert (own.seenmask[0, 1] > own.seenmask[0, 0]).mean() != 0.5


def test_a_photo_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_text("not a photo")
    with pytest.raises(SourceError, match=r"photo\.jpg is not an image"):
        photo(path)


def test_quick_rows_are_rows_of_the_whole_run() -> None:
    whole = [(case.labels, case.seenmask, case.size_hw, case.stride) for case in cases(quick=False)]
    quick = [(case.labels, case.seenmask, case.size_hw, case.stride) for case in cases(quick=True)]
    assert set(quick) < set(whole)
    assert len(set(whole)) == len(whole)


def test_a_run_writes_its_rows_and_a_plot(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Case(labels=21, turns=1), Case(labels=40, size_hw=(60, 80), stride=16, turns=2)]
    monkeypatch.setattr(sei, "cases", lambda *, quick: iter(rows))
    monkeypatch.setattr(sei, "MANY", 500)
    report, plot = tmp_path / "sei.json", tmp_path / "sei.png"
    result = CliRunner().invoke(
        sei.main, ["--bundle", str(tmp_path / "tiny"), "--json", str(report), "--plot", str(plot)]
    )
    assert result.exit_code == 0, result.output
    document = json.loads(report.read_text())
    assert document["bundle"]["dim"] == catalogue.DIM
    assert document["dim"] == catalogue.DIM
    assert f"j = {catalogue.DIM}" in result.output
    assert [(row["labels"], row["size_hw"]) for row in document["rows"]] == [
        (21, [480, 640]),
        (40, [60, 80]),
    ]
    for row in document["rows"]:
        assert row["ratio"] > 0
        assert row["onnx_ratio"] > 0
        # labels that score the same up to rounding may differ
        assert row["equal_share"] > 0.999
        assert row["onnx_equal_share"] > 0.999
    if Path("/proc/self/clear_refs").exists():
        assert document["peak_growth_mib"].keys() == {"label_set", "sei"}
        assert "peak memory of 500 labels" in result.output
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_leading_dimensions_alone(tiny: Bundle) -> None:
    whole, part = (Field(tiny, None, dim).grids((3, 4), "own") for dim in (None, 2))
    np.testing.assert_array_equal(part.embedding, whole.embedding[:, :2])
    labels = labels_of(tiny, 6, "own", 2)
    rows = labels_of(tiny, 6, "own").embeddings[:, :2]
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(labels.embeddings, expected, atol=1e-6)


def test_more_dimensions_than_there_are(tiny: Bundle, tmp_path: Path) -> None:
    result = CliRunner().invoke(sei.main, ["--bundle", str(tiny.path), "--dim", "4000"])
    assert result.exit_code == 2
    assert f"has {catalogue.DIM}" in result.output
