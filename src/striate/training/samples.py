"""A few held-out images, kept with a run as PNG files so that there is something to look at and to predict."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from striate.data import Batches, LabelledImages, load_image
from striate.errors import RunError
from striate.training.files import read_json, write_json, write_whole
from striate.training.results import Example

INDEX: Final = "index.json"


def choose(
    images: LabelledImages, predicted: Tensor, probability: Tensor, *, even: int, mistakes: int
) -> list[Example]:
    """``even`` images of as many classes as there are, then ``mistakes`` of which the network is sure.

    Classes take turns, each with images from all over it, right and wrong as they come; of more classes than images
    some from all over the list are shown. Mistakes go by turns as well: the surest of each class, the surest of all
    before the others, then the second of each. What is there already isn't taken again.

    Args:
        images: N images with the truth.
        predicted: int64 (N,), the class that each is taken for.
        probability: float (N,), that class's.
        even: how many images of the first kind, at most.
        mistakes: how many of the second, at most.
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
        )
        for index in dict.fromkeys(spread + _in_turns(list(mistaken.values()))[:mistakes])
    ]


def _halving(length: int, count: int) -> list[int]:
    """``count`` places in a list, or all: the first, the middle one, those between them and so on.

    >>> _halving(100, 5)
    [0, 50, 25, 75, 12]
    """
    found: dict[int, None] = {}
    number = 0
    while len(found) < min(count, length):
        bits = number.bit_length()
        found[int(f"{number:b}"[::-1], 2) * length >> bits] = None  # the number's digits backwards, after a point
        number += 1
    return list(found)


def _in_turns(lists: list[list[int]]) -> list[int]:
    """The first of each list, then the second of each that has one, and so on."""
    return [each[place] for place in range(max(map(len, lists), default=0)) for each in lists if place < len(each)]


def write(folder: Path, examples: list[Example]) -> None:
    """Writes each image as PNG, named after its class, and an index of what the network says of it."""
    folder.mkdir(exist_ok=True)
    index = {}
    for number, example in enumerate(examples, start=1):
        word = "".join(letter if letter.isalnum() else "-" for letter in example.actual)
        file = f"{number:02}-{word[:40]}.png"
        write_whole(folder / file, _png(example.image))
        index[file] = {name: getattr(example, name) for name in _SPOKEN}
    write_json(folder / INDEX, index)


def read(folder: Path, *, channels: int, image_size: tuple[int, int]) -> list[Example]:
    """The examples in a folder.

    Raises:
        RunError: no index, or one of something else.
        DataError: an image that can't be read.
    """
    index = read_json(folder / INDEX)
    if any(not isinstance(said, dict) or said.keys() != set(_SPOKEN) for said in index.values()):
        raise RunError(str(folder / INDEX), "no index of examples", f"needed {', '.join(_SPOKEN)} for each file")
    return [
        Example(load_image(folder / file, channels=channels, image_size=image_size), **said)
        for file, said in index.items()
    ]


def write_augmented(path: Path, batches: Batches) -> None:
    """Writes a picture of training images, each row of them followed by the same as the first step sees them."""
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
    both = torch.stack([batches.normalization.pixels(each[:count]) for each in pairs])
    framed = F.pad(both, (1, 1, 1, 1), value=_FRAME)
    channels, height, width = framed.shape[2:]
    rows = framed.view(2, -1, columns, channels, height, width).permute(3, 1, 0, 4, 2, 5)
    write_whole(path, _png(rows.reshape(channels, -1, columns * width)))


_COLUMNS, _ROWS, _FRAME = 12, 5, 96
_SPOKEN: Final = tuple(field.name for field in dataclasses.fields(Example) if field.name != "image")


def _png(image: Tensor) -> bytes:
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG")
    return buffer.getvalue()
