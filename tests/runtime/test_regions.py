from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from szn_runtime.errors import InputError, UsageError
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_runtime.regions import Region, find_regions, warm_up
from tests.runtime.dense_reference import upsample

SQUARE = GridGeometry.square(4, 1.5)


def label_set(rows: NDArray[np.floating]) -> LabelSet:
    return LabelSet(
        names=tuple(f"l{i}" for i in range(len(rows))),
        embeddings=np.asarray(rows, np.float32),
        seen=np.arange(len(rows)) % 2 == 0,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Brute:
    """A region by flood fill and upsampling, with its cosines to all labels, (K,)."""

    label: int
    pixels: int
    box: tuple[int, int, int, int]
    cosines: NDArray[np.float64]


def brute_regions(
    labels: NDArray[np.integer],
    embedding: NDArray[np.float32],
    chosen: LabelSet,
    geometry: GridGeometry,
    least_share: float,
) -> list[Brute]:
    pixels = upsample(embedding, geometry, labels.shape)  # (j, H, W)
    left = {(y, x) for y in range(labels.shape[0]) for x in range(labels.shape[1])}
    found = []
    while left:
        start = left.pop()
        region, edge = [start], [start]
        while edge:
            y, x = edge.pop()
            for near in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                if near in left and labels[near] == labels[start]:
                    left.remove(near)
                    region.append(near)
                    edge.append(near)
        if len(region) / labels.size < least_share:
            continue
        ys, xs = (np.array(axis) for axis in zip(*region, strict=True))
        mean = pixels[:, ys, xs].mean(axis=1)
        norm = np.linalg.norm(mean)
        found.append(
            Brute(
                label=int(labels[start]),
                pixels=len(region),
                box=(int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1),
                cosines=chosen.embeddings.astype(np.float64) @ (mean / norm if norm > 0 else mean),
            )
        )
    return sorted(found, key=lambda r: (-r.pixels, r.label, r.box[1], r.box[0]))


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.sampled_from([(8.0, 8.0), (5.3, 9.7), (2.5, 3.0)]),
    st.integers(1, 6),
    st.sampled_from([1, 4, 60]),
    st.sampled_from([1, 5]),
    st.sampled_from([0.0, 0.005, 0.05, 0.3]),
    st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]),
    st.integers(1, 4),
)
@settings(deadline=None, max_examples=80)
def test_equals_brute_force(
    seed: int,
    grid_hw: tuple[int, int],
    stride: tuple[float, float],
    kinds: int,
    count: int,
    top_k: int,
    least_share: float,
    dtype: type,
    block: int,
) -> None:
    rng = np.random.default_rng(seed)
    offset = tuple((s - 1) / 2 for s in stride)
    size_hw = tuple(
        int(rng.integers(1, s * (n - 1) + o + s))
        for n, s, o in zip(grid_hw, stride, offset, strict=True)
    )
    embedding = (rng.normal(size=(5, *grid_hw)) + 0.5).astype(np.float32)
    # labels 0 to `count`, the last one unknown
    coarse = rng.integers(0, min(kinds, count + 1), [n // block + 1 for n in size_hw])
    labels = np.kron(coarse, np.ones((block, block), np.int64))[: size_hw[0], : size_hw[1]]
    labels = (count - labels).astype(dtype)
    chosen = label_set(rng.normal(size=(count, 5)))
    geometry = GridGeometry(stride_yx=stride, offset_yx=offset)
    ours = find_regions(
        labels, embedding, chosen, geometry=geometry, top_k=top_k, least_share=least_share
    )
    expected = brute_regions(labels, embedding, chosen, geometry, least_share)
    assert [(r.label, r.share, r.box_xyxy) for r in ours] == [
        (r.label, r.pixels / labels.size, r.box) for r in expected
    ]
    for region, brute in zip(ours, expected, strict=True):
        best = np.sort(brute.cosines)[::-1][:top_k]
        np.testing.assert_allclose([cosine for _, cosine in region.words], best, atol=1e-5)
        own = [brute.cosines[chosen.names.index(name)] for name, _ in region.words]
        np.testing.assert_allclose(own, best, atol=1e-5)


def run(labels: NDArray[np.integer], **options: object) -> list[Region]:
    arguments: dict[str, object] = {
        "embedding": np.ones((2, 2, 2), np.float32),
        "label_set": label_set(np.array([[1, 0], [0, 1], [1, 1]])),
        "geometry": SQUARE,
        "top_k": 1,
    }
    return find_regions(labels, **(arguments | options))  # type: ignore[arg-type]


def test_a_region_and_its_words() -> None:
    # the left node says (1, 0), the right one (0, 1); pixel 3 lies at 3 / 8 of the way
    embedding = np.array([[[1, 0]], [[0, 1]]], np.float32)
    labels = np.ones((4, 8), np.uint8)
    labels[1, 3] = 0
    regions = run(labels, embedding=embedding, top_k=2, least_share=0)
    assert [region.label for region in regions] == [1, 0]
    assert regions[1].share == 1 / 32
    assert regions[1].box_xyxy == (3, 1, 4, 2)
    (first, cosine), (second, next_cosine) = regions[1].words
    assert (first, second) == ("l2", "l0")
    assert cosine == pytest.approx(8 / (np.hypot(5, 3) * np.sqrt(2)), abs=1e-6)
    assert next_cosine == pytest.approx(5 / np.hypot(5, 3), abs=1e-6)


def test_pixels_that_touch_at_their_corners_are_one_region() -> None:
    labels = np.zeros((6, 6), np.uint8)
    labels[[0, 1, 2], [0, 1, 2]] = 1
    labels[4, 4] = 1  # touches none of them
    found = [(r.label, r.box_xyxy) for r in run(labels, least_share=0)]
    assert found == [(0, (0, 0, 6, 6)), (1, (0, 0, 3, 3)), (1, (4, 4, 5, 5))]


def test_regions_of_just_the_least_share_are_kept() -> None:
    labels = np.zeros((10, 10), np.uint8)
    labels[0, :7] = 1
    labels[5, :6] = 2
    geometry = GridGeometry.square(6, 1)
    found = [r.label for r in run(labels, geometry=geometry, least_share=0.07)]
    assert found == [0, 1]


def test_equal_regions_come_by_label_then_from_top_to_bottom() -> None:
    labels = np.array([[1, 1, 0, 0, 1, 1], [2, 2, 2, 2, 2, 2], [1, 1, 0, 0, 1, 1]], np.uint8)
    found = [(r.label, r.box_xyxy[:2]) for r in run(labels)]
    assert found == [
        (2, (0, 1)),
        (0, (2, 0)),
        (0, (2, 2)),
        (1, (0, 0)),
        (1, (4, 0)),
        (1, (0, 2)),
        (1, (4, 2)),
    ]


def test_the_unknown_has_words_too() -> None:
    (region,) = run(np.full((8, 8), 3, np.uint8), top_k=9)
    assert region.label == 3
    assert region.share == 1
    assert [name for name, _ in region.words] == ["l2", "l0", "l1"]
    assert region.words[0][1] == pytest.approx(1, abs=1e-6)


def test_words_of_equal_cosine_come_in_the_order_of_the_label_set() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(7, 20))
    # copies of one direction at places of all remainders, as vector lanes have them
    kind = rng.integers(1, 7, 1003)
    kind[[3, 64, 130, 517, 1001, 1002]] = 0
    chosen = label_set(directions[kind])
    embedding = np.broadcast_to(directions[0, :, None, None], (20, 2, 2)).astype(np.float32)
    for top_k, expected in (
        (1, [3]),
        (4, [3, 64, 130, 517]),
        (6, [3, 64, 130, 517, 1001, 1002]),
    ):
        (region,) = run(
            np.zeros((8, 8), np.uint8), embedding=embedding, label_set=chosen, top_k=top_k
        )
        assert [name for name, _ in region.words] == [f"l{i}" for i in expected]


def test_more_regions_than_are_compared_at_a_time() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(100, dtype=np.uint8).reshape(10, 10) % 50
    embedding = rng.normal(size=(20, 3, 3)).astype(np.float32)
    chosen = label_set(rng.normal(size=(5000, 20)))
    regions = run(labels, embedding=embedding, label_set=chosen, top_k=3, least_share=0)
    expected = brute_regions(labels, embedding, chosen, SQUARE, 0)
    assert len(regions) == len(expected) == 100
    for region, brute in zip(regions, expected, strict=True):
        assert (region.label, region.box_xyxy) == (brute.label, brute.box)
        best = np.argsort(-brute.cosines)[:3]
        assert [name for name, _ in region.words] == [f"l{i}" for i in best]


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_mean_of_nothing_is_near_to_nothing(value: float) -> None:
    embedding = np.array([[[value, -value]], [[7 * value, -7 * value]]], np.float32)
    (region,) = run(np.zeros((4, 8), np.uint8), embedding=embedding, top_k=2)
    assert region.words == (("l0", 0.0), ("l1", 0.0))


def test_no_region_is_large_enough() -> None:
    labels = np.zeros((8, 8), np.uint8)
    labels[:, 4:] = 1
    assert run(labels, least_share=0.6) == []


def test_the_arguments_stay_as_they_are() -> None:
    labels = np.zeros((8, 16), np.uint8)[:, ::2]
    embedding = np.ones((2, 2, 2), np.float32)
    labels.setflags(write=False)
    embedding.setflags(write=False)
    assert run(labels, embedding=embedding)[0].box_xyxy == (0, 0, 8, 8)


class TestErrors:
    labels = np.zeros((8, 8), np.uint8)

    def test_number_of_words(self) -> None:
        with pytest.raises(UsageError, match=r"number of words .*: got 0, expected >= 1"):
            run(self.labels, top_k=0)

    @pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
    def test_least_share(self, share: float) -> None:
        with pytest.raises(UsageError, match="least share of a region is out of range"):
            run(self.labels, least_share=share)

    def test_labels_of_another_set(self) -> None:
        with pytest.raises(InputError, match=r"other labels .*: got 4, expected 0 to 3"):
            run(self.labels + 4)

    def test_grid(self) -> None:
        with pytest.raises(InputError, match=r"embedding has another shape: got \(3, 2, 2\)"):
            run(self.labels, embedding=np.ones((3, 2, 2), np.float32))
        with pytest.raises(InputError, match="embedding holds numbers that are not finite"):
            run(self.labels, embedding=np.full((2, 2, 2), np.nan, np.float32))

    def test_pixels_beyond_a_stride(self) -> None:
        with pytest.raises(InputError, match="does not cover the rows of the frame"):
            run(np.zeros((11, 8), np.uint8))


@pytest.mark.parametrize("dim", [1, 20])
def test_warming_up_takes_any_dimension(dim: int) -> None:
    warm_up(dim)
