"""The base of tasks on annotated pictures: sets, batches, and pictures worth a look."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from striate.data import AnnotatedBatches, AnnotatedSet, Detections, Normalization, Preprocessing
from striate.data.annotated import relabelled
from striate.data.annotated_augmentation import AnnotatedAugmentation
from striate.data.fitting import Fit
from striate.tasks.framing import FramedBatches, holding
from striate.tasks.pictures import Kept, Shown, evenly, read_pictures, write_pictures
from striate.tasks.task import Batches, Loading, Outcome, Task

#: Held-out pictures that a run keeps: some over the whole set, and those with the most mistakes.
EVEN: Final = 9
WORST: Final = 9
#: Pixels a side of a picture that doesn't count.
BLANK: Final = 64


@dataclass(frozen=True)
class AnnotatedTask(Task):
    """A task whose truth is an :class:`striate.data.Annotation`; the settings are those of
    :class:`striate.training.Recipe`."""

    augment: str | None = None

    def admit(self, images: Any) -> AnnotatedSet:
        return holding(images, self.holds, self.name)

    def relabelled(self, images: AnnotatedSet, classes: tuple[str, ...]) -> AnnotatedSet:
        return relabelled(images, classes)

    def check_style(self, style: str) -> None:
        AnnotatedAugmentation(style)

    @abstractmethod
    def seen(self, preprocessing: Preprocessing) -> tuple[Fit | None, Normalization | None]:
        """The fit of pictures, None for their own sizes; and their normalization, None for values from 0 to 1."""

    def batches(self, images: AnnotatedSet, loading: Loading, *, style: str | None = None) -> Batches:
        fit, normalization = self.seen(loading.preprocessing)
        if style is None:
            return FramedBatches(images, loading.batch_size, fit, loading.device, normalization)
        return AnnotatedBatches(
            images,
            loading.batch_size,
            fit,
            shuffle_seed=loading.seed,
            device=loading.device,
            augmentation=AnnotatedAugmentation(style, loading.seed),
            part=loading.part,
            workers=loading.workers,
            normalization=normalization,
        )

    def keep(self, folder: Path, examples: Sequence[Shown], *, copies: bool) -> None:
        write_pictures(folder, examples, copies=copies)

    def examples(self, folder: Path, preprocessing: Preprocessing, source: str) -> tuple[Kept, ...]:
        return read_pictures(folder, preprocessing)

    def worth_a_look(
        self, images: AnnotatedSet, tested: Any, worst: Sequence[int], found: Callable[[int], Detections | Tensor]
    ) -> Outcome:
        """The outcome of a test with some pictures of the whole set, and the worst.

        Args:
            images: the set.
            tested: the network's results for the set, with the measures as ``evaluation``.
            worst: indices of the worst pictures.
            found: from an index to the network's result for this picture.
        """
        known = images.identities()
        even, classes = evenly(len(images), EVEN), self.names(images)
        shown = {
            index: Shown(*images.sample(index), found(index), classes, known[index].name, index)
            for index in {*even, *worst}
        }
        examples, errors = (tuple(shown[index] for index in each) for each in (even, worst))
        return Outcome(tested, tested.evaluation, tested.evaluation.to_dict(), examples, errors)
