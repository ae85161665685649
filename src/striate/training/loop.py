"""The training loop, which ends with the same numbers however often it is killed and resumed.

This is exact because the random numbers of a step depend only on the seed and the step, the order of epoch k only on
the seed and k, and the learning rate only on the step. A checkpoint stores everything else.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save
from torch import Tensor

from striate import data
from striate.errors import RunError, WeightsWarning
from striate.files import sync_folder, write_json, write_whole
from striate.tasks.task import SAMPLES, Assessment, Batches, Loading, Outcome
from striate.training.checkpoint import Checkpoint, own_copies
from striate.training.display import Display
from striate.training.distributed import Team
from striate.training.environment import Stop, seed_step
from striate.training.events import write_events
from striate.training.folder import (
    AUGMENTED,
    CHECKPOINT,
    EVALUATION,
    EVENTS,
    WEIGHTS,
    append_metrics,
    go_on,
    write_metrics,
)
from striate.training.images import workers
from striate.training.results import Epoch, best_epoch
from striate.training.run import Settings, versions
from striate.training.schedule import learning_rate
from striate.training.update import Updates

_GLANCE: Final = 0.1  # seconds between reads of the losses, each of which waits for a GPU
_TOGETHER: Final = 16  # several processes synchronise only after every so many steps
_DELETE: Final = "restore the run's own file, or delete the folder and train anew"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while training; the message says where training stopped and how to resume it."""


