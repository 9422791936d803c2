"""Tiny data sets, word vectors and runs for tests: painted shapes that a network learns in seconds.

The classes are `CLASSES`; the split used most is `SPLIT`:

    train_seen: grass, sky, cow    train_unseen: boat    U: sheep    void: rock
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_runtime._cv import cv2
from szn_train.classes import ClassSplit
from szn_train.config import StepConfig, TrainConfig
from szn_train.progress import Progress
from szn_train.run import Run
from szn_train.trainer import train

CLASSES = ("grass", "sky", "cow", "boat", "sheep", "rock")
COLOURS_RGB: dict[str, tuple[int, int, int]] = {
    "grass": (40, 150, 30),
    "sky": (110, 170, 240),
    "cow": (120, 70, 30),
    "boat": (200, 30, 60),
    "sheep": (235, 230, 220),
    "rock": (90, 90, 95),
}
VOID, TRAIN_UNSEEN, UNSEEN = ("rock",), ("boat",), ("sheep",)
SPLIT = ClassSplit(names=CLASSES, void=VOID, train_unseen=TRAIN_UNSEEN, unseen=UNSEEN)
SIZE_HW = (48, 64)
WORD_LENGTH = 8
WORDS = (
    "the", "of", "grass", "sky", "cow", "boat", "sheep", "rock", "horse", "goat", "ship", "river",
    "traffic", "light", "road", "tree", "building", "water", "car", "bird", "dog", "cat", "flower",
    "sign", "book", "chair", "face", "body", "bicycle", "aeroplane", "mountain", "meadow",
)  # fmt: skip
"""The vocabulary of `write_words`, most frequent word first."""

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Image (H, W, 3) BGR and mask (H, W) of indices into `CLASSES`."""

SCENES: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "t0": ("grass", "sky"),
        "t1": ("grass", "sky", "cow"),
        "t2": ("grass", "sky", "cow"),
        "t3": ("grass", "cow"),
        "t4": ("sky", "cow"),
        "t5": ("grass", "rock"),
        "t6": ("grass", "sky", "boat"),
        "t7": ("sky", "cow", "boat"),
        "t8": ("grass", "sheep"),
        "t9": ("sky", "boat", "sheep"),
    },
    "val": {
        "v0": ("grass", "sky", "cow"),
        "v1": ("grass", "sky", "boat"),
        "v2": ("grass", "sky", "sheep"),
        "v3": ("sky", "rock", "cow"),
    },
}
"""Split to image to the classes that it shows."""


