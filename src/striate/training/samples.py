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
    """``even`` images spread evenly over a set, then the ``mistakes`` that the network is surest of.

    Args:
        images: N images with the truth.
        predicted: int64 (N,), the class that each is taken for.
        probability: float (N,), that class's.
        even: how many images of the first kind, right and wrong ones.
        mistakes: how many of the second, at most.
    """
    wrong = (predicted != images.labels).nonzero().squeeze(1)
    surest = wrong[probability[wrong].argsort(descending=True, stable=True)][:mistakes].tolist()
    even = min(even, len(images))
    spread = [number * len(images) // even for number in range(even)]
    return [
        Example(
            images.gather(torch.tensor([index]))[0],
            images.classes[int(images.labels[index])],
            images.classes[int(predicted[index])],
            float(probability[index]),
        )
        for index in dict.fromkeys(spread + surest)
    ]


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
