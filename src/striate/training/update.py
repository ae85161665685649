"""A training step: updates a network's weights with a batch."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from striate.tasks.task import Criterion, Task, pieces
from striate.training.activations import recompute
from striate.training.distributed import Team
from striate.training.ema import Average
from striate.training.muon import Muon
from striate.training.recipe import Recipe
from striate.training.transfer import Learning

#: From this number of input channels on, CPU kernels for convolutions are faster in channels last.
_MANY_CHANNELS: Final = 64
#: Learning rates for trained weights. Larger ones distort the weights first, and a few images can't repair them.
_FINE_TUNING: Final = {"sgd": 1e-3, "adamw": 1e-4, "muon": 1e-4}
_RATES: Final = {"sgd": 0.05, "adamw": 1e-3, "muon": 1e-3}
_DTYPES: Final = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Updates:
    """A network with everything that changes it: loss, optimizer, precision, the moving average of its weights.

    Args:
        model: on its device; this class freezes its frozen parts.
        recipe: the settings.
        task: the task that the network is trained for.
        images: the training images.
        team: the processes that take each step together.
        learning_rate: the highest one; None for the default of optimizer and network.
        optimizer: its name; None for the network's default.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        recipe: Recipe,
        task: Task,
        images: Any,
        team: Team,
        learning_rate: float | None = None,
        optimizer: str | None = None,
    ) -> None:
        self.recipe, self.team, self.task = recipe, team, task
        self.channels = int(images.channels)
        self.device = next(model.parameters()).device
        learning = Learning.of(model, recipe, task, len(images.classes))
        self.still = learning.still
        self.peak = peak(model, recipe) if learning_rate is None else learning_rate
        self.optimizer = _optimizer(learning, recipe, self.peak, optimizer or stepper(model, recipe), _matrices(model))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self.criterion: Criterion = task.criterion(model, images)
        by_engine = self.device.type == "cpu" and recipe.engine != "aten"
        if by_engine:
            task.accelerated(model)
            if _is_wide(model):
                model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = None if recipe.ema is None else Average(model, recipe.ema)
        if by_engine and self.average is not None:
            task.accelerated(self.average.model)
        if recipe.checkpoint_activations:
            recompute(model)
        self.model, self.network = model, team.wrap(model)

    @property
    def tested(self) -> torch.nn.Module:
        """The network that is tested and saved."""
        return self.model if self.average is None else self.average.model

    def train(self) -> None:
        """Sets training mode, except for layers that stay in evaluation mode."""
        self.model.train()
        for layer in self.still:
            layer.eval()

    def step(self, images: Any, targets: Any, *, rate: float, number: int, whole: int) -> dict[str, Tensor]:
        """A step with one batch.

        Args:
            images: this process's part of the batch, from the task's batches; it may be empty.
            targets: the labels or annotations of the images.
            rate: the learning rate.
            number: of the step in the run, from 0.
            whole: images in the batch, of all processes together.

        Returns:
            Scalars by name, from the task's criterion. A mean is this part's contribution to the mean over the batch; a
            count is this part's own.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.zero_grad()
        measured = self._gradients(images, targets, whole)
        clip_norm = self.task.clip_norm if self.recipe.clip_norm is None else self.recipe.clip_norm
        if clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.follow(self.model, number)
        return measured

    def _gradients(self, images: Any, targets: Any, whole: int) -> dict[str, Tensor]:
        counted = len(images)
        if not counted:  # the other processes need gradients anyway: those of an image that doesn't count
            images, targets = self.task.nothing(images, targets, self.channels, self.device)
        measured: dict[str, list[Tensor]] = {}
        parts = min(self.recipe.accumulate, len(images))
        for left, image, target in zip(
            reversed(range(parts)), pieces(images, parts), pieces(targets, parts), strict=True
        ):
            alone = self.network.no_sync() if left and isinstance(self.network, DistributedDataParallel) else None
            with alone or contextlib.nullcontext(), self.team.waiting():
                with torch.autocast(
                    self.device.type, _DTYPES[self.recipe.precision], enabled=self.recipe.precision != "float32"
                ):
                    found = self.criterion(self.network, image, target)
                share = len(image) / whole if counted else 0.0
                loss = found["loss"] * share
                # DistributedDataParallel computes the mean over the processes, but the sum is needed.
                self.scaler.scale(loss * self.team.size).backward()
            for name, value in found.items():
                scale = share if value.is_floating_point() else counted > 0
                measured.setdefault(name, []).append(value.detach() * scale)
        return {name: torch.stack(values).sum() for name, values in measured.items()}

    def state(self) -> dict[str, Any]:
        """The state that a step depends on and changes, besides the network itself, for a checkpoint."""
        return {
            "optimizer": self.optimizer.state_dict()["state"],
            "average": {} if self.average is None else self.average.model.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(
        self, optimizer: dict[int, dict[str, Tensor]], average: dict[str, Tensor], scaler: dict[str, float]
    ) -> None:
        """Restores the result of :meth:`state`."""
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": optimizer})
        if self.average is not None:
            self.average.model.load_state_dict(average)
        if scaler:
            self.scaler.load_state_dict(scaler)


def _is_wide(model: torch.nn.Module) -> bool:
    convolutions = (layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d))
    return any(layer.in_channels >= _MANY_CHANNELS for layer in convolutions)


def stepper(model: torch.nn.Module, recipe: Recipe) -> str:
    """The optimizer's name: the recipe's, or the network's own, or the default for random or trained weights."""
    return recipe.optimizer or ("adamw" if recipe.weights is not None else _own(model))


def peak(model: torch.nn.Module, recipe: Recipe) -> float:
    """The highest learning rate: the recipe's, or the default for the optimizer and the network's loss."""
    if recipe.learning_rate is not None:
        return recipe.learning_rate
    chosen = stepper(model, recipe)
    if recipe.weights is not None:
        return _FINE_TUNING[chosen]
    return float(getattr(model, "learning_rate", _RATES[chosen])) if chosen == _own(model) else _RATES[chosen]


def _own(model: torch.nn.Module) -> str:
    return str(getattr(model, "optimizer", "sgd"))


def _matrices(model: torch.nn.Module) -> set[int]:
    """The ids of weights that are matrices from channels to channels: those of linear layers and convolutions, except
    depthwise ones, which don't mix channels."""
    layers = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    weights = [layer.weight for layer in model.modules() if isinstance(layer, layers)]
    return {id(weight) for weight in weights if weight.shape[1] > 1}


def _optimizer(learning: Learning, recipe: Recipe, peak: float, name: str, matrices: set[int]) -> torch.optim.Optimizer:
    """The optimizer of that name. Biases and other 1-D parameters don't decay."""

    def kind(parameter: Tensor) -> tuple[bool, bool]:
        return parameter.dim() > 1, name == "muon" and id(parameter) in matrices

    groups = [
        {"params": chosen, "weight_decay": recipe.weight_decay * decays, "factor": factor, "matrices": matrix}
        for parameters, factor in learning.groups
        for decays, matrix in ((True, True), (True, False), (False, False))
        if (chosen := [parameter for parameter in parameters if kind(parameter) == (decays, matrix)])
    ]
    if name == "muon":
        return Muon(groups, lr=peak, momentum=recipe.momentum, betas=(recipe.momentum, 0.999))
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=peak, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(groups, lr=peak, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
