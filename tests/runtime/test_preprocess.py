from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szn_runtime.errors import InputError
from szn_runtime.geometry import GridGeometry
from szn_runtime.manifest import Preprocess
from szn_runtime.preprocess import Layout, Normaliser, check_frame, normalise_into, plan

RNG = np.random.default_rng(5)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def settings_of(order: str = "rgb") -> Preprocess:
    return Preprocess(mean=MEAN, std=STD, channel_order=order, long_side=64, multiple=32)


def photo(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def reference(image_bgr: np.ndarray, layout: Layout, preprocess: Preprocess) -> np.ndarray:
    """The definition, in plain NumPy but for enlarging; levels are not rounded where it shrinks."""
    (fh, fw), (rh, rw) = layout.frame_hw, layout.resized_hw
    levels = image_bgr.astype(np.float64)
    if rh > fh or rw > fw:
        levels = cv2.resize(image_bgr, (rw, rh), interpolation=cv2.INTER_LINEAR).astype(float)
    elif (fh, fw) != (rh, rw):
        levels = np.einsum("yY,YXc,xX->yxc", overlap(fh, rh), levels, overlap(fw, rw))
    image = levels[:, :, ::-1] if preprocess.channel_order == "rgb" else levels
    normalised = (image - preprocess.mean) / preprocess.std
    out = np.zeros((3, *layout.padded_hw))
    out[:, :rh, :rw] = normalised.transpose(2, 0, 1)
    return out


def overlap(pixels: int, smaller: int) -> np.ndarray:
    """(smaller, pixels) share of each pixel in each of the smaller side's, each row of sum 1."""
    low = np.arange(smaller)[:, None] * pixels / smaller
    high = low + pixels / smaller
    at = np.arange(pixels)[None]
    share = np.clip(np.minimum(high, at + 1) - np.maximum(low, at), 0, None)
    return share / share.sum(axis=1, keepdims=True)


def assert_normalised(
    out: np.ndarray, image: np.ndarray, layout: Layout, preprocess: Preprocess
) -> None:
    """`out` is the definition; where the frame shrinks, means are rounded to levels."""
    expected = reference(image, layout, preprocess)
    fh, fw = layout.frame_hw
    rh, rw = layout.resized_hw
    shrinks = rh <= fh and rw <= fw and (rh, rw) != (fh, fw)
    half_level = (0.501 / np.array(preprocess.std))[:, None, None] if shrinks else 0
    assert (np.abs(out - expected) <= half_level + 1e-6 * (1 + np.abs(expected))).all()
    if not shrinks:
        return
    inner = out[:, :rh, :rw] * np.array(preprocess.std)[:, None, None]
    levels = inner + np.array(preprocess.mean)[:, None, None]
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)


@pytest.mark.parametrize(
    ("frame_hw", "resized_hw", "padded_hw"),
    [
        ((480, 640), (480, 640), (480, 640)),
        ((1080, 1920), (360, 640), (384, 640)),
        ((213, 320), (426, 640), (448, 640)),  # smaller frames are enlarged
        ((640, 480), (640, 480), (640, 480)),
        ((333, 500), (426, 640), (448, 640)),  # 426.24
        ((1, 1), (640, 640), (640, 640)),
        ((1, 10_000), (1, 640), (32, 640)),  # at least one pixel
        ((3, 1280), (2, 640), (32, 640)),  # 1.5: halves upwards
    ],
)
def test_plan(
    frame_hw: tuple[int, int], resized_hw: tuple[int, int], padded_hw: tuple[int, int]
) -> None:
    layout = plan(frame_hw, long_side=640, multiple=32)
    assert layout == Layout(frame_hw=frame_hw, resized_hw=resized_hw, padded_hw=padded_hw)


@given(st.integers(1, 9999), st.integers(1, 9999), st.integers(1, 2000), st.integers(1, 64))
def test_plan_of_any_size(height: int, width: int, long_side: int, multiple: int) -> None:
    layout = plan((height, width), long_side=long_side, multiple=multiple)
    assert max(layout.resized_hw) == long_side
    for frame, resized, padded in zip(
        layout.frame_hw, layout.resized_hw, layout.padded_hw, strict=True
    ):
        exact = frame * long_side / max(height, width)
        assert abs(resized - max(exact, 1)) <= 0.5
        assert padded % multiple == 0
        assert 0 <= padded - resized < multiple
    assert layout.scale_yx == (layout.resized_hw[0] / height, layout.resized_hw[1] / width)


def test_grid_geometry_in_frame_pixels() -> None:
    layout = plan((960, 1280), long_side=640, multiple=32)
    geometry = layout.grid_geometry(GridGeometry.square(32, 15.5))
    assert geometry == GridGeometry(stride_yx=(64, 64), offset_yx=(31.5, 31.5))


@pytest.mark.parametrize(
    ("frame_hw", "long_side", "multiple", "match"),
    [
        ((0, 10), 64, 32, "frame is empty: got 10 x 0 pixels"),
        ((10, 10), 0, 32, "out of range: got long side 0, multiple 32"),
        ((10, 10), 64, 0, "out of range"),
        ((10, 10), 1 << 17, 32, "out of range"),
        ((10, 10), 60_000, 32, "would be too large: got 60000 x 60000 pixels.*smaller size"),
    ],
)
def test_plans_that_are_refused(
    frame_hw: tuple[int, int], long_side: int, multiple: int, match: str
) -> None:
    with pytest.raises(InputError, match=match):
        plan(frame_hw, long_side=long_side, multiple=multiple)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("frame_hw", [(48, 64), (100, 131), (20, 31), (1, 500), (64, 9), (63, 64)])
