"""Where the defaults of a configuration come from: this toolkit, or the thesis' public code.

`docs/training.md` says what the thesis protocol reproduces and what it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["PROTOCOLS", "Protocol", "protocol_defaults"]

Protocol = Literal["modern", "thesis"]

PROTOCOLS: tuple[Protocol, ...] = ("modern", "thesis")

_THESIS: Mapping[str, Any] = {
    "backbone": "vgg16",
    "stride": 32,
    "padding": "caffe",
    "pixels": "caffe",
    "head_init": "torch",
    "resize": False,
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
        return _THESIS_FCN_S if softmax else _THESIS
    return {"embeddings": "one-hot"} if softmax else {}
