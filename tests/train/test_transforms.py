from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from szn_runtime.preprocess import normalise_into, plan
from szn_train.backbones import BackboneInfo
from szn_train.classes import VOID
from szn_train.transforms import augmented, plain, preprocess_of
from tests.train import catalogue

INFO = BackboneInfo(
    name="test",
    channels=8,
    stride=16,
    node_offset=7.5,
    multiple=16,
    mean=(120.0, 110.0, 100.0),
    std=(60.0, 50.0, 40.0),
)
sides = st.integers(1, 90)


def flat(value: tuple[int, int, int], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """A BGR image of one RGB colour."""
    return np.full((*size_hw, 3), value[::-1], np.uint8)


def test_the_preprocessing_is_the_backbones() -> None:
    preprocess = preprocess_of(INFO, 320)
    assert (preprocess.mean, preprocess.std) == (INFO.mean, INFO.std)
    assert (preprocess.long_side, preprocess.multiple) == (320, 16)
    assert preprocess.channel_order == "rgb"


@settings(max_examples=30, deadline=None)
@given(height=sides, width=sides, long_side=st.integers(1, 100), seed=st.integers(0, 99))
def test_plain_is_the_runtimes_preprocessing(
    height: int, width: int, long_side: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    target = rng.integers(0, 4, (height, width), dtype=np.uint8)
    preprocess = preprocess_of(INFO, long_side)
    frame, labels = plain(preprocess)(image, target)
    layout = plan((height, width), long_side=long_side, multiple=16)
    expected = np.empty((3, *layout.padded_hw), np.float32)
    normalise_into(image, layout, preprocess, expected)
    np.testing.assert_array_equal(frame.numpy(), expected)
    assert frame.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.shape == layout.padded_hw
    rows, columns = layout.resized_hw
    assert set(labels[:rows, :columns].unique().tolist()) <= set(np.unique(target).tolist())
    assert (labels[rows:] == VOID).all()
    assert (labels[:, columns:] == VOID).all()


def test_plain_keeps_a_frame_of_the_nominal_size_as_it_is() -> None:
    image, mask = catalogue.scene("grass", "sky", "cow")
    frame, target = plain(preprocess_of(INFO, 64))(image, mask)
    np.testing.assert_array_equal(target.numpy(), mask)
    rgb = image[:, :, ::-1].transpose(2, 0, 1).astype(np.float64)
    expected = (rgb - np.array(INFO.mean)[:, None, None]) / np.array(INFO.std)[:, None, None]
    np.testing.assert_allclose(frame.numpy(), expected, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(height=sides, width=sides)
def test_plain_may_leave_frames_at_their_size(height: int, width: int) -> None:
    rng = np.random.default_rng(height * 97 + width)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    target = rng.integers(0, 4, (height, width), dtype=np.uint8)
    frame, labels = plain(preprocess_of(INFO, 320), resize=False)(image, target)
    np.testing.assert_array_equal(labels[:height, :width].numpy(), target)
    rgb = image[:, :, ::-1].transpose(2, 0, 1).astype(np.float64)
    expected = (rgb - np.array(INFO.mean)[:, None, None]) / np.array(INFO.std)[:, None, None]
    np.testing.assert_allclose(frame[:, :height, :width].numpy(), expected, atol=1e-6)
    padded = (-(-height // 16) * 16, -(-width // 16) * 16)
    assert frame.shape[1:] == labels.shape == padded
    assert (frame[:, height:] == 0).all()


def test_augmentation_scales_around_a_frames_own_size() -> None:
    torch.manual_seed(3)
    image, mask = catalogue.scene("grass", "sky")  # 48 x 64
    transform = augmented(preprocess_of(INFO, 1000), (112, 112), resize=False)
    heights = []
    for _ in range(20):
        _, target = transform(image, mask)
        heights.append(int((target != VOID).any(dim=1).sum()))
    assert min(heights) >= 36
    assert max(heights) <= 72
    assert len(set(heights)) > 5


def test_plain_takes_masks_at_pixel_centres() -> None:
    target = np.array([[0, 1, 2, 3], [4, 5, 6, 7]], np.uint8)
    _, labels = plain(preprocess_of(INFO, 8))(np.zeros((2, 4, 3), np.uint8), target)
    np.testing.assert_array_equal(labels[:4, :8].numpy(), target.repeat(2, 0).repeat(2, 1))


def test_augmentation_gives_crops_of_one_size_and_known_labels() -> None:
    torch.manual_seed(0)
    image, mask = catalogue.scene("grass", "sky", "cow")
    transform = augmented(preprocess_of(INFO, 64), (32, 96))
    low = (0 - np.array(INFO.mean)) / np.array(INFO.std)
    high = (255 - np.array(INFO.mean)) / np.array(INFO.std)
    for _ in range(20):
        frame, target = transform(image, mask)
        assert frame.shape == (3, 32, 96)
        assert target.shape == (32, 96)
        assert (frame.dtype, target.dtype) == (torch.float32, torch.int64)
        assert set(target.unique().tolist()) <= {*np.unique(mask).tolist(), VOID}
        channels = frame.flatten(1).numpy()
        assert (channels.min(axis=1) >= low - 1e-5).all()
        assert (channels.max(axis=1) <= high + 1e-5).all()


def test_image_and_mask_are_moved_together() -> None:
    # the mask says which of two colours a pixel has, so both can be compared after any move
    mask = np.zeros((40, 64), np.uint8)
    mask[:, 40:] = 1
    image = np.where(mask[:, :, None] == 1, flat((250, 250, 250), (40, 64)), np.uint8(0))
    transform = augmented(preprocess_of(INFO, 64), (32, 48))
    torch.manual_seed(1)
    for _ in range(20):
        frame, target = transform(image, mask)
        bright = (frame.mean(dim=0) > 0).long()
        known = target != VOID
        # the resized edge is blurred in the image and hard in the mask: one column a row
        assert (bright != target)[known].sum() <= 2 * target.shape[0]


def test_what_lies_outside_the_frame_is_void_and_the_networks_zero() -> None:
    torch.manual_seed(2)
    mask = np.zeros((16, 16), np.uint8)
    transform = augmented(preprocess_of(INFO, 16), (64, 64))
    for _ in range(5):
        frame, target = transform(flat((255, 0, 0), (16, 16)), mask)
        outside = target == VOID
        assert 0.8 < outside.float().mean() < 1
        # the fill has the colour of the mean, which the colour jitter moves with the rest
        assert (frame[:, ~outside][0] > frame[:, outside][0].max()).all()


def test_augmentation_draws_from_torchs_generator() -> None:
    image, mask = catalogue.scene("grass", "sky", "cow")
    transform = augmented(preprocess_of(INFO, 64), (32, 32))
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(transform(image, mask))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(drawn[0][0], drawn[2][0])


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_augmentation_keeps_the_networks_channel_order(order: str) -> None:
    info = BackboneInfo(**{**vars(INFO), "channel_order": order})
    image, mask = flat((250, 100, 5), (32, 32)), np.zeros((32, 32), np.uint8)
    torch.manual_seed(5)
    frame, _ = augmented(preprocess_of(info, 64), (32, 32))(image, mask)
    values = frame.flatten(1).mean(dim=1) * torch.tensor(info.std) + torch.tensor(info.mean)
    ranking = values.argsort(descending=True).tolist()
    assert ranking == ([0, 1, 2] if order == "rgb" else [2, 1, 0])


@pytest.mark.parametrize("seed", range(4))
def test_contrast_is_the_same_whatever_the_number_of_threads(seed: int) -> None:
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import functional

    from szn_train.augmentation import _Picture

    # greys whose mean is a whole number, but whose sum no float32 holds: at no contrast all of the
    # picture is that mean, or one less where it was rounded
    generator = torch.Generator().manual_seed(seed)
    half = torch.randint(150, 257, (256, 512), generator=generator)
    grey = torch.cat([half, 406 - half]).flatten()
    grey = grey[torch.randperm(len(grey), generator=generator)].view(512, 512)
    picture = grey.clamp(151, 255).to(torch.uint8).expand(3, 512, 512).contiguous()
    before, drawn = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            drawn.append(functional.adjust_contrast(_Picture(picture), 0.0))
    finally:
        torch.set_num_threads(before)
    exact = functional.rgb_to_grayscale(picture).double().mean()
    for flattened in drawn:
        assert type(flattened) is _Picture
        assert (flattened == int(exact)).all()
    ours = functional.adjust_contrast(_Picture(picture), 1.2).int()
    theirs = functional.adjust_contrast(tv_tensors.Image(picture), 1.2).int()
    assert (ours - theirs).abs().max() <= 1
    assert (ours != theirs).float().mean() < 0.01
