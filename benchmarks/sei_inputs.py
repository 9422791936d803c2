"""What the methods of `sei.py` start from: grids of a photo, and any number of labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from photo import photo

from szn_runtime._cv import cv2
from szn_runtime.backends import Grids, open_backend
from szn_runtime.bundle import Bundle
from szn_runtime.labels import LabelSet
from szn_runtime.preprocess import Layout, normalise_into

__all__ = ["Field", "labels_of"]


class Field:
    """The grids of one photo at any number of nodes.

    Args:
        bundle: The network.
        image_path: The photo, None for scikit-learn's.
        dim: Leading dimensions of the joint embedding space to keep, None for all.

    Raises:
        SourceError: If the file cannot be read or is no image.
    """

    def __init__(self, bundle: Bundle, image_path: Path | None, dim: int | None = None) -> None:
        self._bundle, self._dim = bundle, dim
        self._image = photo(image_path)

    def grids(self, nodes_hw: tuple[int, int], seenmask: str) -> Grids:
        """Grids of `nodes_hw` nodes; `seenmask` is "own" or "half"."""
        stride = self._bundle.manifest.stride
        size = (nodes_hw[0] * stride, nodes_hw[1] * stride)
        frame = np.empty((1, 3, *size), np.float32)
        resized = np.ascontiguousarray(cv2.resize(self._image, size[::-1]))
        layout = Layout(frame_hw=size, resized_hw=size, padded_hw=size)
        normalise_into(resized, layout, self._bundle.manifest.preprocess, frame[0])
        with open_backend("onnxruntime", self._bundle) as backend:
            grids = backend.infer(frame)
            embedding, logits = grids.embedding[:, : self._dim].copy(), grids.seenmask.copy()
        if seenmask == "half":
            logits[:, 1] -= np.median(logits[:, 1] - logits[:, 0])
        return Grids(embedding=embedding, seenmask=logits)


def labels_of(bundle: Bundle, count: int, seenmask: str, dim: int | None = None) -> LabelSet:
    """The bundle's labels, then its vocabulary, then random directions, in leading dimensions."""
    own = bundle.label_set()
    table = np.random.default_rng(0).standard_normal((count, own.dim), dtype=np.float32)
    table[: len(own)] = own.embeddings[:count]
    vocabulary = bundle.vocabulary()
    if vocabulary is not None and count > len(own):
        words = vocabulary.embeddings.astype(np.float32)
        words = words[np.linalg.norm(words, axis=1) > 0][: count - len(own)]
        table[len(own) : len(own) + len(words)] = words
    seen = np.arange(count) % 2 == 0
    if seenmask == "own":
        seen[: len(own)] = own.seen[:count]
    names = tuple(f"label {i}" for i in range(count))
    return LabelSet(names=names, embeddings=table[:, :dim], seen=seen)
