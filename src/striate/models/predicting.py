"""Predictions for a stream of image files: memory doesn't grow with their number, and a broken file is no error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from striate.data import MAX_PIXELS, Preprocessing
from striate.data.decoding import Encoded
from striate.errors import DataError

#: Images that go through a network at once.
BATCH: Final = 32


@dataclass(frozen=True)
class Ranked:
    """A network's prediction for an image file.

    Args:
        image: the file.
        likeliest: classes with their probabilities, the likeliest first; empty if the file can't be read.
        error: why the file can't be read; None if it can.
    """

    image: Encoded
    likeliest: tuple[tuple[str, float], ...] = ()
    error: DataError | None = None


def rank(
    model: torch.nn.Module,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    images: Sequence[Encoded],
    *,
    top: int = 3,
    mirrored: bool = False,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Ranked]:
    """The likeliest classes of each image file, in the order of the files, a batch at a time.

    Args:
        model: from (N, C, H, W) to logits (N, K), on ``device``.
        preprocessing: of its images.
        classes: the names of the K classes.
        images: the files.
        top: how many classes of each.
        mirrored: the mean probability of each image and its mirror image.
        device: where the model is.
        batch_size: images at once.
        max_pixels: a file with more can't be read.
    """
    read = preprocessing.reading(max_pixels)

    def attempt(image: Encoded) -> Tensor | DataError:
        try:
            return read(image)
        except DataError as error:
            return error

    with ThreadPoolExecutor(max_workers=_READERS) as pool:
        for start in range(0, len(images), batch_size):
            files = images[start : start + batch_size]
            found = list(pool.map(attempt, files))
            pictures = [each for each in found if isinstance(each, Tensor)]
            shares: Iterator[Tensor] = iter(())
            if pictures:
                inputs = preprocessing.normalization(torch.stack(pictures).to(device))
                shares = iter(_probabilities(model, inputs, mirrored=mirrored).cpu())
            for file, each in zip(files, found, strict=True):
                if isinstance(each, DataError):
                    yield Ranked(file, error=each)
                    continue
                best = next(shares).topk(min(top, len(classes)))
                pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                yield Ranked(file, tuple((classes[index], share) for index, share in pairs))


#: Threads that decode: Pillow does it outside of Python's global lock.
_READERS: Final = 4


@torch.inference_mode()
def _probabilities(model: torch.nn.Module, inputs: Tensor, *, mirrored: bool) -> Tensor:
    shares: Tensor = model(inputs).float().softmax(1)
    if mirrored:
        shares = (shares + model(inputs.flip(3)).float().softmax(1)) / 2
    return shares


def classify(
    model: torch.nn.Module,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    paths: Sequence[str | Path],
    *,
    top: int,
) -> list[list[tuple[str, float]]]:
    """For each image file its ``top`` likeliest classes with their probabilities, the likeliest first.

    Raises:
        DataError: a file that can't be read as an image.
    """
    ranked = []
    for each in rank(model, preprocessing, classes, paths, top=top):
        if each.error is not None:
            raise each.error
        ranked.append(list(each.likeliest))
    return ranked
