"""Processes that share a module: python -m torch.distributed.run ... -m tests.train.broadcaster."""

from __future__ import annotations

import torch
from torch import nn

from szn_train.processes import Processes


def main() -> None:
    processes = Processes()
    module = nn.Conv2d(2, 1, kernel_size=1).to(processes.device)
    own = 2.0 + processes.rank
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(own)
    processes.broadcast(module)
    values = [x for parameter in module.parameters() for x in parameter.flatten().tolist()]
    print(f"rank {processes.rank}: {values}, was {own}\n", end="", flush=True)
    processes.end()


if __name__ == "__main__":
    main()
