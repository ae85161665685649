"""A few held-out images that a run points out, to look at and to predict.

The run's folder contains their names and the network's predictions. It contains copies of the images only on request,
because people share such folders, or if the images come with striate.
"""

from __future__ import annotations

import dataclasses
import io
from dataclasses import astuple
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from striate.data import Batches, LabelledImages, Preprocessing
from striate.data.decoding import Reading
from striate.data.images import digest
from striate.data.sources import gather
from striate.data.streamed import Wanted
from striate.errors import DataError, RunError
from striate.files import read_json, write_json, write_whole
from striate.tasks.evaluation import Example
from striate.tasks.scores import Scores

INDEX: Final = "index.json"


def choose(
    images: LabelledImages, predicted: Tensor, probability: Tensor, *, even: int, mistakes: int
) -> list[Example]:
    """``even`` images from as many classes as possible, then ``mistakes`` with high probability.

    Classes take turns, each with images spread evenly over the class, right or wrong. If there are more classes than
    images, classes are spread evenly, too. Mistakes take turns as well: first the most confident mistake of each class,
    in descending order of confidence, then the second of each. No image is taken twice.

    Args:
        images: N images with the truth.
        predicted: int64 (N,), the predicted classes.
        probability: float (N,), the probabilities of the predicted classes.
        even: largest number of images of the first kind.
        mistakes: largest number of images of the second kind.
    """
    of_class: dict[int, list[int]] = {}
    for index, label in enumerate(images.labels.tolist()):
        of_class.setdefault(label, []).append(index)
    present = [of_class[label] for label in sorted(of_class)]
    classes = sorted(_halving(len(present), even))
    each = [[present[label][place] for place in _halving(len(present[label]), even)] for label in classes]
    spread = _in_turns(each)[:even]
    wrong = (predicted != images.labels).nonzero().squeeze(1)
    surest = wrong[probability[wrong].argsort(descending=True, stable=True)].tolist()
    mistaken: dict[int, list[int]] = {}
    for index in surest:
        mistaken.setdefault(int(images.labels[index]), []).append(index)
    return [
        Example(
            images.gather(torch.tensor([index]))[0],
            images.classes[int(images.labels[index])],
            images.classes[int(predicted[index])],
            float(probability[index]),
            *astuple(images.identities()[index]),
        )
        for index in dict.fromkeys(spread + _in_turns(list(mistaken.values()))[:mistakes])
    ]


def worst(images: LabelledImages, scores: Scores, limit: int = 24) -> list[Example]:
    """The most confident mistakes, only a few for each pair of true and predicted class.

    Args:
        images: the tested images.
        scores: the network's scores for them.
        limit: largest number of images.
    """
    identities = images.identities()
    return [
        Example(
            images.gather(torch.tensor([index]))[0],
            scores.classes[int(scores.labels[index])],
            scores.classes[int(scores.predicted[index])],
            float(scores.confidence[index]),
            *astuple(identities[index]),
        )
        for index in scores.worst_errors(limit)
    ]


def _halving(length: int, count: int) -> list[int]:
    """``count`` indices of a list, or all: the first, the middle one, those between them and so on.

    >>> _halving(100, 5)
    [0, 50, 25, 75, 12]
    """
    found: dict[int, None] = {}
    number = 0
    while len(found) < min(count, length):
        bits = number.bit_length()
        found[int(f"{number:b}"[::-1], 2) * length >> bits] = None  # the reversed binary digits as a fraction
        number += 1
    return list(found)


def _in_turns(lists: list[list[int]]) -> list[int]:
    """The first of each list, then the second of each that has one, and so on."""
    return [each[place] for place in range(max(map(len, lists), default=0)) for each in lists if place < len(each)]


def write(folder: Path, examples: list[Example], *, copies: bool) -> None:
    """Writes an index of the images with the network's predictions, and with ``copies`` each image as PNG, named after
    its class."""
    folder.mkdir(exist_ok=True)
    index: dict[str, dict[str, Any]] = {}
    for number, example in enumerate(examples, start=1):
        word = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in example.actual)
        file = f"{number:02}-{word[:40]}.png"
        if copies:
            write_whole(folder / file, _png(example.image))
        index[file if copies else example.name] = {name: getattr(example, name) for name in _SPOKEN} | {"copy": copies}
    write_json(folder / INDEX, index)


