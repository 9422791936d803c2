"""One training step: epochs, optimiser, schedule, moving average, checkpoints."""

from __future__ import annotations

import time
import zlib

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from szn_runtime.errors import TrainingError
from szn_train.batches import Batches
from szn_train.config import StepConfig
from szn_train.history import History
from szn_train.objectives import Loss
from szn_train.optimizer import build_optimizer, learning_rate
from szn_train.progress import Progress

__all__ = ["Loss", "TrainingStep", "epoch_seed", "learning_rate"]


class TrainingStep:
    """The loop of one step over a network whose parameters it trains in part.

    Args:
        name: "embedding" or "seenmask"; rows of the history carry it.
        config: The step's configuration.
        seed: Seed of the run.
        network: What is trained.
        body: Parameters at the learning rate; if there are any, the network is put in training
            mode for each epoch.
        heads: Parameters at the learning rate times `head_rate`.
    """

    def __init__(
        self,
        name: str,
        config: StepConfig,
        *,
        seed: int,
        network: nn.Module,
        body: list[nn.Parameter],
        heads: list[nn.Parameter],
    ) -> None:
        self._name, self._config, self._seed = name, config, seed
        self._network, self._trains_body = network, bool(body)
        self._optimizer = build_optimizer(config, body, heads)
        self._average = (
            AveragedModel(
                network,
                multi_avg_fn=get_ema_multi_avg_fn(config.ema),  # type: ignore[no-untyped-call]
                use_buffers=True,
            )
            if config.ema
            else None
        )

    def run(self, batches: Batches, loss: Loss, history: History, progress: Progress) -> None:
        """Train the epochs that the history does not hold yet.

        Raises:
            TrainingError: If the loss is not finite. The last checkpoint stays as it is.
        """
        saved = history.checkpoint
        own = saved if saved and saved["step"] == self._name else None
        if own:
            self._optimizer.load_state_dict(own["optimizer"])
            if self._average is not None:
                self._average.load_state_dict(own["average"])
        epochs = range(history.finished_epochs(self._name), self._config.epochs)
        for epoch in epochs:
            torch.manual_seed(epoch_seed(self._seed, self._name, epoch))
            if self._trains_body:
                self._network.train()
            row = self._epoch(epoch, batches, loss, progress)
            average = self._average
            history.record(
                row,
                {
                    "step": self._name,
                    "network": self._network.state_dict(),
                    "optimizer": self._optimizer.state_dict(),
                    "average": average.state_dict() if average is not None else {},
                },
            )
        # A checkpoint of a later step holds this step's average as its network already.
        if self._average is not None and (epochs or own):
            self._network.load_state_dict(self._average.module.state_dict())

    def _epoch(
        self, epoch: int, batches: Batches, loss: Loss, progress: Progress
    ) -> dict[str, str | int | float]:
        total, images, rate = 0.0, 0, 0.0
        epochs, started = self._config.epochs, time.perf_counter()
        # The bar counts the batches of all epochs to come, so that the time left is the step's.
        with progress.task(
            f"{self._name} {epoch + 1}/{epochs}", len(batches) * (epochs - epoch)
        ) as task:
            for position, (frames, target) in enumerate(batches):
                done = (epoch + position / len(batches)) / epochs
                rate = learning_rate(self._config, done)
                for group in self._optimizer.param_groups:
                    group["lr"] = rate * group["factor"]
                self._optimizer.zero_grad(set_to_none=True)
                value = loss(frames, target)
                if not torch.isfinite(value):
                    raise TrainingError(
                        f"the loss of step {self._name!r} is not finite in epoch {epoch + 1}, "
                        f"batch {position + 1}",
                        got=value.item(),
                        fix="lower the learning rate; --resume goes on from the last checkpoint",
                    )
                value.backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()
                if self._average is not None:
                    self._average.update_parameters(self._network)
                total += value.item() * len(frames)
                images += len(frames)
                seconds = time.perf_counter() - started
                task.advance(
                    f"loss {total / images:.4f}, rate {rate:.2g}, {images / seconds:.1f} images/s"
                )
        return {
            "step": self._name,
            "epoch": epoch + 1,
            "loss": total / images,
            "learning_rate": rate,
            "images_per_s": images / (time.perf_counter() - started),
        }


def epoch_seed(seed: int, step: str, epoch: int) -> int:
    """A seed for one epoch, so that a resumed run draws what the unbroken one would have."""
    return zlib.crc32(f"{seed}/{step}/{epoch}".encode())
