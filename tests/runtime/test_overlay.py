from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szn_runtime import overlay
from szn_runtime.errors import InputError
from szn_runtime.labels import LabelSet
from tests.runtime import catalogue


def many_labels(count: int) -> LabelSet:
    return LabelSet(
        names=tuple(f"label{i}" for i in range(count)),
        embeddings=np.ones((count, 2)),
        seen=np.arange(count) % 2 == 0,
    )


def facts(labels: LabelSet) -> tuple[tuple[str, ...], np.ndarray]:
    return labels.names, labels.seen


def test_palette_is_the_voc_colour_map() -> None:
    colours = overlay.palette(256)
    # from the VOC development kit: background, aeroplane, bicycle, bird, tvmonitor, void
    expected = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {i: tuple(colours[i].tolist()) for i in expected} == expected
    assert colours.dtype == np.uint8


def test_label_colours_depend_on_the_index_alone_and_differ() -> None:
    colours = overlay.label_colours(range(60))
    assert len(np.unique(colours, axis=0)) == 60
    np.testing.assert_array_equal(overlay.label_colours([59, 3]), colours[[59, 3]])
    near = np.abs(colours[:28, None].astype(int) - colours[None, :28]).sum(2)  # (28, 28)
    assert near[~np.eye(28, dtype=bool)].min() >= 40


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([np.uint8, np.uint16, np.int32]),
    st.integers(0, 2**32 - 1),
)
def test_label_counts_equal_bincount(h: int, w: int, dtype: type, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 7, (h, w)).astype(dtype)
    counts = overlay.label_counts(labels, 7)
    np.testing.assert_array_equal(counts, np.bincount(labels.ravel(), minlength=7))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_blend_mixes_frame_and_label_colour(dtype: type) -> None:
    image = np.full((2, 2, 3), 100, np.uint8)
    labels = np.array([[0, 1], [1, 0]], dtype)
    colours = np.array([[200, 0, 0], [0, 0, 50]], np.uint8)
    mixed = overlay.blend(image, labels, colours, 0.25)
    assert mixed[0, 0].tolist() == [75, 75, 125]  # BGR of 3/4 grey and 1/4 red
    assert mixed[0, 1].tolist() == [88, 75, 75]
    np.testing.assert_array_equal(overlay.blend(image, labels, colours, 0.0), image)


def test_blend_refuses_what_does_not_fit() -> None:
    image, colours = np.zeros((4, 4, 3), np.uint8), overlay.palette(2)
    with pytest.raises(InputError, match=r"differ in size: got \(4, 3\), expected \(4, 4\)"):
        overlay.blend(image, np.zeros((4, 3), np.uint8), colours)
    with pytest.raises(InputError, match=r"opacity is out of range: got 1\.5"):
        overlay.blend(image, np.zeros((4, 4), np.uint8), colours, 1.5)


def test_boundaries_lie_between_regions_only() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    labels = np.zeros((20, 20), np.uint8)
    labels[:, 10:] = 1
    overlay.draw_boundaries(image, labels)
    drawn = image.any(axis=2)
    assert drawn[:, 10].all()
    assert drawn.sum() == 20


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([3, 300, 70_000]), st.booleans())
def test_render_keeps_the_frame_and_has_its_size(h: int, w: int, count: int, legend: bool) -> None:
    rng = np.random.default_rng(h * w)
    dtype = np.uint8 if count <= 255 else np.uint16 if count <= 65535 else np.int32
    labels = rng.integers(0, count, (h, w)).astype(dtype)
    image = rng.integers(0, 256, (h, w, 3), np.uint8)
    before = image.copy()
    drawn = overlay.render(image, labels, *facts(many_labels(count)), legend=legend)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


def test_render_gives_one_label_its_colour_in_any_label_set_size() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    expected = overlay.label_colours([2])[0, ::-1]
    for count, dtype in ((6, np.uint8), (300, np.uint16), (70_000, np.int32)):
        labels = np.full((8, 8), 2, dtype)
        drawn = overlay.render(image, labels, *facts(many_labels(count)), alpha=1.0, legend=False)
        np.testing.assert_array_equal(drawn, np.broadcast_to(expected, (8, 8, 3)))


def test_render_draws_the_legend_of_the_largest_labels() -> None:
    labels = np.zeros((200, 300), np.uint8)
    labels[:, 200:] = 4  # green, unseen in the catalogue
    image = np.zeros((200, 300, 3), np.uint8)
    plain = overlay.render(image, labels, *facts(catalogue.colour_labels()), legend=False)
    drawn = overlay.render(image, labels, *facts(catalogue.colour_labels()))
    rows = np.flatnonzero((plain != drawn).any(axis=(1, 2)))
    assert rows.min() > 120
    one = overlay.render(image, labels, *facts(catalogue.colour_labels()), most_entries=1)
    chip = overlay.label_colours([4])[0, ::-1]
    assert (drawn == chip).all(axis=2).any()
    assert not (one == chip).all(axis=2).any()


def test_seenmask_shows_unseen_in_orange() -> None:
    image = np.full((10, 10, 3), 120, np.uint8)
    seen = np.ones((10, 10), np.bool_)
    seen[5:] = False
    shown = overlay.draw_seenmask(image, seen).astype(int)
    assert shown[8, 0, 2] - shown[8, 0, 0] > 100  # red far above blue
    assert shown[1, 0, 0] > shown[1, 0, 2]
