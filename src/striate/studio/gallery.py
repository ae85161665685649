"""Many pictures at the network's size, to choose from, and to search for patches that activate a channel most."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from striate.data import Fit, as_channels, load
from striate.data.digits import read_digits
from striate.data.fitting import Crop
from striate.errors import StriateError, StudioError
from striate.studio.subject import Subject
from striate.studio.workspace import Picture

#: The most pictures of a gallery, and their most bytes.
MOST: Final = 600
_BYTES: Final = 96 << 20
#: The number of crops of each picture if there is no data set.
_CROPS: Final = 48


@dataclass(frozen=True, eq=False)
class Gallery:
    """Pictures of a data set, or crops of the studio's own.

    Args:
        name: the source of the pictures, for display.
        images: uint8 (N, C, H, W) at the network's size.
        labels: one for each image, or empty.
        code: Python code that creates ``images``.
    """

    name: str
    images: Tensor
    labels: tuple[int, ...] = ()
    code: str = ""

    def __len__(self) -> int:
        return len(self.images)


_lock = threading.Lock()
_known: weakref.WeakKeyDictionary[Subject, Gallery] = weakref.WeakKeyDictionary()


def gallery_of(subject: Subject, pictures: Iterable[Picture]) -> Gallery:
    """The held-out pictures of a run's data set; the digits for networks of grey pictures; else crops of ``pictures``.

    A data set is read once; crops are computed at every call, because the set of pictures changes.

    Raises:
        StudioError: the network's input isn't a picture.
    """
    if subject.preprocessing is None:
        raise StudioError(subject.name, "takes something else than one picture", "needed a network of pictures")
    with _lock:
        found = _known.get(subject)
        if found is None:
            found = _of_data(subject)
            if found is not None:
                _known[subject] = found
    return found or _crops(subject, pictures)


def _of_data(subject: Subject) -> Gallery | None:
    assert subject.preprocessing is not None
    how = subject.preprocessing
    most = max(1, min(MOST, _BYTES // (how.channels * how.image_size[0] * how.image_size[1])))
    if not subject.data and how.channels == 1:
        pixels, labels = read_digits()
        chosen = torch.linspace(0, len(pixels) - 1, min(most, len(pixels))).long()
        images = how.fit(torch.from_numpy(pixels)[chosen])
        code = "from striate.data import load\n\nimages = load('digits', fit=preprocessing.how).train.images"
        return Gallery("the digits", images, tuple(labels[chosen.numpy()].tolist()), code)
    if not subject.data:
        return None
    try:
        test: Any = load(subject.data, channels=how.channels, fit=how.how, skip_broken=True).test
        labels = test.labels
        chosen = torch.linspace(0, len(test) - 1, min(most, len(test))).long()
        images = test.gather(chosen)
    except (StriateError, AttributeError):  # the data no longer exist, or have boxes instead of labels
        return None
    code = f"from striate.data import load\n\nimages = load({subject.data!r}, fit=preprocessing.how).test.images"
    return Gallery(f"held-out images of {subject.data.partition(':')[0]}", images, tuple(labels[chosen].tolist()), code)


def _crops(subject: Subject, pictures: Iterable[Picture]) -> Gallery:
    """Crops of the pictures, the same at every call, and the pictures themselves."""
    assert subject.preprocessing is not None
    how, generator = subject.preprocessing, torch.Generator().manual_seed(0)
    sources = [each.source for each in pictures if each.source is not None]
    each = max(1, min(_CROPS, MOST // max(1, len(sources))))
    each = max(1, min(each, _BYTES // max(1, len(sources) * how.channels * how.image_size[0] * how.image_size[1])))
    fit, parts = Fit(how.image_size, "squash"), []
    for source in sources[:MOST]:
        pixels = as_channels(source[None], how.channels)
        parts.append(how.fit(pixels))
        for area, top, left in torch.rand(each, 3, generator=generator).tolist():
            parts.append(fit(pixels, Crop(0.05 + 0.5 * area, how.image_size[1] / how.image_size[0], top, left)))
    if not parts:
        raise StudioError("pictures", "got none", "needed pictures to look through")
    code = "images = ...  # crops of the studio's pictures, uint8 (N, C, H, W)"
    return Gallery("crops of the pictures", torch.cat(parts), (), code)
