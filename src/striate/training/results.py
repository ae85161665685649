"""The measures of each epoch, as plain frozen values that convert to and from JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from striate.errors import RunError
from striate.tasks.task import Goal

#: Fields of every epoch; the names of other measures begin with their part of the data.
_COUNTED: Final = ("epoch", "learning_rate", "seconds", "images_per_second")
_PARTS: Final = ("train", "test", "val")


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images: a line of ``metrics.jsonl``.

    Args:
        epoch: its number, from 1.
        train: measures of the training images, ``{"loss": 0.3, "accuracy": 0.9}``: means over the epoch, while the
            weights changed, and with label smoothing and augmentation.
        held_out: measures of held-out images with the weights at the epoch's end; the task defines the measures.
        part: the part of the held-out images: ``"val"`` if there is a validation set (the test set is then used only
            once, at the end of the run), else ``"test"``.
        learning_rate: of the last step.
        seconds: of training, without testing and checkpoints.
        images_per_second: of training, without testing and checkpoints.

    Each measure is also an attribute, ``train_loss`` or ``test_accuracy``; measures of the unused held-out part are
    None.
    """

    epoch: int
    train: Mapping[str, float]
    held_out: Mapping[str, float]
    part: str
    learning_rate: float
    seconds: float
    images_per_second: float

    def __getattr__(self, name: str) -> float | None:
        part, _, measure = name.partition("_")
        if part == "train" and measure in self.train:
            return self.train[measure]
        if part in ("test", "val") and measure in self.held_out:
            return self.held_out[measure] if part == self.part else None
        raise AttributeError(f"an epoch of this task has no {name!r}")

    def to_dict(self) -> dict[str, Any]:
        """All fields and measures under flat names, ``train_loss``, ``test_accuracy``, for JSON."""
        held_out = {
            part: {f"{part}_{name}": value if part == self.part else None for name, value in self.held_out.items()}
            for part in ("test", "val")
        }
        return {
            "epoch": self.epoch,
            **{f"train_{name}": value for name, value in self.train.items()},
            **held_out["test"],
            "learning_rate": self.learning_rate,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            **held_out["val"],
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Epoch:
        """The inverse of :meth:`to_dict`.

        Raises:
            RunError: fields that are missing or unknown.
        """
        measures: dict[str, dict[str, float]] = {part: {} for part in _PARTS}
        odd = [name for name in fields if name not in _COUNTED and name.partition("_")[0] not in _PARTS]
        if odd or not fields.keys() >= set(_COUNTED):
            wrong = ", ".join(odd or sorted(set(_COUNTED) - fields.keys()))
            raise RunError("epoch", f"missing or unknown: {wrong}", "needed the fields of this striate")
        for name, value in fields.items():
            part, _, measure = name.partition("_")
            if part in _PARTS and value is not None:
                measures[part][measure] = value
        part = "val" if measures["val"] else "test"
        counted = {name: fields[name] for name in _COUNTED}
        return cls(train=measures["train"], held_out=measures[part], part=part, **counted)


def best_epoch(history: Sequence[Epoch], goal: Goal) -> int:
    """The number, from 1, of the best epoch by a task's goal; the first of several; 0 if there are no epochs."""
    return goal.best([epoch.held_out[goal.measure] for epoch in history])
