"""One training step: epochs, optimiser, schedule, moving average, early stop, checkpoints."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from szn_runtime.errors import TrainingError
from szn_train.batches import Batch, Batches
from szn_train.config import StepConfig
from szn_train.history import History
from szn_train.memory import memory_for
from szn_train.objectives import Loss, labelled_pixels
from szn_train.optimizer import build_optimizer, learning_rate
from szn_train.processes import Processes
from szn_train.progress import Progress

__all__ = ["Loss", "TrainingStep", "epoch_seed"]

Row = dict[str, str | int | float]


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
        processes: Those that share the run; by default this one alone.
        shared: The module whose gradients they average; by default the network.
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
        processes: Processes | None = None,
        shared: nn.Module | None = None,
    ) -> None:
        self._name, self._config, self._seed = name, config, seed
        self._network, self._trains_body = network, bool(body)
        self._processes = processes or Processes()
        self._shared = network if shared is None else shared
        self._optimizer = self._processes.optimizer(build_optimizer(config, body, heads))
        self._average = (
            AveragedModel(
                network,
                multi_avg_fn=get_ema_multi_avg_fn(config.ema),  # type: ignore[no-untyped-call]
                use_buffers=True,
            )
            if config.ema
            else None
        )
        self._best: dict[str, Any] = {}  # epoch and score

    def run(
        self,
        batches: Batches,
        loss: Loss,
        history: History,
        progress: Progress,
        *,
        weight: Callable[[Tensor], float] = labelled_pixels,
        score: Callable[[nn.Module], float] | None = None,
    ) -> None:
        """Train the epochs that the history does not hold yet.

        Args:
            batches: What is trained on.
            loss: Mean over a batch.
            history: Where the step goes on from and what it writes to.
            progress: Where bars and lines go.
            weight: How much a batch counts beside others (`Objective.weight`).
            score: Of a network on images that are not trained on, for the early stop; more is
                better.

        Raises:
            TrainingError: If the loss is not finite, or memory or disk are full. The last
                checkpoint stays as it is.
        """
        saved = history.checkpoint
        own = saved if saved and saved["step"] == self._name else None
        finished = history.finished_epochs(self._name)
        if finished and not own:
            return  # a later step's checkpoint holds the outcome of this one
        if own:
            self._restore(own)
        elif history.rows and self._config.early_stop:
            # From here on the best weights of the step before are overwritten, so a resumed run
            # must not go back to that step.
            history.save(self._state())
        for epoch in range(finished, self._config.epochs):
            if self._has_stopped(epoch):
                break
            row = self._epoch(epoch, batches, loss, weight, history, progress, own)
            own = None
            if self._config.early_stop and score is not None:
                row["score"] = self._keep_best(epoch + 1, score, history)
            history.record(row, self._state())
            progress.line(_line(row, self._config.epochs))
        if self._best:
            self._processes.wait()  # for the process that writes
            self._network.load_state_dict(history.best()["network"])
        elif self._average is not None:
            self._network.load_state_dict(self._average.module.state_dict())

    def _has_stopped(self, epoch: int) -> bool:
        """Whether too many of the `epoch` epochs so far brought nothing better."""
        return bool(self._best) and epoch - self._best["epoch"] >= self._config.early_stop

    def _keep_best(
        self, epoch: int, score: Callable[[nn.Module], float], history: History
    ) -> float:
        """Score the weights, and write them if they are the best so far."""
        trained = self._network if self._average is None else self._average.module
        modes = {module: module.training for module in trained.modules()}
        value = score(trained.eval())
        for module, training in modes.items():
            module.training = training
        if not math.isfinite(value):
            raise TrainingError(
                f"step {self._name!r} has no validation score",
                expected="a validation split that shows the classes of the step",
                fix="choose another --val-split, or early_stop = 0",
            )
        if not self._best or value > self._best["score"]:
            self._best = {"epoch": epoch, "score": value}
            state = {**self._state(), "network": trained.state_dict(), "optimizer": {}}
            history.save_best({**state, "average": {}})
        return value

    def _state(self, batches: int = 0, total: float = 0.0, images: int = 0) -> dict[str, Any]:
        """All that the step needs to go on, after some batches of an epoch."""
        return {
            "step": self._name,
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.state_dict() if self._average is not None else {},
            "scale": self._processes.scale_state(),
            "random": self._processes.random_state(),
            "best": dict(self._best),
            "batches": batches,
            "total": total,
            "images": images,
        }

    def _restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from a checkpoint of this step; the network has its weights already."""
        self._optimizer.load_state_dict(saved["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(saved["average"])
        self._processes.load_scale_state(saved.get("scale", {}))
        self._best = dict(saved.get("best", {}))

    def _epoch(
        self,
        epoch: int,
        batches: Batches,
        loss: Loss,
        weight: Callable[[Tensor], float],
        history: History,
        progress: Progress,
        own: Mapping[str, Any] | None,
    ) -> Row:
        """Train one epoch, or what a checkpoint within it leaves of it."""
        torch.manual_seed(epoch_seed(self._seed, self._name, epoch))
        order = batches.order()
        if self._processes.rank:  # what is drawn from here on differs between the processes
            torch.manual_seed(epoch_seed(self._seed, self._name, epoch, self._processes.rank))
        if self._trains_body:
            self._network.train()
        first, total, images = 0, 0.0, 0
        if own and own.get("batches"):
            first, total, images = own["batches"], own["total"], own["images"]
            self._processes.load_random_state(own["random"])
        config, rate, earlier = self._config, 0.0, images
        length, speed = len(batches), 0.0
        # The bar counts the batches of all epochs to come, so that the time left is the step's.
        with progress.task(
            f"{self._name} {epoch + 1}/{config.epochs}", length * (config.epochs - epoch) - first
        ) as task:
            drawn = batches.draw(order, first)
            drawn = chain(list(islice(drawn, 1)), drawn)
            started = time.perf_counter()  # the start of workers is no part of the speed
            for position, group in _groups(drawn, first, config.accumulation):
                rate = learning_rate(config, (epoch + position / length) / config.epochs)
                for parameters in self._optimizer.param_groups:
                    parameters["lr"] = rate * parameters["factor"]
                place = f"epoch {epoch + 1}, batch {position + 1}"
                group_total, group_images = self._update(group, loss, weight, place)
                total, images = total + group_total, images + group_images
                speed = (images - earlier) / (time.perf_counter() - started)
                for _ in group:
                    task.advance(
                        f"loss {total / images:.4f}, rate {rate:.2g}, {speed:.1f} images/s"
                    )
                done = position + len(group)
                if self._is_due(done, length):
                    history.save(self._state(done, total, images))
        return {
            "step": self._name,
            "epoch": epoch + 1,
            "loss": total / images,
            "learning_rate": rate,
            "images_per_s": speed,
        }

    def _placed(self, tensor: Tensor) -> Tensor:
        """On the device; pinned memory is copied while the CPU goes on."""
        return tensor.to(self._processes.device, non_blocking=tensor.is_pinned())

    def _is_due(self, batches: int, length: int) -> bool:
        """Whether a checkpoint is written after some batches of an epoch."""
        every = self._config.checkpoint_every * self._config.accumulation
        return bool(every) and batches % every == 0 and batches < length

    def _update(
        self, group: list[Batch], loss: Loss, weight: Callable[[Tensor], float], place: str
    ) -> tuple[float, int]:
        """One optimiser step over the batches of a group, on all processes.

        Each batch's mean counts by its weight, so that the gradient is that of one large batch.

        Returns:
            The sum of the batches' losses times their images, and the number of images.
        """
        processes = self._processes
        weights = [weight(target) for _, target in group]
        (whole,) = processes.total(sum(weights))
        self._optimizer.zero_grad(set_to_none=True)
        total, images = 0.0, 0
        for (frames, target), own in zip(group, weights, strict=True):
            size = f"a batch of {len(frames)} frames of {frames.shape[2]} x {frames.shape[3]}"
            last = target is group[-1][1]
            context = nullcontext() if last else processes.unsynced(self._shared)
            with context, memory_for(f"{size} in step {self._name!r}"):
                value = loss(self._placed(frames), self._placed(target).long())
                summed, count = processes.total(value.item() * len(frames), len(frames))
                if not math.isfinite(summed):  # all processes see it, and none waits for another
                    raise TrainingError(
                        f"the loss of step {self._name!r} is not finite in {place}",
                        got=value.item(),
                        fix="lower the learning rate; --resume goes on from the last checkpoint",
                    )
                # processes.count, because gradients are averaged over the processes
                share = processes.count * own / whole if whole else 1.0
                processes.backward(value * share)
            total, images = total + summed, images + int(count)
        with memory_for(f"the optimiser of step {self._name!r}"):
            self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self._network)
        return total, images


def epoch_seed(seed: int, step: str, epoch: int, rank: int = 0) -> int:
    """A seed for one epoch of one process: a resumed run draws what the unbroken one did."""
    name = f"{seed}/{step}/{epoch}" + (f"/{rank}" if rank else "")
    return zlib.crc32(name.encode())


def _groups(batches: Iterable[Batch], first: int, size: int) -> Iterator[tuple[int, list[Batch]]]:
    """Batches that share an optimiser step, and the position of the first of them."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield first, group
            first, group = first + size, []
    if group:
        yield first, group


def _line(row: Row, epochs: int) -> str:
    """An epoch in a line."""
    score = f", score {row['score']:.2f}" if "score" in row else ""
    return (
        f"{row['step']} {row['epoch']}/{epochs}: loss {row['loss']:.4f}, "
        f"{row['images_per_s']:.1f} images/s{score}"
    )
