"""A run in a process of its own, which tests kill or start several of.

python -m tests.train.worker CONFIG.json FOLDER [resume]
python -m torch.distributed.run --nproc-per-node 2 -m tests.train.worker CONFIG.json FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from szn_train.backbones import BACKBONES, Backbone, BackboneInfo
from szn_train.config import TrainConfig
from szn_train.processes import Processes
from szn_train.progress import Progress
from szn_train.trainer import train


def plain(*, stride: int, **_: Any) -> Backbone:
    """A backbone without batch-norm, whose statistics processes would not share on a CPU."""
    info = BackboneInfo(
        name="plain", channels=6, stride=stride, node_offset=(stride - 1) / 2, multiple=stride,
        mean=(127.5,) * 3, std=(127.5,) * 3,
    )  # fmt: skip
    body = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(8), nn.Conv2d(6, 6, 3, padding=1),
        nn.ReLU(), nn.AvgPool2d(stride // 8),
    )  # fmt: skip
    return Backbone(body, info)


def main(config: str, folder: str, *options: str) -> None:
    BACKBONES["plain"] = plain
    torch.set_num_threads(1)
    values = json.loads(Path(config).read_text())
    train(
        TrainConfig.from_dict(values),
        Path(folder),
        progress=Progress(quiet=True),
        resume="resume" in options,
    )
    Processes(values.get("precision", "fp32")).end()


if __name__ == "__main__":
    main(*sys.argv[1:])
