from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from szn_runtime import _sei_kernels, sei
from szn_runtime.errors import InputError
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_runtime.sei import label_dtype, segment_grid, warm_up
from tests.runtime.dense_reference import dense_sei, upsample

ROUNDING = 2e-5


def label_set(rows: NDArray[np.floating], seen: NDArray[np.bool_]) -> LabelSet:
    return LabelSet(
        names=tuple(f"l{i}" for i in range(len(rows))),
        embeddings=np.asarray(rows, np.float32),
        seen=seen,
    )


def random_labels(
    rng: np.random.Generator, count: int, dim: int, seen_share: float = 0.6
) -> LabelSet:
    return label_set(rng.normal(size=(count, dim)), rng.random(count) < seen_share)


def assert_equals_dense(
    embedding: NDArray[np.float32],
    seenmask: NDArray[np.float32] | None,
    labels: LabelSet,
    geometry: GridGeometry,
    size_hw: tuple[int, int],
    seen_bias: float = 0.0,
) -> None:
    ours, seen = segment_grid(
        embedding, seenmask, labels, geometry=geometry, size_hw=size_hw, seen_bias=seen_bias
    )
    dense = dense_sei(embedding, seenmask, labels, geometry, size_hw, seen_bias)
    scale = 1.0 if seenmask is None else float(np.abs(seenmask).max()) + abs(seen_bias) + 1e-30
    sure_seen = dense.seen_gap > ROUNDING * scale
    sure = sure_seen & (dense.label_gap > ROUNDING)
    np.testing.assert_array_equal(ours[sure], dense.labels[sure])
    masked = seenmask is not None and labels.seen.any() and not labels.seen.all()
    check = sure_seen if masked else sure
    np.testing.assert_array_equal(seen[check], dense.seen[check])
    # where it is unsure, it still takes a label of the right side
    if masked:
        np.testing.assert_array_equal(labels.seen[ours], seen)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, object]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dim = draw(st.sampled_from([1, 2, 5, 20, 23]))
    h, w = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    stride = draw(st.sampled_from([(8.0, 8.0), (16.0, 16.0), (32.0, 32.0), (5.3, 9.7), (2.5, 3.0)]))
    share = draw(st.tuples(st.floats(-0.45, 0.45), st.floats(-0.45, 0.45)))
    offset = tuple((s - 1) / 2 + part * s for s, part in zip(stride, share, strict=True))
    # any size from one pixel to what the nodes reach, no multiple of the stride among others
    size_hw = tuple(
        draw(st.integers(1, max(1, int(s * (n - 1) + o + s - 1e-3))))
        for n, s, o in zip((h, w), stride, offset, strict=True)
    )
    count = draw(st.one_of(st.integers(1, 40), st.integers(41, 300)))
    smooth = draw(st.booleans())
    labels = random_labels(rng, count, dim, draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])))
    embedding = rng.normal(size=(dim, h, w))
    if smooth:  # regions around labels, as a trained network gives them
        picked = labels.embeddings[rng.integers(0, count, (h, w))]
        embedding = 0.3 * embedding + 3 * np.moveaxis(picked, 2, 0)
    seenmask = None if draw(st.booleans()) else rng.normal(size=(2, h, w)).astype(np.float32)
    return {
        "embedding": embedding.astype(np.float32),
        "seenmask": seenmask,
        "labels": labels,
        "geometry": GridGeometry(stride_yx=stride, offset_yx=offset),
        "size_hw": size_hw,
        "seen_bias": draw(st.sampled_from([0.0, 0.7, -1.5])),
    }


@given(cases())
@settings(deadline=None, max_examples=150)
def test_equals_the_dense_method(case: dict[str, object]) -> None:
    assert_equals_dense(**case)  # type: ignore[arg-type]


@given(cases())
@settings(deadline=None, max_examples=60)
def test_small_pieces_give_the_same(case: dict[str, object]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sei, "_TILE_CELLS", 5)
        patch.setattr(sei, "_BLOCK_LABELS", 64)
        patch.setattr(sei, "_CANDIDATES", 20)  # tiles are halved down to single cells
        assert_equals_dense(**case)  # type: ignore[arg-type]