class Training:
    """A run in progress. The current epoch is ``len(history)``, of which ``done`` batches are done.

    Args:
        path: the run's folder, locked.
        settings: the run's settings.
        split: its images.
        display: shows the progress.
        stop: whether to stop at the next step.
        team: the processes that train together.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        split: data.Split,
        display: Display,
        stop: Stop,
        team: Team = Team(),  # noqa: B008 - frozen
    ) -> None:
        recipe = settings.recipe
        self.path, self.settings, self.recipe = path, settings, recipe
        self.display, self.stop, self.team = display, stop, team
        self.device = torch.device(settings.device)
        self.task = settings.task
        begun = (path / CHECKPOINT).exists()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WeightsWarning)  # the new head has been reported already
            self.model = settings.new_model(None if begun else recipe.weights).to(self.device)
        loading = Loading(
            recipe.batch_size, settings.preprocessing, self.device, workers=workers(recipe), seed=recipe.seed
        )
        if not begun and settings.new_head and (line := self.task.begin_head(self.model, split.train, loading)):
            self.display.note(line)
        self.updates = Updates(
            self.model, recipe, self.task, split.train, team, settings.learning_rate, settings.optimizer
        )
        loading = dataclasses.replace(loading, part=(team.number, team.size))
        self.batches = self.task.batches(split.train, loading, style=settings.augment)
        self.test_batches = self.task.batches(split.test, loading)
        self.val_batches = None if split.val is None else self.task.batches(split.val, loading)
        self.history: tuple[Epoch, ...] = ()
        #: The tested network's state after the epoch with the smallest validation loss, if the recipe keeps it.
        self.best: dict[str, Tensor] = {}
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        #: The measures of each batch by name, one element a batch, on the device: nothing has to be read back during
        #: the epoch, and sums don't depend on when they are read.
        self.measured: dict[str, Tensor] = {}
        self.done, self.seconds = 0, 0.0

    def run(self) -> Outcome | None:
        """Trains from the checkpoint, if any, to the end. Only the leader of several processes returns a result."""
        if (self.path / CHECKPOINT).exists():
            self._restore(Checkpoint.load(self.path / CHECKPOINT))
        else:
            self._save()
        if self.team.leads:
            write_metrics(self.path, self.history)
            if self.recipe.keep_images != "none":
                self.task.show_augmented(self.path / AUGMENTED, self.batches)
        while len(self.history) < self.recipe.epochs and not self._stopped_early():
            self._train()
            tested = self._test(self.test_batches if self.val_batches is None else self.val_batches)
            self.history += (self._measured(tested),)
            if self.recipe.keep == "best" and self._best() == len(self.history):
                self.best = own_copies(self.updates.tested.state_dict())
            self._begin_epoch()
            self._save()
            if self.team.leads:
                append_metrics(self.path, self.history[-1])
                if self.recipe.tensorboard:
                    write_events(self.path / EVENTS, self.history[-1])
            self.display.epoch(self.history[-1])
        return self._finish()

    def _stopped_early(self) -> bool:
        """Whether the best epoch is not among the last ``early_stopping`` epochs."""
        patience = self.recipe.early_stopping
        return patience is not None and len(self.history) - self._best() >= patience

    def _best(self) -> int:
        """The number of the best epoch so far."""
        return best_epoch(self.history, self.task.goal)

    def _train(self) -> None:
        """Trains the rest of the epoch."""
        self.updates.train()
        saved = lap = time.perf_counter()
        for images, labels in self.batches.epoch(len(self.history), start=self.done):
            self._step(images, labels)
            now = time.perf_counter()
            if self._agreed(now - lap > _GLANCE or self.stop.asked):
                self.seconds += now - lap
                self._show()
                stops = self.team.any(self.stop.asked, self.device)
                if self.team.any(stops or now - saved > self.recipe.checkpoint_every, self.device):
                    self._save()
                    if stops:
                        raise self._interrupted()
                    saved = time.perf_counter()
                lap = time.perf_counter()
        self._check()  # waits for the device, so that the measured time is right
        self.seconds += time.perf_counter() - lap

    def _agreed(self, wish: bool) -> bool:
        """Whether the flag is set in any process; several processes ask each other only now and then, to save time."""
        if self.team.alone:
            return wish
        return self.done % _TOGETHER == 0 and self.team.any(wish, self.device)

    def _step(self, images: Any, targets: Any) -> None:
        epoch, step = len(self.history), self.done
        seed_step(self.recipe.seed, epoch, step, self.team.number)
        measured = self.updates.step(
            images,
            targets,
            rate=self._rate(step),
            number=epoch * len(self.batches) + step,
            whole=min(self.recipe.batch_size, len(self.batches.images) - step * self.recipe.batch_size),
        )
        for name, value in measured.items():
            if name not in self.measured:
                self.measured[name] = value.new_zeros(len(self.batches))
            self.measured[name][step] = value
        self.done += 1

    def _rate(self, batch: int) -> float:
        recipe, batches = self.recipe, len(self.batches)
        return learning_rate(
            len(self.history) * batches + batch,
            recipe.epochs * batches,
            peak=self.updates.peak,
            schedule=recipe.schedule,
            warmup=recipe.warmup,
        )

    def _test(self, batches: Batches) -> Assessment:
        if not self.team.alone:
            # Buffers such as running means are the leader's at the beginning of a step, but differ at its end.
            self.team.share(self.updates.tested.buffers())
        return self.task.assess(self.updates.tested, batches, self._halt_if_asked, self.team.total)

    def _measured(self, tested: Assessment) -> Epoch:
        for name, value in tested.measures.items():
            if not math.isfinite(value):
                raise self._diverged(f"the {name} on held-out images is {value}")
        return Epoch(
            epoch=len(self.history) + 1,
            train=self._means(),
            held_out=dict(tested.measures),
            part="test" if self.val_batches is None else "val",
            learning_rate=self._rate(len(self.batches) - 1),
            seconds=self.seconds,
            images_per_second=len(self.batches.images) / self.seconds,
        )

    def _means(self) -> dict[str, float]:
        """Means over the images of the finished batches; for counts, the share of the images."""
        size, images = self.recipe.batch_size, len(self.batches.images)
        seen = min(self.done * size, images)
        means = {}
        for name, cells in self._totals().items():
            values = cells[: self.done].tolist()
            each = [min(size, images - n * size) for n in range(self.done)] if cells.is_floating_point() else None
            total = sum(values) if each is None else math.fsum(a * b for a, b in zip(values, each, strict=True))
            means[name] = total / seen
        return means

    def _totals(self) -> dict[str, Tensor]:
        """The measures of each batch, over all processes."""
        return {name: self.team.total(cells) for name, cells in self.measured.items()}

    def _show(self) -> None:
        self._check()
        speed = self.done * self.recipe.batch_size / self.seconds
        self.display.step(len(self.history), self.done, self._means(), speed)

    # ---------------------------------------------------------------- stopping and resuming

    def _check(self) -> None:
        """Stops with an error if a loss isn't finite."""
        losses = self.team.total(self.measured["loss"])[: self.done].cpu()
        if (bad := (~losses.isfinite()).nonzero()).numel():
            step = int(bad[0])
            raise self._diverged(f"the loss of step {step + 1} is {float(losses[step])}")

    def _diverged(self, what: str) -> RunError:
        return RunError(
            f"epoch {len(self.history) + 1}",
            what,
            remedy=f"take a lower learning rate than {self.updates.peak}, or a clip_norm, and another folder; "
            f"the last good checkpoint stays: {self.path / CHECKPOINT}",
        )

    def _halt_if_asked(self) -> None:
        """Stops between two batches of a test; several processes stop in the next epoch instead, where they ask."""
        if self.stop.asked and self.team.alone:
            self._save()
            raise self._interrupted()

    def _interrupted(self) -> Interrupted:
        return Interrupted(f"stopped {self._where()}; go on with: {go_on(self.path)}")

    def _where(self) -> str:
        return f"after {len(self.history)} of {self.recipe.epochs} epochs and {self.done} steps"

    def _save(self) -> None:
        state = self.model.state_dict()
        for name, tensor in state.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise self._diverged(f"step {self.done} made {name} infinite")
        measured = self._totals()
        if not self.team.leads:
            return
        made = Checkpoint(
            recipe=self.recipe,
            versions=versions(),
            history=self.history,
            seconds=self.seconds,
            done=self.done,
            measured=measured,
            model=state,
            best=self.best,
            **self.updates.state(),
        )
        try:
            made.save(self.path / CHECKPOINT)
        except OSError as error:
            kept = "the last good one stays" if (self.path / CHECKPOINT).exists() else "nothing is lost"
            raise RunError(
                str(self.path / CHECKPOINT),
                f"can't be saved ({error.strerror})",
                remedy=f"{kept}; make room and go on with: {go_on(self.path)}",
            ) from error

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
        self.updates.restore(checkpoint.optimizer, checkpoint.average, checkpoint.scaler)
        self.history, self.best = checkpoint.history, checkpoint.best
        self.done, self.seconds = checkpoint.done, checkpoint.seconds
        # The leader has the sums over all processes; the others add only their later contributions.
        self.measured = {
            name: cells.to(self.device) if self.team.leads else torch.zeros_like(cells, device=self.device)
            for name, cells in checkpoint.measured.items()
        }
        self.display.note(f"goes on {self._where()}")

    def _finish(self) -> Outcome | None:
        """Writes the files of a finished run. The evaluation is written last; then the checkpoint is deleted."""
        if self.best:
            self.updates.tested.load_state_dict(self.best)
            text = str(self.task.goal).replace(" ", " validation ", 1)
            self.display.note(f"keeps the weights of epoch {self._best()}, with {text}")
        validated = None if self.val_batches is None else self._test(self.val_batches)
        tested = self._test(self.test_batches)
        if not self.team.leads:
            return None
        write_metrics(self.path, self.history)
        # All under one name, because safetensors writes several names in an order that differs between processes.
        about = {
            "about": json.dumps(
                {
                    "model": self.recipe.model,
                    "classes": self.settings.classes,
                    "preprocessing": self.settings.preprocessing.to_dict(),
                }
            )
        }
        write_whole(self.path / WEIGHTS, save(own_copies(self.updates.tested.state_dict()), about))
        kept = self.recipe.keep_images or ("figures" if self.settings.is_users else "copies")
        images = self.test_batches.images
        outcome = self.task.outcome(images, tested, validated)
        self.task.write(self.path, images, tested, validated)
        self.task.keep(self.path / SAMPLES, outcome.examples, copies=kept == "copies")
        write_json(self.path / EVALUATION, outcome.record)
        (self.path / CHECKPOINT).unlink()
        sync_folder(self.path)
        return dataclasses.replace(outcome, examples=(), errors=()) if kept == "none" else outcome
