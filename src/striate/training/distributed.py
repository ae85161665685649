"""Several processes that train one network: each computes its part of every batch, and all make the same step.

torchrun starts them and says by environment variables who they are; PyTorch's DistributedDataParallel adds up the
gradients while they are computed. Accelerate would put a layer around the same, with a loop of its own making in mind.

Where a process ends before its time the others can't go on: the next time that they wait for it they end with one line,
at the latest after :data:`PATIENCE`.
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
    """The processes of a run, seen from one of them; alone by default.

    Args:
        number: this one's, from 0; 0 leads, and only it writes files.
        size: how many there are.
        local: this one's number on its machine, which is also its GPU's.
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
        """Each process's own GPU, or the CPU."""
        return device if self.alone or device.type == "cpu" else torch.device(device.type, self.local)

    def wrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model, whose gradients become the mean over all processes, and whose buffers are those of the first."""
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
        """Whether one of all wishes it."""
        return wish if self.alone else bool(self.total(torch.tensor([float(wish)], device=device)).item())

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Gives all processes the first one's values."""
        if not self.alone:
            with self.waiting():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    def meet(self) -> None:
        """Waits until all are here."""
        if not self.alone:
            with self.waiting():
                dist.barrier()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for the others.

        Raises:
            RunError: one of them is gone.
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
                remedy="see what that one said, and start all anew with --resume",
            ) from error


def _is_lost(error: RuntimeError) -> bool:
    """Whether an error comes from the connection to other processes, rather than from what this one computes."""
    # Gloo raises plain RuntimeErrors, with the file of its source in front.
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))


@contextlib.contextmanager
def team() -> Iterator[Team]:
    """The processes that torchrun has started, connected while entered; without torchrun, this one alone.

    Raises:
        RunError: the others don't come.
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
