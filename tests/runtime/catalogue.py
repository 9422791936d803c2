"""Tiny models for tests: a network of a few weights and a complete bundle around it.

The network is `FakeBackend`'s formula as an ONNX graph, on frames scaled to [-1, 1] in RGB:
the mean colour of a block is its embedding, and a block is seen where it is rather red. The labels
are colours, so that a painted frame has a label map that anyone can name:

    seen: red, yellow, white    train_unseen: black    unseen: green, blue
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_runtime.backends.fake import FakeBackend
from szn_runtime.bundle import Artefact, Manifest, Preprocess, write_bundle
from szn_runtime.geometry import GridGeometry
from szn_runtime.labels import LabelSet
from szn_runtime.segmentation import Segmentation
from szn_runtime.vocabulary import Projection, Vocabulary

DIM = 6
STRIDE = 8
LONG_SIDE = 64
WORD_LENGTH = 8

COLOURS_RGB: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "yellow": (255, 255, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
}
TRAIN_SEEN = ("red", "yellow", "white")
TRAIN_UNSEEN = ("black",)
UNSEEN = ("green", "blue")
# words that only the vocabulary holds
WORDS_RGB: dict[str, tuple[int, int, int]] = {
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "orange": (255, 165, 0),
    "navy": (0, 0, 128),
    "lime": (50, 205, 50),
}


def colour_embedding(rgb: tuple[int, int, int], dim: int = DIM) -> NDArray[np.float32]:
    """What the tiny network gives for a frame of one colour, (j,)."""
    scaled = (np.array(rgb, np.float32) - 127.5) / 127.5
    channel = np.arange(dim)
    return (scaled[channel % 3] * np.where(channel // 3 % 2, -1, 1)).astype(np.float32)


def colour_labels(dim: int = DIM) -> LabelSet:
    """The six labels of the tiny bundle."""
    return LabelSet(
        names=tuple(COLOURS_RGB),
        embeddings=np.stack([colour_embedding(rgb, dim) for rgb in COLOURS_RGB.values()]),
        seen=np.array([name in TRAIN_SEEN for name in COLOURS_RGB]),
    )


def colour_vocabulary(dim: int = DIM) -> Vocabulary:
    """All colours, those of the labels and more."""
    colours = {**COLOURS_RGB, **WORDS_RGB}
    return Vocabulary(
        tuple(colours), np.stack([colour_embedding(c, dim) for c in colours.values()])
    )


def colour_projection(dim: int = DIM) -> Projection:
    """From a word-vector space of 8 dimensions, where it is exactly invertible on colours."""
    rng = np.random.default_rng(7)
    basis = np.linalg.qr(rng.normal(size=(max(WORD_LENGTH, dim), dim)))[0].T  # (j, d)
    return Projection(mean=rng.normal(size=basis.shape[1]), basis=basis)


def word_vectors_text(dim: int = DIM, *, header: bool = False) -> str:
    """The vocabulary as a GloVe text file, or a Word2Vec one with a header, before projection."""
    projection = colour_projection(dim)
    colours = {**COLOURS_RGB, **WORDS_RGB}
    lines = [f"{len(colours)} {projection.mean.size}"] if header else []
    for word, rgb in colours.items():
        vector = projection.basis.T @ colour_embedding(rgb, dim) + projection.mean
        lines.append(f"{word} {' '.join(f'{x:.6f}' for x in vector)}")
    return "\n".join(lines) + "\n"


def frame(*columns: str, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """A BGR frame, HWC uint8, of vertical bars of equal width in the named colours."""
    image = np.empty((height, width, 3), np.uint8)
    colours = {**COLOURS_RGB, **WORDS_RGB}
    edges = np.linspace(0, width, len(columns) + 1).round().astype(int)
    for name, left, right in zip(columns, edges, edges[1:], strict=False):
        image[:, left:right] = colours[name][::-1]
    return image


def onnx_model(
    *,
    dim: int = DIM,
    stride: int = STRIDE,
    input_name: str = "image",
    embedding_name: str = "embedding",
    seenmask_name: str = "seenmask",
    seenmask_channels: int = 2,
    image_shape: tuple[str | int, ...] = ("batch", 3, "height", "width"),
    poison: bool = False,
) -> bytes:
    """The tiny network as an ONNX file: an average pool and two 1x1 convolutions.

    Args:
        dim: Length j of the embedding.
        stride: Of the average pool.
        input_name: Of the input.
        embedding_name: Of the output (N, j, h, w).
        seenmask_name: Of the output (N, 2, h, w).
        seenmask_channels: Other than 2 for a model that is wrong.
        image_shape: Of the input; names are dynamic.
        poison: Whether the seenmask is not a number.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    channel = np.arange(dim)
    embed = np.zeros((dim, 3, 1, 1), np.float32)
    embed[channel, channel % 3, 0, 0] = np.where(channel // 3 % 2, -1, 1)
    mask = np.zeros((seenmask_channels, 3, 1, 1), np.float32)
    mask[-1, 0] = np.nan if poison else 1
    batch, _, *_ = image_shape
    graph = helper.make_graph(
        nodes=[
            helper.make_node(
                "AveragePool",
                [input_name],
                ["mean"],
                kernel_shape=[stride, stride],
                strides=[stride, stride],
            ),
            helper.make_node("Conv", ["mean", "embed"], [embedding_name]),
            helper.make_node("Conv", ["mean", "mask"], [seenmask_name]),
        ],
        name="tiny",
        inputs=[helper.make_tensor_value_info(input_name, TensorProto.FLOAT, image_shape)],
        outputs=[
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, channels, "h", "w"])
            for name, channels in ((embedding_name, dim), (seenmask_name, seenmask_channels))
        ],
        initializer=[
            numpy_helper.from_array(embed, "embed"),
            numpy_helper.from_array(mask, "mask"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def manifest(*, dim: int = DIM, stride: int = STRIDE, **changes: Any) -> Manifest:
    """The tiny bundle's manifest, before its files are known."""
    values: dict[str, Any] = {
        "name": "tiny",
        "szn_version": "0.1.0",
        "backbone": "average-pool",
        "dim": dim,
        "stride": stride,
        "node_offset": (stride - 1) / 2,
        "preprocess": Preprocess(
            mean=(127.5,) * 3,
            std=(127.5,) * 3,
            channel_order="rgb",
            long_side=LONG_SIDE,
            multiple=stride,
        ),
        "input_name": "image",
        "embedding_name": "embedding",
        "seenmask_name": "seenmask",
        "train_seen": TRAIN_SEEN,
        "train_unseen": TRAIN_UNSEEN,
        "unseen": UNSEEN,
        "embeddings_source": "colours",
        "artefacts": (Artefact(kind="onnx", precision="fp32", file="model.onnx", opset=20),),
        "training": {"epochs": 0},
        "metrics": {"pa": 1.0},
    }
    return Manifest(**{**values, **changes})


def bundle_files(dim: int = DIM, stride: int = STRIDE) -> dict[str, bytes]:
    """Every file of the tiny bundle but the manifest."""
    return {
        "model.onnx": onnx_model(dim=dim, stride=stride),
        "labels.npz": colour_labels(dim).to_npz(),
        "projection.npz": colour_projection(dim).to_npz(),
        "vocabulary.npz": colour_vocabulary(dim).to_npz(),
        "MODEL_CARD.md": b"# tiny\n\nThe mean colour of a block.\n",
    }


def tiny_bundle(
    folder: Path,
    *,
    dim: int = DIM,
    stride: int = STRIDE,
    files: Mapping[str, bytes | None] | None = None,
    **changes: Any,
) -> Path:
    """Write a complete bundle.

    Args:
        folder: Where, such as `tmp_path / "tiny"`.
        dim: Length j of the embedding.
        stride: Of the grid.
        files: Files that replace the usual ones; None leaves one out.
        changes: Fields of the manifest that differ.

    Returns:
        The folder.
    """
    chosen = {**bundle_files(dim, stride), **(files or {})}
    present = {name: data for name, data in chosen.items() if data is not None}
    write_bundle(folder, manifest(dim=dim, stride=stride, **changes), present)
    return folder


def zipped(folder: Path, inside: str = "") -> Path:
    """A ZIP file of a bundle, beside its folder; its names begin with `inside`."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, inside + file.name)
    return path


def fake_backend(*, dim: int = DIM, stride: int = STRIDE, **options: Any) -> FakeBackend:
    """The tiny network without a library; `options` are those of `FakeBackend`."""
    return FakeBackend(dim=dim, stride=stride, **options)


def segmentation(labels: NDArray[np.integer], **changes: Any) -> Segmentation:
    """A result with this label map (H, W) on a black frame of one node."""
    label_set = changes.pop("label_set", None) or colour_labels()
    values: dict[str, Any] = {
        "labels": labels,
        "names": label_set.names,
        "seen": label_set.seen,
        "label_set": label_set,
        "seenmask": np.ones(labels.shape, np.bool_),
        "image_bgr": np.zeros((*labels.shape, 3), np.uint8),
        "embedding": np.ones((label_set.dim, 1, 1), np.float32),
        "geometry": GridGeometry.square(1000, 0),
    }
    return Segmentation(**{**values, **changes})
