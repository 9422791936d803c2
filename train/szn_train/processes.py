"""The processes that share a run, the device of each and its number format, through accelerate.

One process on the CPU is the plain case. `torchrun --nproc-per-node N -m szn_train.cli` and
`accelerate launch` start several; each trains on its share of every batch, and their gradients are
averaged.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from szn_runtime.errors import MissingDependencyError, TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Processes"]

_LONGEST_WAIT = timedelta(hours=24)
"""That processes wait for one another. While the first one fits an embedding head or a seenmask of
statistics to a large data set the others wait, which torch breaks off after 10 minutes on GPUs and
30 on CPUs, and again in every resumed run. A process that dies is no reason for a short one: the
launcher ends the others."""

_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class Processes:
    """This process among those of a run.

    Args:
        precision: "fp32"; "bf16" or "fp16" for mixed precision, where weights stay in fp32.

    Attributes:
        device: Of this process.
        count: Number of processes.
        rank: Of this one, from 0.

    Raises:
        TrainingError: If the device cannot do the precision.
        MissingDependencyError: If accelerate is not installed.
    """

    def __init__(self, precision: str = "fp32") -> None:
        try:
            from accelerate import Accelerator
            from accelerate.state import AcceleratorState
            from accelerate.utils import InitProcessGroupKwargs
        except ImportError as error:
            raise MissingDependencyError(
                "accelerate is not installed", fix='pip install "szn[train]"'
            ) from error
        if precision == "fp16" and not torch.cuda.is_available():
            raise TrainingError("fp16 needs a GPU", fix="train with --precision bf16 or fp32")
        # accelerate keeps its state for the life of the process and refuses another precision,
        # which a second run in the same process may have; the process group stays as it is
        AcceleratorState._reset_state()
        # without the flag accelerate takes several processes on CPUs for one
        self._accelerator: Accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=_MIXED[precision],
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_LONGEST_WAIT)],
        )
        self.device: torch.device = self._accelerator.device
        self.count: int = self._accelerator.num_processes
        self.rank: int = self._accelerator.process_index

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def shared(self, module: nn.Module) -> nn.Module:
        """The module on this device, its gradients averaged over the processes."""
        prepared: nn.Module = self._accelerator.prepare_model(module)
        return prepared

    def placed(self, network: nn.Module) -> nn.Module:
        """A network on this device; on several GPUs batch-norm counts the frames of all."""
        if self.count > 1 and self.device.type == "cuda":
            from timm.layers import convert_sync_batchnorm

            network = convert_sync_batchnorm(network)
        return network.to(self.device)

    def optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimiser with what the precision needs: fp16 scales the loss."""
        prepared: torch.optim.Optimizer = self._accelerator.prepare_optimizer(optimizer)
        return prepared

    def autocast(self) -> Any:
        """Context in which operations run in the run's precision."""
        return self._accelerator.autocast()

    def unsynced(self, module: nn.Module) -> Any:
        """Context in which gradients of a shared module stay with this process."""
        return self._accelerator.no_sync(module)

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss."""
        self._accelerator.backward(loss)

    def total(self, *values: float) -> list[float]:
        """Sums of numbers over the processes."""
        if self.count == 1:
            return list(values)
        local = torch.tensor(values, dtype=torch.float64, device=self.device)
        summed: list[float] = self._accelerator.reduce(local, reduction="sum").tolist()
        return summed

    def gathered(self, value: Any) -> list[Any]:
        """A small object of every process, by rank."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return list(gather_object([value]))

    def broadcast(self, module: nn.Module) -> None:
        """Give the module of every process the parameters of the first one's; the others wait."""
        if self.count == 1:
            return
        from accelerate.utils import broadcast

        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(broadcast(parameter.detach().contiguous()))

    def wait(self) -> None:
        """Until every process is here."""
        self._accelerator.wait_for_everyone()

    def end(self) -> None:
        """Leave the process group: nothing is shared any more."""
        self._accelerator.end_training()

    def scale_state(self) -> dict[str, Any]:
        """State of the loss scale of fp16, else empty."""
        scaler = self._accelerator.scaler
        return {} if scaler is None else dict(scaler.state_dict())

    def load_scale_state(self, state: dict[str, Any]) -> None:
        """Go on with a loss scale."""
        if state and self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state)

    def random_state(self) -> list[dict[str, Tensor]]:
        """State of torch's generators of every process, by rank."""
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return self.gathered(state)

    def load_random_state(self, states: list[dict[str, Tensor]]) -> None:
        """Set this process's generators to what `random_state` told.

        Raises:
            TrainingError: If there were another number of processes.
        """
        if len(states) != self.count:
            raise TrainingError(
                "the checkpoint is of another number of processes",
                got=self.count,
                expected=len(states),
                fix="resume with as many",
            )
        state = states[self.rank]
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.device)