def scene(*names: str, seed: int = 0, size_hw: tuple[int, int] = SIZE_HW) -> Pair:
    """A painted image: the first class fills it, the second its upper half, others are shapes."""
    rng = np.random.default_rng(seed)
    height, width = size_hw
    mask = np.full(size_hw, CLASSES.index(names[0]), dtype=np.uint8)
    for position, name in enumerate(names[1:]):
        value = CLASSES.index(name)
        if position == 0:
            mask[: height // 2] = value
        else:
            centre = (int(rng.integers(width // 4, 3 * width // 4)), height // 2)
            cv2.ellipse(mask, centre, (width // 5, height // 4), 0, 0, 360, value, -1)
    colours = np.array([COLOURS_RGB[name][::-1] for name in CLASSES], dtype=np.int64)  # BGR
    image = colours[mask] + rng.integers(-12, 13, (*size_hw, 3))  # (H, W) -> (H, W, 3)
    return np.clip(image, 0, 255).astype(np.uint8), mask


def write_png(path: Path, array: NDArray[np.uint8]) -> None:
    """A PNG file, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", array)[1].tobytes())


def write_dataset(
    root: Path,
    splits: Mapping[str, Mapping[str, Pair]] | None = None,
    *,
    classes: Sequence[str] = CLASSES,
) -> Path:
    """A data set in the folder format; the scenes of `SCENES` by default."""
    if splits is None:
        splits = {
            split: {name: scene(*shown, seed=row) for row, (name, shown) in enumerate(ids.items())}
            for split, ids in SCENES.items()
        }
    (root / "splits").mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(classes) + "\n")
    for split, pairs in splits.items():
        (root / "splits" / f"{split}.txt").write_text("\n".join(pairs) + "\n")
        for name, (image, mask) in pairs.items():
            write_png(root / "images" / f"{name}.png", image)
            write_png(root / "masks" / f"{name}.png", mask)
    return root


def word_vectors() -> NDArray[np.float32]:
    """(words, WORD_LENGTH) vectors of `WORDS`, with axes of different variance."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(len(WORDS), WORD_LENGTH)) * np.linspace(2, 0.3, WORD_LENGTH) + 0.5
    return vectors.astype(np.float32)


def write_words(path: Path, *, header: bool = False) -> Path:
    """`WORDS` as a text file: GloVe's form, or with a header Word2Vec's."""
    vectors = word_vectors()
    lines = [f"{len(WORDS)} {WORD_LENGTH}"] if header else []
    lines += [
        f"{word} {' '.join(repr(float(x)) for x in row)}"
        for word, row in zip(WORDS, vectors, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def tiny_config(data: Path, words: Path, **changes: Any) -> TrainConfig:
    """A run over `write_dataset`'s images that takes a second an epoch."""
    values: dict[str, Any] = {
        "data": str(data),
        "void": VOID,
        "train_unseen": TRAIN_UNSEEN,
        "unseen": UNSEEN,
        "backbone": "efficientnet_lite0",
        "weights": "none",
        "stride": 32,
        "embeddings": str(words),
        "dim": 4,
        "loss": "cosine_ce",
        "long_side": 64,
        "crop_hw": (64, 64),
        "seenmask": "linear",  # there are eight images to train on
        "embedding_step": StepConfig(epochs=1, batch_size=3, learning_rate=1e-3),
        "seenmask_step": StepConfig(epochs=1, batch_size=4, learning_rate=1e-2),
        "seed": 5,
    }
    return TrainConfig(**{**values, **changes})


def stateful_config(folder: Path, **changes: Any) -> TrainConfig:
    """Two epochs of each step on `write_dataset`'s images, with everything that has state."""
    step = StepConfig(
        epochs=2, batch_size=4, learning_rate=1e-3, optimizer="adamw", schedule="cosine",
        warmup=0.2, augment=True, ema=0.5,
    )  # fmt: skip
    values = {
        "crop_hw": (32, 64),
        "embedding_step": step,
        "seenmask_step": replace(step, augment=False, ema=0.0),
    }
    data, words = write_dataset(folder / "data"), write_words(folder / "words.txt")
    return tiny_config(data, words, **(values | changes))


def many_scenes(copies: int = 6) -> dict[str, dict[str, Pair]]:
    """Those of `SCENES` several times with other shapes and noise: enough to fit a seenmask on."""
    return {
        split: {
            f"{name}-{copy}": scene(*shown, seed=100 * copy + row)
            for copy in range(copies)
            for row, (name, shown) in enumerate(ids.items())
        }
        for split, ids in SCENES.items()
    }


def statistical_config(folder: Path, **changes: Any) -> TrainConfig:
    """A run on `many_scenes`, written into `folder`, with a seenmask of statistics."""
    data = write_dataset(folder / "data", many_scenes())
    words = write_words(folder / "words.txt")
    values = {"weights": "imagenet", "stride": 16, "seenmask": "statistics", "hold_share": 0.25}
    step = StepConfig(epochs=2, batch_size=6, learning_rate=1e-3)
    return tiny_config(data, words, **({"embedding_step": step} | values | changes))


def train_tiny(folder: Path, **changes: Any) -> Run:
    """Write the data set and the words into `folder` and train a run there."""
    data = write_dataset(folder / "data")
    words = write_words(folder / "words.txt")
    return train(tiny_config(data, words, **changes), folder / "run", progress=Progress(quiet=True))
