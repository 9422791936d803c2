from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from szn_runtime.confidence import label_cosines, mark_unknown, warm_up
from szn_runtime.errors import InputError, UsageError
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_runtime.sei import segment_grid
from tests.runtime.dense_reference import upsample

SQUARE = GridGeometry.square(4, 1.5)


def label_set(rows: NDArray[np.floating]) -> LabelSet:
    return LabelSet(
        names=tuple(f"l{i}" for i in range(len(rows))),
        embeddings=np.asarray(rows, np.float32),
        seen=np.arange(len(rows)) % 2 == 0,
    )


def dense_cosines(
    embedding: NDArray[np.float32],
    labels: NDArray[np.integer],
    chosen: LabelSet,
    geometry: GridGeometry,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(H, W) cosines by upsampling, and what part of the nodes' lengths v(p) has kept."""
    pixels = upsample(embedding, geometry, labels.shape)  # (j, H, W)
    lengths = np.linalg.norm(embedding.astype(np.float64), axis=0)
    reach = upsample(lengths[None], geometry, labels.shape)[0]
    norm = np.linalg.norm(pixels, axis=0)
    rows = chosen.embeddings.astype(np.float64)[labels]  # (H, W, j)
    scores = np.einsum("jyx,yxj->yx", pixels, rows)
    return scores / np.where(norm > 0, norm, 1), norm / np.where(reach > 0, reach, 1)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, object]:
    """A grid, its geometry, labels and a label map that need not come from the grid."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dim, count = draw(st.sampled_from([1, 2, 5, 20])), draw(st.sampled_from([1, 3, 40, 2000]))
    h, w = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    stride = draw(st.sampled_from([(8.0, 8.0), (32.0, 32.0), (5.3, 9.7), (0.7, 2.5), (40, 3)]))
    share = draw(st.tuples(st.floats(-0.45, 0.45), st.floats(-0.45, 0.45)))
    offset = tuple((s - 1) / 2 + part * s for s, part in zip(stride, share, strict=True))
    # any size from one pixel to what the nodes reach; node 0 reaches a stride to either side
    size_hw = tuple(
        draw(st.integers(1, max(1, int(s * (n - 1) + o + s - 1e-3))))
        for n, s, o in zip((h, w), stride, offset, strict=True)
    )
    embedding = rng.normal(size=(dim, h, w))
    kind = draw(st.sampled_from(["plain", "scaled", "opposed", "zeros"]))
    if kind == "scaled":
        embedding *= 10 ** rng.uniform(-8, 8, (h, w))
    elif kind == "opposed":
        embedding = embedding[:, :1, :1] * rng.choice([-1, 1], (h, w))
    elif kind == "zeros":
        embedding *= rng.random((h, w)) < 0.5
    run = draw(st.sampled_from([1, 3, 20]))  # pixels of a label in a row
    blocks = rng.integers(0, count, (size_hw[0], size_hw[1] // run + 1))
    labels = np.repeat(blocks, run, axis=1)[:, : size_hw[1]]
    dtypes = [np.uint16, np.int32, np.int64] + ([np.uint8] if count <= 255 else [])
    return {
        "embedding": embedding.astype(np.float32),
        "labels": labels.astype(draw(st.sampled_from(dtypes))),
        "chosen": label_set(rng.normal(size=(count, dim))),
        "geometry": GridGeometry(stride_yx=stride, offset_yx=offset),
    }


@given(cases())
@settings(deadline=None, max_examples=150)
def test_equals_the_dense_method(case: dict[str, object]) -> None:
    embedding, labels, chosen, geometry = case.values()
    ours = label_cosines(embedding, labels, chosen, geometry=geometry)  # type: ignore[arg-type]
    dense, kept = dense_cosines(*case.values())  # type: ignore[arg-type]
    assert ours.dtype == np.float32
    assert np.abs(ours).max() <= 1
    # weights are float32: where nodes cancel, their rounding is a greater part of what is left
    error = np.abs(ours - dense)
    resolved = kept > 1e-6
    assert (error[resolved] <= 1e-6 + 5e-7 / kept[resolved]).all()
    assert (ours[kept == 0] == 0).all()


def test_a_pixel_between_two_nodes() -> None:
    embedding = np.array([[[3, 0]], [[0, 4]]], np.float32)  # nodes at 1.5 and 5.5
    labels = np.zeros((3, 8), np.uint8)
    ours = label_cosines(embedding, labels, label_set(np.eye(2)), geometry=SQUARE)
    part = np.array([0, 0, 1, 3, 5, 7, 8, 8]) / 8
    x, y = 3 * (1 - part), 4 * part
    np.testing.assert_allclose(ours, np.tile(x / np.hypot(x, y), (3, 1)), atol=2e-7)


def test_a_pixel_among_four_nodes() -> None:
    embedding = np.array([[[4, 0], [0, 8]], [[0, 4], [0, 4]]], np.float32)
    labels = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 1]], np.uint8)
    geometry = GridGeometry.square(2, 0)
    ours = label_cosines(embedding, labels, label_set(np.eye(2)), geometry=geometry)
    # in the middle (4 + 8, 4 + 4) / 4; at the lower left node nothing
    assert ours[1, 1] == pytest.approx(12 / np.hypot(12, 8), abs=1e-7)
    assert ours[2, 0] == 0
    assert ours[1, 2] == pytest.approx(4 / np.hypot(4, 4), abs=1e-7)
    assert ours[0, 0] == 1
    assert ours[0, 2] == 0


def test_an_embedding_of_zeros_is_near_to_nothing() -> None:
    labels = np.zeros((8, 8), np.uint8)
    embedding = np.zeros((3, 2, 2), np.float32)
    assert not label_cosines(embedding, labels, label_set(np.eye(3)), geometry=SQUARE).any()


def test_nodes_that_cancel_leave_nothing() -> None:
    # not representable, so that sums round
    embedding = np.array([[[0.1, -0.1]], [[0.7, -0.7]]], np.float32)
    rows = np.array([[0.1, 0.7]])
    geometry = GridGeometry(stride_yx=(4, 4), offset_yx=(1, 1))  # nodes at 1 and 5
    ours = label_cosines(embedding, np.zeros((1, 8), np.int32), label_set(rows), geometry=geometry)
    np.testing.assert_allclose(ours[0], [1, 1, 1, 0, -1, -1, -1, -1], atol=1e-6)
    assert ours[0, 3] == 0


@pytest.mark.parametrize("scale", [1e-37, 1e-20, 1e20, 1e37])
def test_length_does_not_matter(scale: float) -> None:
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(5, 3, 3)).astype(np.float32)
    labels = rng.integers(0, 4, (12, 12)).astype(np.uint8)
    chosen = label_set(rng.normal(size=(4, 5)))
    scaled = (embedding.astype(np.float64) * scale).astype(np.float32)
    np.testing.assert_allclose(
        label_cosines(scaled, labels, chosen, geometry=SQUARE),
        label_cosines(embedding, labels, chosen, geometry=SQUARE),
        atol=2e-6,
    )


def test_a_short_node_beside_a_long_one_keeps_its_direction() -> None:
    embedding = np.array([[[1e-9, 0]], [[0, 1]]], np.float32)
    geometry = GridGeometry.square(4, 0)
    labels = np.zeros((1, 2), np.uint8)
    ours = label_cosines(embedding, labels, label_set(np.eye(2)), geometry=geometry)
    np.testing.assert_allclose(ours[0], [1, 0], atol=1e-7)


def test_the_label_that_wins_has_the_greatest_cosine() -> None:
    rng = np.random.default_rng(1)
    embedding = rng.normal(size=(20, 4, 5)).astype(np.float32)
    chosen = label_set(rng.normal(size=(30, 20)))
    labels, _ = segment_grid(embedding, None, chosen, geometry=SQUARE, size_hw=(16, 20))
    won = label_cosines(embedding, labels, chosen, geometry=SQUARE)
    for other in range(30):
        same = np.full_like(labels, other)
        assert (label_cosines(embedding, same, chosen, geometry=SQUARE) <= won + 1e-6).all()


def test_out_is_written_and_returned() -> None:
    out = np.full((8, 8), 9, np.float32)
    embedding, labels = np.ones((1, 2, 2), np.float32), np.zeros((8, 8), np.uint8)
    ours = label_cosines(embedding, labels, label_set(np.eye(1)), geometry=SQUARE, out=out)
    assert ours is out
    assert (out == 1).all()


def test_arrays_of_any_layout_are_read() -> None:
    rng = np.random.default_rng(2)
    embedding = np.asfortranarray(rng.normal(size=(3, 2, 2)).astype(np.float32))
    labels = rng.integers(0, 3, (8, 16)).astype(np.uint8)[:, ::2]
    copies = embedding.copy(), labels.copy()
    embedding.setflags(write=False)
    labels.setflags(write=False)
    chosen = label_set(np.eye(3))
    np.testing.assert_array_equal(
        label_cosines(embedding, labels, chosen, geometry=SQUARE),
        label_cosines(*copies, chosen, geometry=SQUARE),
    )


class TestErrors:
    chosen = label_set(np.eye(2))
    grid = np.ones((2, 2, 2), np.float32)
    labels = np.zeros((8, 8), np.uint8)

    def run(self, embedding: object, labels: object, **options: object) -> None:
        arguments = {"geometry": SQUARE} | options
        label_cosines(embedding, labels, self.chosen, **arguments)  # type: ignore[arg-type]

    @pytest.mark.parametrize(("label", "got"), [(2, 2), (-1, -1)])
    def test_labels_of_another_set(self, label: int, got: int) -> None:
        labels = self.labels.astype(np.int32)
        labels[3, 4] = label
        with pytest.raises(InputError, match=rf"other labels .*: got {got}, expected 0 to 1"):
            self.run(self.grid, labels)

    @pytest.mark.parametrize(
        ("labels", "got"),
        [
            (np.zeros((8, 8)), r"float64 \(8, 8\)"),
            (np.zeros(8, np.uint8), r"uint8 \(8,\)"),
            ([[0]], "list"),
        ],
    )
    def test_no_label_map(self, labels: object, got: str) -> None:
        with pytest.raises(InputError, match=f"this is no label map: got {got}"):
            self.run(self.grid, labels)

    def test_no_pixels(self) -> None:
        with pytest.raises(InputError, match=r"the label map has no pixels: got \(0, 8\)"):
            self.run(self.grid, self.labels[:0])

    def test_grid(self) -> None:
        with pytest.raises(InputError, match="embedding is no grid: got float64"):
            self.run(self.grid.astype(np.float64), self.labels)
        with pytest.raises(InputError, match=r"embedding has another shape: got \(3, 2, 2\)"):
            self.run(np.ones((3, 2, 2), np.float32), self.labels)

    def test_not_finite(self) -> None:
        bad = self.grid.copy()
        bad[1, 0, 1] = np.inf
        with pytest.raises(InputError, match="embedding holds numbers that are not finite"):
            self.run(bad, self.labels)

    def test_pixels_beyond_a_stride(self) -> None:
        with pytest.raises(InputError, match="does not cover the rows of the frame"):
            self.run(self.grid, np.zeros((11, 8), np.uint8))
        with pytest.raises(InputError, match="does not cover the columns of the frame"):
            self.run(self.grid, np.zeros((8, 11), np.uint8))

    @pytest.mark.parametrize(
        "out",
        [np.zeros((8, 8)), np.zeros((8, 9), np.float32), np.zeros((8, 16), np.float32)[:, ::2]],
    )
    def test_out(self, out: NDArray[np.floating]) -> None:
        with pytest.raises(InputError, match="the output array does not fit: got float"):
            self.run(self.grid, self.labels, out=out)


@pytest.mark.parametrize("dim", [1, 20])
def test_warming_up_takes_any_dimension(dim: int) -> None:
    warm_up(dim)


class TestUnknown:
    cosines = np.array([[-1, 0.25], [0.5, 1]], np.float32)

    def test_pixels_below_the_threshold_are_marked(self) -> None:
        labels = np.array([[0, 1], [2, 3]], np.uint8)
        marked = mark_unknown(labels, self.cosines, below=0.5, count=4)
        np.testing.assert_array_equal(marked, [[4, 4], [2, 3]])

    @pytest.mark.parametrize(
        ("count", "before", "after"),
        [
            (254, np.uint8, np.uint8),
            (255, np.uint8, np.uint16),
            (65534, np.uint16, np.uint16),
            (65535, np.uint16, np.int32),
        ],
    )
    def test_the_map_is_as_small_as_it_can_be(self, count: int, before: type, after: type) -> None:
        labels = np.array([[0, 1], [2, count - 1]], before)
        marked = mark_unknown(labels, self.cosines, below=0.3, count=count)
        assert marked.dtype == after
        np.testing.assert_array_equal(marked, [[count, count], [2, count - 1]])
        assert (marked is labels) == (before == after)
        if before != after:
            np.testing.assert_array_equal(labels, [[0, 1], [2, count - 1]])

    def test_a_read_only_map_stays_as_it_is(self) -> None:
        labels = np.zeros((2, 2), np.uint8)
        labels.setflags(write=False)
        marked = mark_unknown(labels, self.cosines, below=0.3, count=1)
        np.testing.assert_array_equal(marked, [[1, 1], [0, 0]])
        assert not labels.any()

    def test_marking_twice_is_allowed(self) -> None:
        labels = np.zeros((2, 2), np.uint8)
        mark_unknown(labels, self.cosines, below=0.0, count=1)
        mark_unknown(labels, self.cosines, below=0.3, count=1)
        np.testing.assert_array_equal(labels, [[1, 1], [0, 0]])

    @pytest.mark.parametrize("below", [1.01, -1.01, float("nan")])
    def test_threshold(self, below: float) -> None:
        with pytest.raises(UsageError, match="least cosine of a label is out of range: got"):
            mark_unknown(np.zeros((2, 2), np.uint8), self.cosines, below=below, count=1)

    def test_arrays_that_do_not_fit(self) -> None:
        with pytest.raises(InputError, match=r"differ in size: got \(2, 2\), expected \(2, 3\)"):
            mark_unknown(np.zeros((2, 3), np.uint8), self.cosines, below=0, count=1)
        with pytest.raises(InputError, match=r"other labels .*: got 3, expected 0 to 2"):
            mark_unknown(np.full((2, 2), 3, np.uint8), self.cosines, below=0, count=2)
