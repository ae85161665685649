"""Follows a run's folder during training: its epochs, and the weights of every checkpoint.

A run keeps only its last checkpoint, and none once it is finished. So the checkpoints seen are kept in memory, up to a
number of bytes; beyond that, every second checkpoint in the middle is dropped.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from striate.errors import RunError, StriateError, StudioError
from striate.files import read_json
from striate.tasks.task import Loading
from striate.training.assess import images_to_test
from striate.training.checkpoint import Checkpoint
from striate.training.folder import CHECKPOINT, EVALUATION, METRICS, SETTINGS, WEIGHTS, is_finished
from striate.training.results import Epoch
from striate.training.run import Run, Settings

#: The most bytes of weights in memory.
KEPT: Final = 384 << 20
#: Seconds between two checks of the folder.
_PAUSE: Final = 0.5
#: The most kernels and maps that are shown.
MOST_SHOWN: Final = 32


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The weights of one moment.

    Args:
        number: the position in the order in which snapshots were seen.
        epoch: finished epochs.
        step: finished steps of the current epoch.
        final: whether these are the run's final weights.
        state: the state of the network that is tested.
    """

    number: int
    epoch: int
    step: int
    final: bool
    state: Mapping[str, Tensor]

    @property
    def bytes(self) -> int:
        """The memory of its weights."""
        return sum(each.numel() * each.element_size() for each in self.state.values())

    def to_dict(self) -> dict[str, Any]:
        """Everything except the weights, for JSON."""
        return {"number": self.number, "epoch": self.epoch, "step": self.step, "final": self.final}


