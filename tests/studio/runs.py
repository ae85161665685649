"""A run's folder as training writes it, step by step, without waiting for training."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from striate.data import Normalization, Preprocessing
from striate.tasks.evaluation import Evaluation
from striate.training.checkpoint import Checkpoint
from striate.training.folder import CHECKPOINT, EVALUATION, SETTINGS, WEIGHTS, append_metrics
from striate.training.recipe import Recipe
from striate.training.results import Epoch
from striate.training.run import Settings, versions


class Begun:
    """A run of LeNet-5 on the digits that a test trains as fast as it likes."""

    def __init__(self, path: Path, epochs: int = 4) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.recipe = Recipe("lenet5", epochs=epochs, out=str(path))
        how = Preprocessing(None, (28, 28), Normalization((0.2,), (0.3,)), mode="frame")
        self.settings = Settings(
            self.recipe, versions(), "cpu", 1, tuple("0123456789"), how, "digits", "none", 0.05, "sgd", False, False,
            1438, 359, 61_706,
        )  # fmt: skip
        (path / SETTINGS).write_text(json.dumps(self.settings.to_dict()))
        self.history: tuple[Epoch, ...] = ()

    def state(self, seed: int) -> dict[str, Tensor]:
        """Some weights."""
        torch.manual_seed(seed)
        return self.settings.new_model().state_dict()

    def checkpoint(self, seed: int, done: int = 0) -> dict[str, Tensor]:
        """Writes a checkpoint with these weights, after so many steps of the epoch that has begun."""
        state = self.state(seed)
        made = Checkpoint(self.recipe, versions(), self.history, 1.0, done, {}, state, {}, {}, {}, {})
        made.save(self.path / CHECKPOINT)
        return state

    def epoch(self, seed: int) -> dict[str, Tensor]:
        """Ends an epoch: a line of metrics and a checkpoint."""
        number = len(self.history) + 1
        measures = {"loss": 2.0 / number, "accuracy": 1 - 0.5 / number}
        made = Epoch(number, measures, {"loss": 2.1 / number, "accuracy": 1 - 0.6 / number}, "test", 0.01, 2.0, 700.0)
        self.history += (made,)
        append_metrics(self.path, made)
        return self.checkpoint(seed)

    def finish(self, seed: int) -> dict[str, Tensor]:
        """Ends the run as training does: weights, the evaluation, and the checkpoint goes last."""
        state = self.state(seed)
        save_file({name: each.contiguous() for name, each in state.items()}, self.path / WEIGHTS)
        labels = torch.arange(40) % 10
        made = Evaluation.of(labels, (labels + (torch.arange(40) % 7 == 0)) % 10, self.settings.classes, 0.25)
        (self.path / EVALUATION).write_text(json.dumps(made.to_dict()))
        (self.path / CHECKPOINT).unlink()
        return state
