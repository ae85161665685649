"""The training loop, which ends with the same numbers however often it is killed on the way.

What makes that exact: every random stream starts from the seed, the order of epoch k depends on the seed and k alone,
the learning rate is a function of the step, and a checkpoint has all the rest.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save
from torch import Tensor

from striate import data
from striate.errors import RunError
from striate.training import samples
from striate.training.assess import Assessment, assess, loss_of
from striate.training.checkpoint import Checkpoint, own_copies
from striate.training.display import Display
from striate.training.environment import Stop, random_state, set_random_state
from striate.training.files import sync_folder, write_json, write_whole
from striate.training.folder import (
    CHECKPOINT,
    EVALUATION,
    SAMPLES,
    WEIGHTS,
    append_metrics,
    go_on,
    write_metrics,
)
from striate.training.recipe import Recipe
from striate.training.results import Epoch, Evaluation
from striate.training.run import Settings, versions
from striate.training.schedule import learning_rate

_GLANCE: Final = 0.1  # seconds between looks at the losses, which wait for a GPU
_EVEN, _MISTAKES = 16, 8  # held-out images that a run keeps: some over the whole set, and the worst mistakes
_DELETE: Final = "restore the run's own file, or delete the folder and train anew"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while training; the message says where it stopped and how to go on."""


