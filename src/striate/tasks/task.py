"""The interface between training and tasks.

Training handles batches of images, a loss to minimise, measures that compare epochs, and the files of a finished run.
The task defines them: :class:`Task` is the interface, and ``classification.py``, ``detection.py``, ``semantic.py`` and
``instance.py`` implement it. A task is a frozen dataclass whose fields are the settings of a recipe that only this task
reads.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, TypeVar

import torch
from torch import Tensor

from striate.data import Normalization, Preprocessing
from striate.errors import RunError
from striate.tasks.explained import Explained
from striate.tasks.exportable import Exportable, without_suppression
from striate.tasks.heads import Parts

Kind = TypeVar("Kind", bound="Task")

#: The folder, within a run's, of images that are worth a look.
SAMPLES: Final = "samples"


@dataclass(frozen=True)
class Loading:
    """How images reach a network, the same for all sets of a run.

    Args:
        batch_size: images a step, of all processes together.
        preprocessing: size, crop and scale of pixels.
        device: where the network is.
        part: (number, count): which of so many processes this one is.
        workers: processes that decode.
        seed: of orders and augmentation.
    """

    batch_size: int
    preprocessing: Preprocessing
    device: torch.device
    part: tuple[int, int] = (0, 1)
    workers: int = 0
    seed: int = 0


class Batches(Protocol):
    """A set of images in batches, as :class:`striate.data.Batches` is one."""

    @property
    def images(self) -> Any: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def part(self) -> tuple[int, int]: ...

    def __len__(self) -> int: ...

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """The batches of an epoch, from ``start`` on: what the network takes, and the truth, both with a length and
        slices: tensors, or lists."""
        ...


class Record(Protocol):
    """The record of an evaluation in ``evaluation.json``."""

    def to_dict(self) -> dict[str, Any]: ...


class Assessment(Protocol):
    """A network's results for a set of images, and their measures."""

    @property
    def evaluation(self) -> Record: ...

    @property
    def measures(self) -> Mapping[str, float]:
        """The numbers that are recorded for an epoch, by name: ``{"loss": 0.1, "accuracy": 0.97}``."""
        ...


@dataclass(frozen=True)
class Outcome:
    """The results of a training, besides its files.

    Args:
        tested: the network's results for the held-out images.
        measures: all measures of these results.
        record: the contents of ``evaluation.json``.
        examples: held-out images that are worth a look.
        errors: the worst of them.
    """

    tested: Any
    measures: Any
    record: Mapping[str, Any]
    examples: tuple[Any, ...] = ()
    errors: tuple[Any, ...] = ()


#: Called with the network, what it takes, and the truth, it gives scalars by name. ``"loss"`` is what a step makes
#: smaller, the mean over the images; further floating ones are means over the images too, integers count images.
Criterion = Callable[[torch.nn.Module, Any, Any], dict[str, Tensor]]


@dataclass(frozen=True)
class Goal:
    """The held-out measure by which epochs are compared.

    >>> str(Goal("loss", rising=False)), str(Goal("AP", rising=True))
    ('the least loss', 'the largest AP')
    >>> Goal("AP", rising=True).best([0.1, 0.3, 0.3])
    2
    """

    measure: str
    rising: bool

    def __str__(self) -> str:
        return f"the {'largest' if self.rising else 'least'} {self.measure}"

    def best(self, values: Sequence[float]) -> int:
        """The number, from 1, of the best value; of several the first; 0 of none."""
        return list(values).index((max if self.rising else min)(values)) + 1 if values else 0