class Follower:
    """Watches a run's folder.

    Args:
        path: the folder of the run.
        kept: the most bytes of weights in memory.

    Raises:
        RunError: the folder isn't a run's.
    """

    def __init__(self, path: Path, kept: int = KEPT) -> None:
        if not (path / SETTINGS).is_file():
            raise RunError(str(path), "no run in there", "needed the folder of a run, as striate train makes it")
        self.path, self._kept = path, kept
        self.settings = Settings.from_dict(read_json(path / SETTINGS))
        self._snapshots: list[Snapshot] = []
        self._count = 0
        self._seen: tuple[int, int] | None = None
        self._guard = threading.Lock()
        self._looking = threading.Lock()
        self._model: nn.Module | None = None
        self._confusions: dict[int, dict[str, Any]] = {}
        self._thread: threading.Thread | None = None

    def start(self) -> Follower:
        """Checks the folder once, and then repeatedly in a thread until the run is finished."""
        with self._guard:
            first = self._thread is None
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="striate-studio-run", daemon=True)
                self._thread.start()
        if first:
            self.look()
        return self

    def _watch(self) -> None:
        while not self.look():
            time.sleep(_PAUSE)

    def look(self) -> bool:
        """Reads a new checkpoint if there is one; returns whether the run is finished and completely read."""
        with self._looking:
            finished = is_finished(self.path)
            file = self.path / (WEIGHTS if finished else CHECKPOINT)
            try:
                stat = file.stat()
                mark = (stat.st_mtime_ns, stat.st_ino)
                if mark != self._seen:
                    self._take(file, finished)
                    self._seen = mark
            except (OSError, StriateError):
                return False  # missing, or just being replaced; the next check reads it
            return finished

    def _take(self, file: Path, finished: bool) -> None:
        history = self.history()
        if finished:
            state, epoch, step = load_file(file), len(history), 0
        else:
            found = Checkpoint.load(file)
            state, epoch, step = found.average or found.model, len(found.history), found.done
        with self._guard:
            self._snapshots.append(Snapshot(self._count, epoch, step, finished, state))
            self._count += 1
            while len(self._snapshots) > 2 and sum(each.bytes for each in self._snapshots) > self._kept:
                # Keep the first and the last; drop every second one of the others.
                thinned = self._snapshots[1:-1][1::2] if len(self._snapshots) > 3 else []
                self._snapshots = [self._snapshots[0], *thinned, self._snapshots[-1]]

    # ------------------------------------------------------------------ what it tells

    def history(self) -> tuple[Epoch, ...]:
        """The finished epochs; a line that is just being written is read at the next check."""
        try:
            lines = (self.path / METRICS).read_text(encoding="utf-8").splitlines()
        except OSError:
            return ()
        found = []
        for line in lines:
            try:
                found.append(Epoch.from_dict(json.loads(line)))
            except (ValueError, StriateError):
                break
        return tuple(found)

    def snapshots(self) -> tuple[Snapshot, ...]:
        """The snapshots in memory, oldest first."""
        with self._guard:
            return tuple(self._snapshots)

    def snapshot(self, number: int | None) -> Snapshot:
        """The snapshot with a number; for None the newest.

        Raises:
            StudioError: there is no such snapshot, or it has been dropped.
        """
        found = self.snapshots()
        if not found:
            raise StudioError(self.path.name, "has no checkpoint yet", "needed one", "wait for the first")
        for each in found:
            if number == each.number:
                return each
        if number is None:
            return found[-1]
        raise StudioError("snapshot", f"got {number}", "needed one of " + ", ".join(str(e.number) for e in found[-8:]))

    def to_dict(self) -> dict[str, Any]:
        """The state of the run, for the page."""
        settings, history = self.settings, self.history()
        return {
            "run": self.path.name,
            "model": settings.recipe.model,
            "data": settings.recipe.data.partition(":")[0],
            "task": settings.task.name,
            "goal": settings.task.goal.measure,
            "epochs": settings.recipe.epochs,
            "classes": list(settings.classes),
            "finished": is_finished(self.path),
            "history": [each.to_dict() for each in history],
            "snapshots": [each.to_dict() for each in self.snapshots()],
        }

    # ------------------------------------------------------------------ what is computed with it

    def model(self, snapshot: Snapshot) -> nn.Module:
        """The network with a snapshot's weights, in evaluation mode; all snapshots share one module."""
        if self._model is None:
            self._model = self.settings.new_model().eval()
        self._model.load_state_dict(dict(snapshot.state))
        return self._model

    def kernels(self, snapshot: Snapshot, layer: str) -> Tensor:
        """The first kernels of a convolution, (F, C, h, w).

        Raises:
            StudioError: there is no convolution of that name.
        """
        weight = snapshot.state.get(f"{layer}.weight")
        if weight is None or weight.dim() != 4:
            raise StudioError("layer", f"got {layer[:60]!r}", "needed a convolution of two axes")
        return weight[:MOST_SHOWN].float()

    def confusion(self, snapshot: Snapshot) -> dict[str, Any]:
        """The confusion matrix of a snapshot's network on the run's held-out images.

        Raises:
            StudioError: the task isn't classification.
            StriateError: the data no longer exist.
        """
        if self.settings.task.name != "classification":
            raise StudioError(
                self.path.name,
                f"is for {self.settings.task.name}",
                "needed classification, which has classes to confuse",
            )
        if snapshot.number not in self._confusions:
            self._confusions[snapshot.number] = self._measured(snapshot)
        return self._confusions[snapshot.number]

    def _measured(self, snapshot: Snapshot) -> dict[str, Any]:
        found: Any
        if snapshot.final and (self.path / EVALUATION).is_file():
            found = self.settings.task.evaluation(read_json(self.path / EVALUATION))
        else:
            run = Run(self.path, self.settings, (), None)
            images, _, _ = images_to_test(run)
            loading = Loading(self.settings.recipe.batch_size, self.settings.preprocessing, torch.device("cpu"))
            task = self.settings.task
            # Use a separate network, because this may take long and the page goes on meanwhile.
            model = self.settings.new_model().eval()
            model.load_state_dict(dict(snapshot.state))
            found = task.assess(model, task.batches(images, loading)).evaluation
        return {
            "classes": list(found.classes),
            "confusion": [list(row) for row in found.confusion],
            "accuracy": found.accuracy,
            "loss": found.loss,
            "n": found.n,
        }