@pytest.mark.parametrize("short", [1.0, 0.0, 1e-35])  # 1e-35: no direction that float32 holds
@pytest.mark.parametrize("coarse", [2, 5])
@pytest.mark.parametrize("dim", [3, 5, 20])
def test_the_filter_keeps_every_winner(
    dim: int, coarse: int, short: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sei, "_FILTER_FROM", 32)
    monkeypatch.setattr(sei, "_BLOCK_LABELS", 64)  # few labels to find the first winners among
    rng = np.random.default_rng(dim)
    labels = random_labels(rng, 2000, dim, 0.5)
    h, w = 19, 20  # more nodes than directions that stand for them
    for seenmask in (None, rng.normal(size=(2, h, w)).astype(np.float32)):
        # a field that changes slowly, whose nodes have close winners and tight bounds
        few = rng.normal(size=(dim, coarse, coarse))
        stride = GridGeometry.square((h - 1) / (coarse - 1), 0)
        embedding = upsample(few, stride, (h, w)).astype(np.float32)
        embedding[:, rng.random((h, w)) < 0.05] *= np.float32(short)
        assert_equals_dense(embedding, seenmask, labels, GridGeometry.square(2, 0.5), (30, 38))


@pytest.mark.parametrize("count", [1000, 20_000])
def test_equals_the_dense_method_for_a_vocabulary(count: int) -> None:
    rng = np.random.default_rng(count)
    labels = random_labels(rng, count, 20, 0.01)
    h, w = 4, 5
    picked = labels.embeddings[rng.integers(0, count, (h, w))]
    embedding = (np.moveaxis(picked, 2, 0) + 0.2 * rng.normal(size=(20, h, w))).astype(np.float32)
    seenmask = rng.normal(size=(2, h, w)).astype(np.float32)
    assert_equals_dense(embedding, seenmask, labels, GridGeometry.square(8, 3.5), (30, 37))


SQUARE = GridGeometry.square(4, 1.5)


class TestSeenmask:
    labels = label_set(np.eye(4), np.array([True, True, False, False]))
    # nearest seen label 0, nearest unseen label 2, everywhere
    embedding = np.broadcast_to(np.array([4, 1, 3, 0], np.float32)[:, None, None], (4, 2, 2)).copy()

    def run(self, unseen: float, seen: float, bias: float = 0.0) -> tuple[set[int], set[bool]]:
        seenmask = np.stack([np.full((2, 2), unseen), np.full((2, 2), seen)]).astype(np.float32)
        labels, mask = segment_grid(
            self.embedding, seenmask, self.labels, geometry=SQUARE, size_hw=(8, 8), seen_bias=bias
        )
        return set(labels.ravel().tolist()), set(mask.ravel().tolist())

    def test_channel_one_is_seen(self) -> None:
        assert self.run(unseen=0, seen=1) == ({0}, {True})
        assert self.run(unseen=1, seen=0) == ({2}, {False})

    def test_a_tie_is_unseen(self) -> None:
        assert self.run(unseen=0.5, seen=0.5) == ({2}, {False})

    def test_the_bias_moves_the_operating_point(self) -> None:
        assert self.run(unseen=1, seen=0, bias=1.5) == ({0}, {True})
        assert self.run(unseen=0, seen=1, bias=-1.5) == ({2}, {False})

    def test_without_one_the_nearest_of_all_wins(self) -> None:
        labels, mask = segment_grid(
            self.embedding, None, self.labels, geometry=SQUARE, size_hw=(8, 8)
        )
        assert set(labels.ravel().tolist()) == {0}
        assert mask.all()

    @pytest.mark.parametrize("seen", [True, False])
    def test_it_is_ignored_when_all_labels_are_of_one_kind(self, seen: bool) -> None:
        labels = label_set(np.eye(4), np.full(4, seen))
        seenmask = np.stack([np.full((2, 2), seen), np.full((2, 2), not seen)]).astype(np.float32)
        ours, mask = segment_grid(self.embedding, seenmask, labels, geometry=SQUARE, size_hw=(8, 8))
        assert set(ours.ravel().tolist()) == {0}
        assert set(mask.ravel().tolist()) == {seen}