@dataclass(frozen=True)
class Task(ABC):
    """A purpose that networks are trained for.

    Class attributes: ``name``, as in ``striate.models.task_of``; ``holds``, the annotations that it needs,
    ``"labels"``, ``"boxes"``, ``"masks"`` or ``"map"``; ``goal``, the measure that compares epochs; ``clip_norm``, the
    default for the recipe's setting.
    """

    name: ClassVar[str]
    holds: ClassVar[str]
    goal: ClassVar[Goal]
    clip_norm: ClassVar[float | None] = None

    @classmethod
    def of(cls: type[Kind], settings: Mapping[str, Any]) -> Kind:
        """The task with its own among all settings of a recipe."""
        return cls(**{field.name: settings[field.name] for field in dataclasses.fields(cls)})

    # ------------------------------------------------------------------ images and the network

    @abstractmethod
    def admit(self, images: Any) -> Any:
        """A set of images with what the task needs of them.

        Raises:
            DataError: they haven't got it.
        """

    @abstractmethod
    def normalization(self, images: Any, workers: int) -> Normalization:
        """The scale of pixels for a network without weights of its own."""

    @abstractmethod
    def relabelled(self, images: Any, classes: tuple[str, ...]) -> Any:
        """Other images, with the labels of these classes.

        Raises:
            DataError: a class that isn't among them.
        """

    def names(self, images: Any) -> tuple[str, ...]:
        """The names of the classes."""
        found: tuple[str, ...] = images.classes
        return found

    @abstractmethod
    def outputs(self, classes: int) -> int:
        """What ``striate.models.create`` takes as ``num_classes`` for so many named classes."""

    @abstractmethod
    def check(self, model: torch.nn.Module, classes: int, shape: tuple[int, int, int]) -> None:
        """Checks that a network can be trained with these settings on images of (C, H, W).

        Raises:
            RunError: it can't.
            RuntimeError, ValueError: the network doesn't take such images.
        """

    def fit(self, network: torch.nn.Module) -> str:
        """The default mode of :class:`striate.data.Fit`, which fits pictures to a network's size."""
        return "frame"

    def parts(self, model: torch.nn.Module, classes: int) -> Parts:
        """The division of a network into backbone and head.

        Raises:
            RunError: a network without a head.
        """
        return Parts.of(model, self.outputs(classes))

    def accelerated(self, model: torch.nn.Module) -> None:
        """Accelerates a network on the CPU, in place."""
        from striate.acceleration import accelerate  # PyTorch's compiler, which takes a second to import

        accelerate(model, quiet=True)

    def explained(self, model: torch.nn.Module) -> torch.nn.Module:
        """A network with one score for each class, (N, C, H, W) to (N, K), which explanations can ask.

        Raises:
            RunError: there is no such score.
        """
        return model

    def object_number(self, target: str, classes: Sequence[str]) -> int | None:
        """Which of the objects that a network finds somebody means, from 1; None if it is a class.

        Raises:
            ExplainError: no such number.
        """
        return None

    def explained_object(self, model: torch.nn.Module, picture: Tensor, number: int) -> Explained:
        """A network with a score of each class for one object that it finds on a picture (C, H, W).

        Raises:
            ExplainError: there are fewer objects.
            RunError: a network that finds none by its nature, or can't be asked about one.
        """
        raise RunError("explain", f"got object {number} of a network for {self.name}", "needed a detector")

    def exported(self, model: torch.nn.Module, suppression: str | None = None) -> Exportable:
        """A network as files for other programs hold it.

        Args:
            model: the network.
            suppression: where boxes that overlap a better one are left out, ``"inside"`` or ``"outside"`` of the file.

        Raises:
            RunError: this network can't be written like that, or leaves no such choice.
        """
        without_suppression(f"a network for {self.name} finds no boxes", suppression)
        return Exportable(model)

    def viewed(self, model: torch.nn.Module, views: int) -> torch.nn.Module:
        """A network that looks at each image so many times.

        Raises:
            RunError: more views than the task knows.
        """
        if views != 1:
            raise RunError("views", f"got {views}", f"needed 1 for {self.name}")
        return model

    def begin_head(self, model: torch.nn.Module, images: Any, loading: Loading) -> str | None:
        """Begins a head that is new for the classes of ``images``; gives a line for a person, or None."""
        return None

    def style(self, preprocessing: Preprocessing, *, trained: bool) -> str:
        """The augmentation that is used: the one asked for, or what suits; ``trained``: weights are given."""
        asked: str | None = getattr(self, "augment", None)
        if asked is not None:
            self.check_style(asked)
        return "none" if asked is None else asked

    @abstractmethod
    def check_style(self, style: str) -> None:
        """Checks that this augmentation exists.

        Raises:
            RunError, DataError: there is none for this task.
        """

    # ------------------------------------------------------------------ images and loss

    @abstractmethod
    def batches(self, images: Any, loading: Loading, *, style: str | None = None) -> Batches:
        """Images in batches: in their order for testing, or, with a ``style`` of augmentation (``"none"`` is one), as
        training sees them."""

    @abstractmethod
    def criterion(self, model: torch.nn.Module, images: Any) -> Criterion:
        """What training makes smaller, for a network and the set that it learns from."""

    def show_augmented(self, path: Path, batches: Any) -> None:
        """Writes a picture of training images as they are, and as the first step sees them; of none, nothing."""
        return

    @abstractmethod
    def nothing(self, inputs: Any, targets: Any, channels: int, device: torch.device) -> tuple[Any, Any]:
        """A batch of one image that is there only so that a process without images takes part in a step.

        Args:
            inputs, targets: the empty batch.
            channels: of the images.
            device: where the network is.
        """

    @abstractmethod
    def assess(
        self,
        model: torch.nn.Module,
        batches: Batches,
        each_batch: Callable[[], None] = lambda: None,
        total: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> Assessment:
        """Runs a network, in evaluation mode, over all images of an unshuffled set.

        Args:
            model: the network, on the device of the batches.
            batches: of several processes each runs its part of every batch, and all get the whole.
            each_batch: called after each batch.
            total: the sum of a tensor over all processes.
        """

    # ------------------------------------------------------------------ files of a run

    @abstractmethod
    def outcome(self, images: Any, tested: Any, validated: Any | None = None) -> Outcome:
        """All that follows from what a network says of a set of images, and images of it that are worth a look.

        Args:
            images: the set.
            tested: what the network says of it.
            validated: what it says of validation images; None without any.
        """

    @abstractmethod
    def write(self, folder: Path, images: Any, tested: Any, validated: Any | None = None) -> None:
        """Writes what a network says of each image."""

    @abstractmethod
    def keep(self, folder: Path, examples: Sequence[Any], *, copies: bool) -> None:
        """Writes into a folder, which is made, which images are worth a look, and with ``copies`` the images too."""

    @abstractmethod
    def evaluation(self, fields: Mapping[str, Any]) -> Record:
        """The record in ``evaluation.json``.

        Raises:
            RunError: fields that are missing, or of another task.
        """

    def examples(self, folder: Path, preprocessing: Preprocessing, source: str) -> tuple[Any, ...]:
        """The images that :meth:`finish` chose, with what the network says of them, as far as that is kept."""
        return ()


def pieces(values: Any, count: int) -> list[Any]:
    """About equal consecutive parts of a batch: of a tensor as views, of a list as lists.

    >>> pieces([1, 2, 3], 2)
    [[1, 2], [3]]
    """
    if isinstance(values, Tensor):
        return list(values.tensor_split(count))
    ends = [len(part) for part in torch.arange(len(values)).tensor_split(count)]
    starts = [sum(ends[:place]) for place in range(count)]
    return [values[start : start + length] for start, length in zip(starts, ends, strict=True)]