class Training:
    """A run that is going on. The epoch that has begun is ``len(history)``, of which ``done`` batches are done.

    Args:
        path: the run's folder, locked.
        settings: what the run is made with.
        split: its images.
        display: who watches.
        stop: whether to stop at the next step.
    """

    def __init__(self, path: Path, settings: Settings, split: data.Split, display: Display, stop: Stop) -> None:
        recipe = settings.recipe
        self.path, self.settings, self.recipe = path, settings, recipe
        self.display, self.stop = display, stop
        self.device = torch.device(settings.device)
        self.model = settings.new_model().to(self.device).train()
        self.peak = _peak(self.model, recipe)
        self.optimizer = _optimizer(self.model, recipe, self.peak)
        self.loss = loss_of(self.model, recipe.label_smoothing)
        self.batches = data.Batches(
            split.train, recipe.batch_size, settings.normalization, shuffle_seed=recipe.seed, device=self.device
        )
        self.test_batches = data.Batches(split.test, recipe.batch_size, settings.normalization, device=self.device)
        self.history: tuple[Epoch, ...] = ()
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        # One cell a batch, on the device: nothing is read back while the epoch runs, and sums don't depend on when.
        self.losses = torch.zeros(len(self.batches), device=self.device)
        self.correct = torch.zeros(len(self.batches), dtype=torch.int64, device=self.device)
        self.done, self.seconds = 0, 0.0

    def run(self) -> None:
        """Trains from the checkpoint, if there is one, to the end."""
        if (self.path / CHECKPOINT).exists():
            self._restore(Checkpoint.load(self.path / CHECKPOINT))
        else:
            self._save()
        write_metrics(self.path, self.history)
        while len(self.history) < self.recipe.epochs:
            self._train()
            tested = self._test()
            self.history += (self._measured(tested.evaluation),)
            self._begin_epoch()
            self._save()
            append_metrics(self.path, self.history[-1])
            self.display.epoch(self.history[-1])
        self._finish()

    def _train(self) -> None:
        """Goes through the rest of the epoch."""
        self.model.train()
        saved = lap = time.perf_counter()
        for images, labels in self.batches.epoch(len(self.history), start=self.done):
            self._step(images, labels)
            now = time.perf_counter()
            if now - lap > _GLANCE or self.stop.asked:
                self.seconds += now - lap
                self._show()
                if self.stop.asked or now - saved > self.recipe.checkpoint_every:
                    self._save()
                    self._halt_if_asked()
                    saved = time.perf_counter()
                lap = time.perf_counter()
        self._check()  # waits for the device, so that the clock is right
        self.seconds += time.perf_counter() - lap

    def _step(self, images: Tensor, labels: Tensor) -> None:
        rate = self._rate(self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        output = self.model(images)
        loss = self.loss(output, labels)
        self.optimizer.zero_grad()
        loss.backward()
        if self.recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            self.losses[self.done] = loss
            self.correct[self.done] = (output.argmax(1) == labels).sum()
        self.done += 1

    def _rate(self, batch: int) -> float:
        recipe, batches = self.recipe, len(self.batches)
        return learning_rate(
            len(self.history) * batches + batch,
            recipe.epochs * batches,
            peak=self.peak,
            schedule=recipe.schedule,
            warmup=recipe.warmup,
        )

    def _test(self) -> Assessment:
        return assess(self.model, self.test_batches, each_batch=self._halt_if_asked)

    def _measured(self, tested: Evaluation) -> Epoch:
        if not math.isfinite(tested.loss):
            raise self._diverged(f"the test loss is {tested.loss}")
        loss, accuracy = self._means()
        images = len(self.batches.images)
        return Epoch(
            epoch=len(self.history) + 1,
            train_loss=loss,
            train_accuracy=accuracy,
            test_loss=tested.loss,
            test_accuracy=tested.accuracy,
            learning_rate=self._rate(len(self.batches) - 1),
            seconds=self.seconds,
            images_per_second=images / self.seconds,
        )

    def _means(self) -> tuple[float, float]:
        """Loss and accuracy of an image, over the batches that are done."""
        size, images = self.recipe.batch_size, len(self.batches.images)
        seen = min(self.done * size, images)
        losses = self.losses[: self.done].tolist()
        total = math.fsum(loss * min(size, images - n * size) for n, loss in enumerate(losses))
        return total / seen, int(self.correct.sum()) / seen

    def _show(self) -> None:
        self._check()
        loss, accuracy = self._means()
        speed = self.done * self.recipe.batch_size / self.seconds
        self.display.step(len(self.history), self.done, loss, accuracy, speed)

    # ---------------------------------------------------------------- stopping and going on

    def _check(self) -> None:
        """Refuses to go on from a loss that isn't finite."""
        losses = self.losses[: self.done].cpu()
        if (bad := (~losses.isfinite()).nonzero()).numel():
            step = int(bad[0])
            raise self._diverged(f"the loss of step {step + 1} is {float(losses[step])}")

    def _diverged(self, what: str) -> RunError:
        return RunError(
            f"epoch {len(self.history) + 1}",
            what,
            remedy=f"take a lower learning rate than {self.peak}, or a clip_norm, and another folder; "
            f"the last good checkpoint stays: {self.path / CHECKPOINT}",
        )

    def _halt_if_asked(self) -> None:
        if self.stop.asked:
            self._save()
            raise Interrupted(f"stopped {self._where()}; go on with: {go_on(self.path)}")

    def _where(self) -> str:
        return f"after {len(self.history)} of {self.recipe.epochs} epochs and {self.done} steps"

    def _save(self) -> None:
        state = self.model.state_dict()
        for name, tensor in state.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise self._diverged(f"step {self.done} made {name} infinite")
        Checkpoint(
            self.recipe,
            versions(),
            self.history,
            self.seconds,
            self.done,
            self.losses,
            self.correct,
            state,
            self.optimizer.state_dict()["state"],
            random_state(self.device),
        ).save(self.path / CHECKPOINT)

    def _restore(self, checkpoint: Checkpoint) -> None:
        where = str(self.path / CHECKPOINT)
        if different := self.recipe.differences(checkpoint.recipe):
            raise RunError(where, f"belongs to another run: now {', '.join(different)}", remedy=_DELETE)
        if checkpoint.versions != versions():
            was, now = (", ".join(f"{k} {v}" for k, v in each.items()) for each in (checkpoint.versions, versions()))
            self.display.note(f"begun with {was}, goes on with {now}: the numbers may differ in the last digits")
        try:
            self.model.load_state_dict(checkpoint.model)
        except RuntimeError as error:
            raise RunError(where, f"has weights of another network ({error})", remedy=_DELETE) from error
        state = self.optimizer.state_dict() | {"state": checkpoint.optimizer}
        self.optimizer.load_state_dict(state)
        set_random_state(self.device, checkpoint.random)
        self.history = checkpoint.history
        self.done, self.seconds = checkpoint.done, checkpoint.seconds
        self.losses, self.correct = checkpoint.losses.to(self.device), checkpoint.correct.to(self.device)
        self.display.note(f"goes on {self._where()}")

    def _finish(self) -> None:
        """Writes what a finished run consists of; the evaluation comes last, and then the checkpoint goes."""
        tested = self._test()
        write_metrics(self.path, self.history)
        write_whole(self.path / WEIGHTS, save(own_copies(self.model.state_dict())))
        chosen = samples.choose(
            self.test_batches.images, tested.predicted, tested.probability, even=_EVEN, mistakes=_MISTAKES
        )
        samples.write(self.path / SAMPLES, chosen)
        write_json(self.path / EVALUATION, tested.evaluation.to_dict())
        (self.path / CHECKPOINT).unlink()
        sync_folder(self.path)


def _peak(model: torch.nn.Module, recipe: Recipe) -> float:
    """The highest learning rate: the recipe's, or what suits the optimizer and the network's loss."""
    if recipe.learning_rate is not None:
        return recipe.learning_rate
    return 1e-3 if recipe.optimizer == "adamw" else float(getattr(model, "learning_rate", 0.05))


def _optimizer(model: torch.nn.Module, recipe: Recipe, peak: float) -> torch.optim.Optimizer:
    """PyTorch's optimizer of the recipe's name. Biases and other 1-D parameters don't decay."""
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in learnt if parameter.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [parameter for parameter in learnt if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=peak, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(groups, lr=peak, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