def test_one_label_on_each_side_paints_nothing_else() -> None:
    rng = np.random.default_rng(0)
    labels = label_set(rng.normal(size=(2, 20)), np.array([True, False]))
    geometry = GridGeometry(stride_yx=(5.3, 9.7), offset_yx=(2.15, 4.35))
    for _ in range(300):
        embedding = rng.normal(size=(20, 7, 4)).astype(np.float32)
        seenmask = rng.normal(size=(2, 7, 4)).astype(np.float32)
        ours, seen = segment_grid(embedding, seenmask, labels, geometry=geometry, size_hw=(35, 35))
        np.testing.assert_array_equal(ours, np.where(seen, 0, 1))


def test_ties_go_to_the_lowest_label() -> None:
    rows = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    labels = label_set(rows, np.array([True, True, True]))
    embedding = np.zeros((2, 3, 3), np.float32)
    embedding[0] = 1
    ours, _ = segment_grid(embedding, None, labels, geometry=SQUARE, size_hw=(12, 12))
    assert set(ours.ravel().tolist()) == {1}


@pytest.mark.parametrize("count", [6, 40, 400])
@pytest.mark.parametrize("filter_from", [32, 10_000])
def test_equal_labels_tie_everywhere(
    count: int, filter_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sei, "_FILTER_FROM", filter_from)
    monkeypatch.setattr(sei, "_BLOCK_LABELS", 128)
    rng = np.random.default_rng(count)
    half = rng.normal(size=(count // 2, 20))
    labels = label_set(np.concatenate([half, half]), np.full(count, True))
    for smooth in (0.2, 2.0):
        picked = half[rng.integers(0, count // 2, (12, 13))]
        embedding = np.moveaxis(picked, 2, 0) + smooth * rng.normal(size=(20, 12, 13))
        ours, _ = segment_grid(
            embedding.astype(np.float32),
            None,
            labels,
            geometry=GridGeometry.square(7, 3),
            size_hw=(84, 90),
        )
        assert ours.max() < count // 2


def test_an_embedding_of_zeros_ties_everywhere() -> None:
    labels = label_set(np.eye(3), np.array([True, True, True]))
    ours, _ = segment_grid(
        np.zeros((3, 2, 2), np.float32), None, labels, geometry=SQUARE, size_hw=(8, 8)
    )
    assert set(ours.ravel().tolist()) == {0}


def test_the_border_repeats_the_outermost_nodes() -> None:
    labels = label_set(np.eye(2), np.array([True, True]))
    embedding = np.array([[[1, 0]], [[0, 1]]], np.float32)  # two nodes side by side
    ours, _ = segment_grid(embedding, None, labels, geometry=SQUARE, size_hw=(4, 8))
    # nodes at 1.5 and 5.5: the border between them lies at 3.5
    np.testing.assert_array_equal(ours, np.repeat([[0, 0, 0, 0, 1, 1, 1, 1]], 4, axis=0))


@pytest.mark.parametrize(
    ("count", "dtype"), [(1, np.uint8), (255, np.uint8), (256, np.uint16), (65536, np.int32)]
)
def test_label_maps_are_as_small_as_they_can_be(count: int, dtype: type) -> None:
    assert label_dtype(count) == dtype


def test_out_is_written_and_returned() -> None:
    labels = label_set(np.eye(2), np.array([True, True]))
    out = (np.full((8, 8), 9, np.uint8), np.zeros((8, 8), np.bool_))
    ours, seen = segment_grid(
        np.ones((2, 2, 2), np.float32), None, labels, geometry=SQUARE, size_hw=(8, 8), out=out
    )
    assert ours is out[0]
    assert seen is out[1]
    assert set(ours.ravel().tolist()) == {0}


def test_grids_need_not_be_contiguous_or_writeable() -> None:
    rng = np.random.default_rng(5)
    labels = random_labels(rng, 9, 4)
    embedding = rng.normal(size=(4, 3, 5)).astype(np.float32)
    seenmask = rng.normal(size=(2, 3, 5)).astype(np.float32)
    expected, _ = segment_grid(embedding, seenmask, labels, geometry=SQUARE, size_hw=(12, 20))
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(embedding, 0, 2)), 2, 0)
    seenmask.setflags(write=False)
    assert not last.flags.c_contiguous
    ours, _ = segment_grid(last, seenmask, labels, geometry=SQUARE, size_hw=(12, 20))
    np.testing.assert_array_equal(ours, expected)


class TestErrors:
    labels = label_set(np.eye(2), np.array([True, False]))
    grid = np.ones((2, 2, 2), np.float32)

    def run(self, embedding: object, seenmask: object = None, **options: object) -> None:
        arguments = {"geometry": SQUARE, "size_hw": (8, 8)} | options
        segment_grid(embedding, seenmask, self.labels, **arguments)  # type: ignore[arg-type]

    def test_type(self) -> None:
        with pytest.raises(InputError, match="embedding is no grid: got float64"):
            self.run(self.grid.astype(np.float64))

    def test_dimensions(self) -> None:
        with pytest.raises(InputError, match=r"embedding has another shape: got \(3, 2, 2\)"):
            self.run(np.ones((3, 2, 2), np.float32))

    def test_not_finite(self) -> None:
        bad = self.grid.copy()
        bad[0, 0, 0] = np.nan
        with pytest.raises(InputError, match="embedding holds numbers that are not finite"):
            self.run(bad)
        with pytest.raises(InputError, match="seenmask holds numbers that are not finite"):
            self.run(self.grid, bad)

    def test_sizes_differ(self) -> None:
        with pytest.raises(InputError, match="seenmask and embedding differ in size"):
            self.run(self.grid, np.ones((2, 3, 2), np.float32))

    def test_pixels_beyond_a_stride(self) -> None:
        with pytest.raises(InputError, match="does not cover the rows of the frame"):
            self.run(self.grid, size_hw=(11, 8))
        with pytest.raises(InputError, match="does not cover the columns of the frame"):
            self.run(self.grid, geometry=GridGeometry(stride_yx=(4, 4), offset_yx=(1.5, 5)))

    def test_no_pixels(self) -> None:
        with pytest.raises(InputError, match="the frame has no pixels"):
            self.run(self.grid, size_hw=(0, 8))

    def test_bias(self) -> None:
        with pytest.raises(InputError, match="seen_bias is not finite"):
            self.run(self.grid, seen_bias=float("nan"))

    def test_out(self) -> None:
        out = (np.zeros((8, 8), np.int64), np.zeros((8, 8), np.bool_))
        with pytest.raises(InputError, match="an output array does not fit: got int64"):
            self.run(self.grid, out=out)


@pytest.fixture
def called_types(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Types of the arguments of each call of the kernel, for each of which Numba compiles it."""
    types: list[tuple[Any, ...]] = []
    kernel = _sei_kernels.label_grid

    def record(*arguments: Any) -> int:
        types.append(tuple(map(numba.typeof, arguments)))
        return int(kernel(*arguments))

    monkeypatch.setattr(_sei_kernels, "label_grid", record)
    return types


@pytest.mark.parametrize(("count", "dtype"), [(1, "uint8"), (256, "uint16"), (65536, "int32")])
def test_warming_up_compiles_for_the_type_of_the_label_map(
    count: int, dtype: str, called_types: list[tuple[Any, ...]]
) -> None:
    warm_up(20, count=count)
    assert len(called_types) == 1
    assert str(called_types[0][-2].dtype) == dtype


@pytest.mark.parametrize("given", ["embedding", "embedding and seenmask", "read-only", "floats"])
def test_frames_compile_nothing_that_warming_up_did_not(
    given: str, called_types: list[tuple[Any, ...]]
) -> None:
    warm_up(4)
    embedding, seenmask = np.ones((4, 2, 3), np.float32), np.ones((2, 2, 3), np.float32)
    labels = label_set(np.eye(4), np.array([True, False, False, True]))
    geometry: Any = GridGeometry(stride_yx=(4, 4), offset_yx=(1, 1))
    bias: Any = 1
    if given == "embedding":
        seenmask = None
    elif given == "read-only":
        embedding.setflags(write=False)
    elif given == "floats":
        geometry, bias = GridGeometry.square(4.5, 1.25), np.float32(0.5)
    segment_grid(embedding, seenmask, labels, geometry=geometry, size_hw=(8, 12), seen_bias=bias)
    assert called_types[0] == called_types[1]


@pytest.mark.parametrize("dim", [1, 20])
def test_warming_up_takes_any_dimension(dim: int) -> None:
    warm_up(dim)
