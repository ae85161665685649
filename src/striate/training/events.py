"""Writes the metrics for TensorBoard."""

from __future__ import annotations

from pathlib import Path

from striate.errors import RunError
from striate.training.results import Epoch


def check_tensorboard() -> None:
    """Checks that TensorBoard is installed before a run begins.

    Raises:
        RunError: it isn't installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise RunError(
            "tensorboard", "isn't installed", remedy="pip install 'striate[tensorboard]', or leave the option out"
        ) from error


def write_events(folder: Path, epoch: Epoch) -> None:
    """Adds an epoch to the event files in a folder; epochs of a resumed run replace those that it had begun."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=epoch.epoch) as writer:
        for name, value in epoch.to_dict().items():
            if name != "epoch" and value is not None:
                part, _, rest = name.partition("_")
                tag = f"{rest}/{part}" if part in ("train", "val", "test") else name
                writer.add_scalar(tag, value, epoch.epoch)
