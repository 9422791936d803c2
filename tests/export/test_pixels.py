from __future__ import annotations

import numpy as np
import pytest

from szn_export.pixels import PixelsBackend, pixels_of
from szn_export.to_openvino import ir_from_onnx
from szn_runtime.backends import BackendOptions, open_backend
from szn_runtime.bundle import Bundle, default_bundle_path
from szn_runtime.errors import BackendError
from szn_runtime.preprocess import Layout, normalise_into

SIZE = (64, 96)


@pytest.fixture(scope="module")
def mini() -> Bundle:
    return Bundle.open(default_bundle_path())


def normalised(mini: Bundle, image: np.ndarray, padded_hw: tuple[int, int]) -> np.ndarray:
    layout = Layout(frame_hw=image.shape[:2], resized_hw=image.shape[:2], padded_hw=padded_hw)
    frames = np.empty((1, 3, *padded_hw), np.float32)
    normalise_into(image, layout, mini.manifest.preprocess, frames[0])
    return frames


def test_pixels_are_found_again(mini: Bundle) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    pixels = pixels_of(normalised(mini, image, (80, 112)), mini.manifest)
    assert pixels.shape == (1, 80, 112, 3)
    np.testing.assert_array_equal(pixels[0, :64, :96], image)
    mean = np.array(mini.manifest.preprocess.mean[::-1])  # of RGB
    assert np.abs(pixels[0, 64:].astype(float) - mean).max() <= 0.5


def test_the_grids_are_those_of_normalised_frames(mini: Bundle) -> None:
    xml, weights = ir_from_onnx(mini.model_bytes(), preprocess=mini.manifest.preprocess)
    image = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    frames = normalised(mini, image, SIZE)
    with (
        PixelsBackend(xml, weights, mini.manifest, BackendOptions()) as pixels,
        open_backend("onnxruntime", mini) as expected,
    ):
        found, grids = pixels.infer(frames), expected.infer(frames)
    np.testing.assert_allclose(found.embedding, grids.embedding, atol=1e-3)
    np.testing.assert_allclose(found.seenmask, grids.seenmask, atol=1e-3)


def test_what_is_no_model(mini: Bundle) -> None:
    with pytest.raises(BackendError, match="OpenVINO cannot load the model"):
        PixelsBackend(b"<net/>", b"", mini.manifest, BackendOptions())