def test_normalised_frame_equals_the_definition(frame_hw: tuple[int, int], order: str) -> None:
    image, preprocess = photo(*frame_hw), settings_of(order)
    before = image.copy()
    layout = plan(frame_hw, long_side=64, multiple=32)
    out = np.full((3, *layout.padded_hw), np.nan, np.float32)
    normalise_into(image, layout, preprocess, out)
    assert_normalised(out, image, layout, preprocess)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("frame_hw", [(360, 480), (1080, 1920), (719, 1279), (65, 64)])
def test_shrinking_is_opencv_s_averaging(frame_hw: tuple[int, int]) -> None:
    image = cv2.GaussianBlur(photo(*frame_hw), (9, 9), 2)
    layout = plan(frame_hw, long_side=64, multiple=1)
    out = np.empty((3, *layout.padded_hw), np.float32)
    normalise_into(image, layout, settings_of("bgr"), out)
    levels = out.transpose(1, 2, 0) * STD + MEAN
    height, width = layout.resized_hw
    theirs = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    difference = np.abs(np.rint(levels) - theirs)
    assert difference.max() <= 1  # means close to a half
    assert difference.mean() < 0.02


@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=4),
    st.sampled_from([1, 7, 32]),
)
def test_one_normaliser_serves_changing_sizes(sizes: list[tuple[int, int]], multiple: int) -> None:
    preprocess = settings_of()
    normalise = Normaliser(preprocess)
    for frame_hw in sizes:
        image = photo(*frame_hw)
        layout = plan(frame_hw, long_side=45, multiple=multiple)
        out = np.full((3, *layout.padded_hw), 9, np.float32)
        normalise(image, layout, out)
        assert_normalised(out, image, layout, preprocess)


def test_nothing_around_the_buffer_is_written() -> None:
    preprocess, layout = settings_of(), plan((48, 60), long_side=60, multiple=32)
    larger = np.full((2, 5, 80, 90), 7, np.float32)
    view = larger[1, 1:4, 8:72, 3:67]  # rows are contiguous, the whole is not
    assert view.shape == (3, *layout.padded_hw)
    image = photo(48, 60)
    Normaliser(preprocess)(image, layout, view)
    assert_normalised(view, image, layout, preprocess)
    view[:] = 7
    assert (larger == 7).all()


@pytest.mark.parametrize(
    "view",
    [
        np.s_[:, ::-1],
        np.s_[::-1],
        np.s_[..., ::-1],
        np.s_[::2, ::2],
        np.s_[5:45, 3:50],
    ],
)
def test_frames_that_are_views(view: tuple[slice, ...]) -> None:
    image, preprocess = photo(96, 128)[view], settings_of()
    image.setflags(write=False)
    for long_side in (max(image.shape[:2]), 50):
        layout = plan(image.shape[:2], long_side=long_side, multiple=8)
        out = np.empty((3, *layout.padded_hw), np.float32)
        normalise_into(image, layout, preprocess, out)
        assert_normalised(out, np.ascontiguousarray(image), layout, preprocess)


@pytest.mark.parametrize(
    ("frame", "match"),
    [
        (None, "frame is not an array: got NoneType.*check that cv2.imread found the file"),
        ("cow.jpg", "frame is not an array: got str"),
        (np.zeros((4, 5), np.uint8), r"got uint8 \(4, 5\), expected \(H, W, 3\).*COLOR_GRAY2BGR"),
        (np.zeros((4, 5, 1), np.uint8), "COLOR_GRAY2BGR"),
        (np.zeros((4, 5, 4), np.uint8), "COLOR_BGRA2BGR"),
        (np.zeros((4, 5, 3), np.float32), "got float32.*scale it to 0..255"),
        (np.zeros((4, 5, 3), np.uint16), "got uint16.*scale it to 0..255"),
        (np.zeros((3, 4, 5), np.uint8), r"got uint8 \(3, 4, 5\)"),
        (np.zeros((0, 5, 3), np.uint8), r"got uint8 \(0, 5, 3\)"),
        (np.zeros((1, 4, 5, 3), np.uint8), r"got uint8 \(1, 4, 5, 3\)"),
    ],
)
def test_frames_that_are_refused(frame: object, match: str) -> None:
    with pytest.raises(InputError, match=match):
        check_frame(frame)


def test_buffers_that_are_refused() -> None:
    layout, normalise = plan((32, 64), long_side=64, multiple=32), Normaliser(settings_of())
    image = photo(32, 64)
    for wrong in (
        np.empty((3, 32, 65), np.float32),
        np.empty((3, 32, 64), np.float64),
        np.empty((3, 32, 128), np.float32)[:, :, ::2],
    ):
        with pytest.raises(InputError, match=r"buffer does not fit the frame"):
            normalise(image, layout, wrong)
    with pytest.raises(InputError, match=r"another size: got \(64, 32\), expected \(32, 64\)"):
        normalise(photo(64, 32), layout, np.empty((3, 32, 64), np.float32))
