"""Where the defaults of a configuration come from: this toolkit, or the thesis' public code.

`docs/training.md` says what the thesis protocol reproduces and what it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["PROTOCOLS", "Protocol", "protocol_defaults", "under_protocol"]

Protocol = Literal["modern", "thesis"]

PROTOCOLS: tuple[Protocol, ...] = ("modern", "thesis")

_NO_RECIPE = {
    *("data", "dataset", "drop_void", "train_split", "val_split"),
    *("void", "train_unseen", "unseen", "embeddings", "dim", "label_words", "seed", "workers"),
}
"""What a configuration says of data, labels and the machine, whatever trains on them."""

_THESIS: Mapping[str, Any] = {
    "backbone": "vgg16",
    "stride": 32,
    "padding": "caffe",
    "pixels": "caffe",
    "head_init": "torch",
    "resize": False,
    "seenmask": "linear",
    "long_side": 500,  # the longer side of VOC's images, for bundles
    "embedding_step": {"epochs": 30, "batch_size": 1, "learning_rate": 1e-5, "bias_rate": 2.0},
    "seenmask_step": {"epochs": 10, "batch_size": 1, "learning_rate": 1e-3, "bias_rate": 2.0},
}

_THESIS_FCN_S: Mapping[str, Any] = {
    **_THESIS,
    "embeddings": "one-hot",
    "reduction": "sum",  # hence the tiny learning rate
    "embedding_step": {
        "epochs": 30,
        "batch_size": 1,
        "optimizer": "sgd",
        "learning_rate": 1e-10,
        "momentum": 0.99,
        "weight_decay": 5e-4,
        "bias_rate": 2.0,
    },
}


def protocol_defaults(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Defaults that lie under the values of a preset and the command line.

    Args:
        values: They name the protocol, by default "modern", and the loss: FCN-S, which is the loss
            "cross_entropy", has a recipe of its own.

    Returns:
        Values as `TrainConfig.from_dict` takes them; what is not named keeps the defaults of
        `TrainConfig`.
    """
    softmax = values.get("loss") == "cross_entropy"
    if values.get("protocol") == "thesis":
        recipe = _THESIS_FCN_S if softmax else _THESIS
        # the public code leaves out images of PASCAL-Context with any void pixel
        return {**recipe, "drop_void": values.get("dataset") == "context"}
    return {"embeddings": "one-hot"} if softmax else {}


def under_protocol(values: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    """Values of presets when a protocol is asked for after them.

    A protocol other than theirs brings a recipe of its own, so that theirs goes; data, classes and
    embeddings stay.
    """
    if values.get("protocol", "modern") == protocol:
        return dict(values)
    kept = {key: value for key, value in values.items() if key in _NO_RECIPE}
    return {**kept, "protocol": protocol}