def read(folder: Path, preprocessing: Preprocessing, source: str) -> list[Example]:
    """The examples of a run: its copies, or the images of the source that still have the same content.

    Args:
        folder: with the index.
        preprocessing: of the run's network.
        source: of the run's images, as :func:`striate.data.load` takes it.

    Raises:
        RunError: no index, or a file of another form.
        DataError: a copy that can't be read.
    """
    index = read_json(folder / INDEX)
    if any(not isinstance(said, dict) or said.keys() - {"copy"} not in (set(_SPOKEN), _OLD) for said in index.values()):
        raise RunError(str(folder / INDEX), "no index of examples", f"needed {', '.join(_SPOKEN)} for each file")
    read_image = preprocessing.reading(max_pixels=_TRUSTED)
    elsewhere = _Elsewhere(source, read_image)
    examples = []
    for file, said in index.items():
        spoken = {"name": file, "digest": "", **said}
        if spoken.pop("copy", True):
            examples.append(Example(read_image(folder / file), **spoken))
        elif (image := elsewhere.find(file, spoken["digest"])) is not None:
            examples.append(Example(image, **spoken))
    return examples


class _Elsewhere:
    """The images of a source, one by one, as long as their content is unchanged.

    Args:
        source: of a run's images.
        read: an image file, fitted.
    """

    def __init__(self, source: str, read: Reading) -> None:
        self.kind, _, root = source.partition(":")
        self.source, self.root, self.read = source, Path(root), read

    def find(self, name: str, wanted: str) -> Tensor | None:
        """The image with a name and digest, uint8 (C, H, W); None if it doesn't exist any more."""
        if self.kind == "folder":  # without reading all the others
            path = self.root / name
            there = path.is_file() and digest(path.read_bytes()) == wanted
            return self.read(path) if there else None
        images, place = self._others.get(wanted, (None, 0))
        return None if images is None else images.gather(torch.tensor([place]))[0]

    @cached_property
    def _others(self) -> dict[str, tuple[LabelledImages, int]]:
        try:
            collection = gather(self.source, Wanted(self.read))
        except DataError:
            return {}  # moved, or gone
        return {
            each.digest: (images, place)
            for images in collection.parts.values()
            for place, each in enumerate(images.identities())
        }


def write_augmented(path: Path, batches: Batches) -> None:
    """Writes a picture of training images; below each row are the same images as the first step sees them."""
    plain = Batches(batches.images, _COLUMNS * _ROWS, batches.normalization, shuffle_seed=batches.shuffle_seed)
    changed = Batches(
        batches.images,
        _COLUMNS * _ROWS,
        batches.normalization,
        shuffle_seed=batches.shuffle_seed,
        augmentation=batches.augmentation,
    )
    pairs = [next(each.epoch(0))[0] for each in (plain, changed)]
    count = len(pairs[0]) // _COLUMNS * _COLUMNS or len(pairs[0])
    columns = min(_COLUMNS, count)
    both = torch.stack([_small(batches.normalization.pixels(each[:count])) for each in pairs])
    framed = F.pad(both, (1, 1, 1, 1), value=_FRAME)
    channels, height, width = framed.shape[2:]
    rows = framed.view(2, -1, columns, channels, height, width).permute(3, 1, 0, 4, 2, 5)
    write_whole(path, _png(rows.reshape(channels, -1, columns * width)))


def _small(images: Tensor) -> Tensor:
    """Images (N, C, H, W) of bytes, scaled down to a size at which changes are still visible."""
    longest = max(images.shape[-2:])
    if longest <= _SIDE:
        return images
    size = [max(1, round(side * _SIDE / longest)) for side in images.shape[-2:]]
    return F.interpolate(images.float(), size, mode="bilinear", antialias=True).round().to(torch.uint8)


_COLUMNS, _ROWS, _FRAME, _SIDE = 12, 5, 96, 112
_SPOKEN: Final = tuple(field.name for field in dataclasses.fields(Example) if field.name != "image")
_OLD: Final = {"actual", "predicted", "probability"}  # fields of version 0.1.0
_TRUSTED: Final = 1 << 40  # pixels of an image that the run has read already


def _png(image: Tensor) -> bytes:
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG")
    return buffer.getvalue()
