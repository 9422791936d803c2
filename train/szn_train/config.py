"""Configuration of a training run: defaults, then a TOML preset, then the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from szn_runtime.errors import UsageError
from szn_train.label_words import LabelWords, is_label_words, pairs_of
from szn_train.protocol import PROTOCOLS, Protocol, protocol_defaults

__all__ = ["TABLES", "StepConfig", "TrainConfig", "Workers", "check_table"]

Workers = int | Literal["auto"]

_STEPS = ("embedding_step", "seenmask_step")
TABLES = (*_STEPS, "label_words")
"""Settings that are tables in TOML."""


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """One of the two training steps.

    Args:
        epochs: Passes over the step's images.
        batch_size: Images in a batch, of each process that trains.
        accumulation: Batches whose gradients make one step of the optimiser.
        learning_rate: Of the optimiser, at its peak.
        head_rate: Factor on the learning rate of the heads, which start from nothing.
        bias_rate: Factor on the learning rate of parameters of one dimension.
        optimizer: "adam", "adamw" or "sgd".
        momentum: Of "sgd".
        weight_decay: Of the optimiser, on weights of two or more dimensions.
        schedule: "constant", or "cosine" with a linear warm-up over `warmup` of the steps.
        warmup: Share of the steps.
        augment: Random scale, crop, flip and colour.
        ema: Decay per optimiser step of the moving average of the weights; 0 is none.
        early_stop: Epochs without a better score on the validation split after which the step
            ends; it keeps the best weights. 0 trains all epochs and keeps the last weights.
        checkpoint_every: Optimiser steps between two checkpoints within an epoch; 0 writes them
            between epochs alone.
    """

    epochs: int
    batch_size: int = 1
    accumulation: int = 1
    learning_rate: float = 1e-5
    head_rate: float = 1.0
    bias_rate: float = 1.0
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: float = 0.0
    augment: bool = False
    ema: float = 0.0
    early_stop: int = 0
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        _check_types(self)
        _check("epochs", self.epochs, self.epochs >= 1, "1 or more")
        _check("batch_size", self.batch_size, self.batch_size >= 1, "1 or more")
        _check("accumulation", self.accumulation, self.accumulation >= 1, "1 or more")
        _check("early_stop", self.early_stop, self.early_stop >= 0, "0 or more")
        _check("checkpoint_every", self.checkpoint_every, self.checkpoint_every >= 0, "0 or more")
        _check("learning_rate", self.learning_rate, _positive(self.learning_rate), "> 0")
        _check("head_rate", self.head_rate, _positive(self.head_rate), "> 0")
        _check("bias_rate", self.bias_rate, _positive(self.bias_rate), "> 0")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        _check("weight_decay", self.weight_decay, self.weight_decay >= 0, ">= 0")
        _check("warmup", self.warmup, 0 <= self.warmup < 1, "in [0, 1)")
        _check("ema", self.ema, 0 <= self.ema < 1, "in [0, 1)")
        _one_of("optimizer", self.optimizer, ("adam", "adamw", "sgd"))
        _one_of("schedule", self.schedule, ("constant", "cosine"))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run.

    The defaults are the thesis' (section 5), where the protocol makes no others, but for the
    seenmask, which is "statistics" unless the protocol is "thesis".

    Args:
        data: Folder of the data set.
        protocol: "modern" or "thesis": where `from_dict` takes defaults from.
        dataset: What the folder holds: "folder" (SZN's own format), "voc" or "context".
        drop_void: Leave out every image with a void pixel, as the thesis' code does with
            PASCAL-Context.
        train_split: Split that both steps choose their images from.
        val_split: Split that is evaluated.
        void: Classes treated as void.
        train_unseen: Classes that teach the seenmask what unseen looks like.
        unseen: The set U.
        backbone: Key of `szn_train.backbones.BACKBONES`.
        weights: "imagenet", "none" or a file of weights (see `szn_train.pretrained`).
        stride: Of the feature grid, 32, 16 or 8.
        padding: "same", or "caffe" for vgg16.
        pixels: "imagenet": RGB, normalised as the backbone's ImageNet weights expect; "caffe", for
            vgg16: BGR minus caffe's mean, not scaled.
        head_init: "small" random numbers without bias, or "torch": PyTorch's own for convolutions.
        embeddings: Source of the semantic model; "one-hot" is the identity, without semantics.
        dim: Dimensions j of the joint embedding space; training with "one-hot" sets it to the
            number of labels.
        label_words: Further words that mean the same as a label, pairs of a label and its words:
            it gets the mean of their vectors and of its own. Not with "one-hot" or an npz file.
        loss: "cosine"; "mse", to embeddings divided by the largest norm; "cosine_ce"; or
            "cross_entropy" of the embedding's own numbers, which makes the model FCN-S.
        reduction: Over the labelled pixels of an image: "mean" over those of the batch, or their
            "sum" averaged over the images.
        similarity_scale: Factor on the cosine in "cosine_ce", the refit and the statistics.
        refit_embedding: After the first step the embedding head is fitted anew, on frozen features
            and balanced cells ("cosine" and "cosine_ce" only; `szn_train.embedding_refit`).
        exposure: Weight of pixels of train_unseen in the first step, which then shall not prefer
            any seen label ("cosine" and "cosine_ce" only); 0 leaves their images out, as the thesis
            does.
        long_side: Frames are resized so that their longer side has this many pixels.
        resize: False leaves frames at their own size in training and evaluation; bundles still
            resize to `long_side`.
        crop_hw: Size of the crops that augmentation makes; multiples of the stride.
        seenmask: "statistics": a regression on numbers that tell how well a node looks known, with
            an operating point (`szn_train.seenmask_fit`); or "linear", the thesis' 1x1 convolution,
            trained in the second step.
        hold_share: Share of the training images, none with a class of U, that both steps leave out
            and on which the operating point of "statistics" is chosen; at most about 2,000 images.
        seenmask_drop: Points of train_seen mIoU that the operating point may cost on those.
        balance_seenmask: Weigh seen and unseen pixels equally in the loss of a linear seenmask;
            "statistics" balances them anyway.
        embedding_step: FCN and embedding head.
        seenmask_step: Linear seenmask head.
        precision: "fp32"; "bf16" or, on GPUs, "fp16" for mixed precision.
        workers: Processes that prepare batches for each that trains; 0 is none, "auto" as many as
            `szn_train.workers.worker_count` finds. They change no result.
        seed: Of every random choice.
    """

    data: str
    protocol: Protocol = "modern"
    dataset: Literal["folder", "voc", "context"] = "folder"
    drop_void: bool = False
    train_split: str = "train"
    val_split: str = "val"
    void: tuple[str, ...] = ()
    train_unseen: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    backbone: str = "vgg16"
    weights: str = "imagenet"
    stride: int = 32
    padding: Literal["same", "caffe"] = "same"
    pixels: Literal["imagenet", "caffe"] = "imagenet"
    head_init: Literal["small", "torch"] = "small"
    embeddings: str = "glove"
    dim: int = 20
    label_words: LabelWords = ()
    loss: Literal["cosine", "mse", "cosine_ce", "cross_entropy"] = "cosine"
    reduction: Literal["mean", "sum"] = "mean"
    similarity_scale: float = 10.0
    refit_embedding: bool = False
    exposure: float = 0.0
    long_side: int = 512
    resize: bool = True
    crop_hw: tuple[int, int] = (320, 320)
    seenmask: Literal["statistics", "linear"] = "statistics"
    hold_share: float = 0.125
    seenmask_drop: float = 1.5
    balance_seenmask: bool = False
    embedding_step: StepConfig = field(default_factory=lambda: StepConfig(epochs=30))
    seenmask_step: StepConfig = field(
        default_factory=lambda: StepConfig(epochs=10, learning_rate=1e-3)
    )
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    workers: Workers = "auto"
    seed: int = 1337

    def __post_init__(self) -> None:
        _check_types(self)
        _check("dim", self.dim, self.dim >= 2, "2 or more")
        _check("stride", self.stride, self.stride in {8, 16, 32}, "32, 16 or 8")
        _check("long_side", self.long_side, self.long_side >= 32, "32 or more")
        _check("similarity_scale", self.similarity_scale, _positive(self.similarity_scale), "> 0")
        _check("exposure", self.exposure, 0 <= self.exposure < math.inf, "0 or more")
        for key, fix in (
            ("exposure", "set it to 0"),
            ("refit_embedding", "give --no-refit-embedding"),
        ):
            if getattr(self, key) and self.loss not in {"cosine", "cosine_ce"}:
                raise UsageError(
                    f"{key} is about cosines",
                    got=f"loss {self.loss!r}",
                    expected="cosine, cosine_ce",
                    fix=f"{fix}, or choose such a loss",
                )
        _check("hold_share", self.hold_share, 0 < self.hold_share <= 0.5, "in (0, 0.5]")
        _check("seenmask_drop", self.seenmask_drop, 0 <= self.seenmask_drop < math.inf, "0 or more")
        _check("seed", self.seed, 0 <= self.seed < 2**32, "0 to 4294967295")
        fits = all(n > 0 and n % self.stride == 0 for n in self.crop_hw)
        _check("crop_hw", self.crop_hw, fits, f"two multiples of the stride {self.stride}")
        _one_of("dataset", self.dataset, ("folder", "voc", "context"))
        _one_of("loss", self.loss, ("cosine", "mse", "cosine_ce", "cross_entropy"))
        _one_of("seenmask", self.seenmask, ("statistics", "linear"))
        _one_of("reduction", self.reduction, ("mean", "sum"))
        if self.loss == "cross_entropy" and self.embeddings != "one-hot":
            raise UsageError(
                "the loss cross_entropy takes the embedding's numbers as scores of the labels",
                got=f"embeddings {self.embeddings!r}",
                expected="'one-hot'",
                fix="give --embeddings one-hot, or another loss",
            )
        if self.label_words and (self.embeddings == "one-hot" or self.embeddings.endswith(".npz")):
            raise UsageError(
                "label_words are looked up in word vectors",
                got=f"embeddings {self.embeddings!r}",
                fix="leave them out (--label-words ''), or give --embeddings glove",
            )
        named = self.weights in {"imagenet", "none"} or Path(self.weights).suffix != ""
        _check("weights", self.weights, named, "imagenet or none, or a .pth or .safetensors file")
        _one_of("padding", self.padding, ("same", "caffe"))
        _one_of("pixels", self.pixels, ("imagenet", "caffe"))
        _one_of("head_init", self.head_init, ("small", "torch"))
        _one_of("precision", self.precision, ("fp32", "bf16", "fp16"))
        _one_of("protocol", self.protocol, PROTOCOLS)

    @property
    def fits_seenmask(self) -> bool:
        """Whether a seenmask of statistics is fitted, for which images are held out."""
        return self.seenmask == "statistics" and bool(self.train_unseen)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as TOML and JSON hold them."""
        words = {label: list(words) for label, words in self.label_words}
        return {**asdict(self), "label_words": words}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Build from the values of a preset and the command line.

        Others have the defaults of the protocol that the values name.

        Raises:
            UsageError: If a key is unknown, `data` is missing or a value does not fit.
        """
        _no_others("preset", values, {item.name for item in fields(cls)})
        if not values.get("data"):
            raise UsageError("no data set is named", fix="give --data DIR")
        defaults = cls(data="")
        lower = protocol_defaults(values)
        converted: dict[str, Any] = {}
        for key, value in {**lower, **values}.items():
            if key in _STEPS:
                check_table(key, value)
                _no_others(f"preset [{key}]", value, {item.name for item in fields(StepConfig)})
                step = {**lower.get(key, {}), **value}
                converted[key] = replace(getattr(defaults, key), **step)
            elif key == "label_words":
                converted[key] = pairs_of(value)
            else:
                converted[key] = tuple(value) if isinstance(value, list) else value
        return cls(**converted)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_TYPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("an integer", _is_int),
    "float": ("a number", lambda value: _is_int(value) or isinstance(value, float)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "str": ("a text", lambda value: isinstance(value, str)),
    "tuple[str, ...]": (
        "a list of names",
        lambda value: isinstance(value, tuple) and all(isinstance(name, str) for name in value),
    ),
    "tuple[int, int]": (
        "a list of two integers",
        lambda value: isinstance(value, tuple) and len(value) == 2 and all(map(_is_int, value)),
    ),
    "Workers": (
        "auto, or an integer of 0 or more",
        lambda value: value == "auto" or (_is_int(value) and value >= 0),
    ),
    "LabelWords": ("a table of lists of words", is_label_words),
    "StepConfig": ("a table", lambda value: isinstance(value, StepConfig)),
}
"""Annotation of a field to what it is called and how it is checked."""


def _check_types(config: StepConfig | TrainConfig) -> None:
    """Refuse the values of a preset that have another type than the field."""
    for item in fields(config):
        annotation = "str" if str(item.type).startswith(("Literal", "Protocol")) else str(item.type)
        expected, fits = _TYPES[annotation]
        value = getattr(config, item.name)
        _check(item.name, value, fits(value), expected)


def check_table(name: str, value: object) -> None:
    """Refuse what is no table where a preset has to have one.

    Raises:
        UsageError: If it is none.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"preset [{name}]", got=value, expected="a table")


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _check(name: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise UsageError(f"configuration: {name}", got=value, expected=expected)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    _check(name, value, value in choices, " or ".join(choices))


def _no_others(what: str, values: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(values) - known)
    if unknown:
        raise UsageError(
            f"{what} has the unknown key {unknown[0]!r}", expected=", ".join(sorted(known))
        )
