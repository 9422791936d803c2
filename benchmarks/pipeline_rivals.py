"""What `pipeline.py` compares with: a script as people write it, and the thesis' way in PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sei_methods import dense

from szn_runtime._cv import cv2
from szn_runtime.backends import Grids
from szn_runtime.bundle import Bundle
from szn_runtime.labels import LabelSet
from szn_runtime.segmenter import Segmenter
from szn_train.model import SeenmaskZeroShotNetwork

__all__ = ["PlainScript", "thesis_fps"]

Image = NDArray[np.uint8]

_ROWS = 16  # of the table of pixels and labels at a time, so that it fits in memory


class PlainScript:
    """What people write after reading the tutorials."""

    def __init__(self, bundle: Bundle, labels: LabelSet) -> None:
        import onnxruntime as ort

        self._session = ort.InferenceSession(
            bundle.model_bytes(), providers=["CPUExecutionProvider"]
        )
        self._manifest, self._labels = bundle.manifest, labels
        seen = labels.seen
        self._sides = [(np.flatnonzero(seen), True), (np.flatnonzero(~seen), False)]

    def frame(self, image: Image, size_wh: tuple[int, int]) -> NDArray[np.int64]:
        """(H, W) labels of a frame."""
        preprocess = self._manifest.preprocess
        small = cv2.resize(image, size_wh)
        rgb = cv2.cvtColor(small, cv2.COLOR_BGR2RGB).astype(np.float32)
        normal = (rgb - np.array(preprocess.mean)) / np.array(preprocess.std)
        tensor = np.ascontiguousarray(normal.transpose(2, 0, 1)[None].astype(np.float32))
        embedding, seenmask = self._session.run(
            [self._manifest.embedding_name, self._manifest.seenmask_name],
            {self._manifest.input_name: tensor},
        )
        height, width = image.shape[:2]
        pixels = cv2.resize(embedding[0].transpose(1, 2, 0), (width, height))  # (H, W, j)
        mask = cv2.resize(seenmask[0].transpose(1, 2, 0), (width, height))  # (H, W, 2)
        seen_pixel = mask[..., 1] > mask[..., 0]
        result = np.zeros((height, width), np.int64)
        for rows in range(0, height, _ROWS):
            part = slice(rows, rows + _ROWS)
            for ids, side in self._sides:
                scores = pixels[part] @ self._labels.embeddings[ids].T  # (rows, W, k)
                best = ids[scores.argmax(axis=-1)]
                result[part] = np.where(seen_pixel[part] == side, best, result[part])
        return result

    def fps(self, clip: Path, size_wh: tuple[int, int], frames: int) -> float:
        """Frames per second over the first frames of the clip."""
        return _clip_fps(clip, frames, lambda image: self.frame(image, size_wh))


def thesis_fps(
    clip: Path,
    network: SeenmaskZeroShotNetwork,
    segmenter: Segmenter,
    labels: LabelSet,
    frames: int,
) -> float:
    """Frames per second of the thesis' method over the first frames of the clip."""

    def work(image: Image) -> None:
        prepared = segmenter.preprocess([image])
        with torch.inference_mode():
            embedding, seenmask = network(torch.from_numpy(prepared.tensor))
        grids = Grids(embedding=embedding.numpy(), seenmask=seenmask.numpy())
        geometry = prepared.layouts[0].grid_geometry(segmenter.bundle.manifest.grid_geometry)
        dense(grids, labels, geometry, image.shape[:2])()

    return _clip_fps(clip, frames, work)


def _clip_fps(clip: Path, frames: int, work: Callable[[Image], object]) -> float:
    """Frames per second of reading the first frames of a clip with OpenCV and working on each."""
    capture = cv2.VideoCapture(str(clip))
    start_s = time.perf_counter()
    count = 0
    while count < frames:
        there, image = capture.read()
        if not there:
            break
        work(image)
        count += 1
    elapsed_s = time.perf_counter() - start_s
    capture.release()
    return count / elapsed_s
