"""Several processes that train one network: each computes its part of every batch, and all take the same step.

torchrun starts the processes and identifies them by environment variables. PyTorch's DistributedDataParallel adds up
the gradients while they are computed. (The package Accelerate would be another layer around this, for training loops of
another form.)

If a process ends early, the others can't continue. The next time they wait for it, they end with a one-line error, at
the latest after :data:`PATIENCE`.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from striate.errors import RunError, StriateError

#: How long one process waits for another, which may be loading data or writing a checkpoint.
PATIENCE: Final = datetime.timedelta(minutes=10)


@dataclass(frozen=True)
class Team:
    """The processes of a run, from the view of one of them; by default there is only one.

    Args:
        number: of this process, from 0. Process 0 is the leader; only the leader writes files.
        size: number of processes.
        local: number of this process on its machine, which is also the number of its GPU.
    """

    number: int = 0
    size: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        return self.number == 0

    @property
    def alone(self) -> bool:
        return self.size == 1

    def device(self, device: torch.device) -> torch.device:
        """The process's own GPU, or the CPU."""
        return device if self.alone or device.type == "cpu" else torch.device(device.type, self.local)

    def wrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """Wraps the model: its gradients become the mean over all processes, its buffers those of the leader."""
        if self.alone:
            return model
        with self.waiting():
            return DistributedDataParallel(model)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in each."""
        if self.alone:
            return tensor
        result = tensor.clone()
        with self.waiting():
            dist.all_reduce(result)
        return result

    def any(self, wish: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process."""
        return wish if self.alone else bool(self.total(torch.tensor([float(wish)], device=device)).item())

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Broadcasts the leader's values to all processes."""
        if not self.alone:
            with self.waiting():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    def meet(self) -> None:
        """Waits until all processes have called this."""
        if not self.alone:
            with self.waiting():
                dist.barrier()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A context for operations that wait for the other processes.

        Raises:
            RunError: another process has ended.
        """
        try:
            yield
        except StriateError:
            raise
        except RuntimeError as error:
            if self.alone or not _is_lost(error):
                raise
            raise RunError(
                f"process {self.number} of {self.size}",
                f"lost another one ({str(error).partition(chr(10))[0]})",
                remedy="see the message of that process, and start all processes again with --resume",
            ) from error


def _is_lost(error: RuntimeError) -> bool:
    """Whether an error comes from the connection to other processes, and not from this process's computation."""
    # Gloo raises plain RuntimeErrors that begin with the name of its source file.
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))


@contextlib.contextmanager
def team() -> Iterator[Team]:
    """The processes that torchrun has started, connected within a ``with`` block; without torchrun, only this process.

    Raises:
        RunError: the other processes don't connect.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield Team()
        return
    number, size, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    members = Team(number, size, local)
    if torch.cuda.is_available():
        torch.cuda.set_device(local)
    with members.waiting():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield members
    finally:
        dist.destroy_process_group()
