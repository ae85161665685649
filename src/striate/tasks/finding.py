"""Predictions for picture files: objects, or the class of each pixel, at the pictures' own sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from striate.data import MAX_PIXELS, Annotation, Detections, Preprocessing, fit_annotated
from striate.data.decoding import Encoded, Reading
from striate.errors import DataError
from striate.tasks.detection import Detection
from striate.tasks.framing import Framed, floats
from striate.tasks.semantic import Semantic


@dataclass(frozen=True, eq=False)
class Finding:
    """A network's prediction for one picture file.

    Args:
        file: the file.
        picture: uint8 (C, H, W); None if the file can't be read.
        found: detections, or a class map, uint8 (H, W); None if the file can't be read.
        error: why the file can't be read; None if it can.
    """

    file: Encoded
    picture: Tensor | None = None
    found: Detections | Tensor | None = None
    error: DataError | None = None


def find(
    task: Detection | Semantic,
    model: torch.nn.Module,
    preprocessing: Preprocessing,
    files: Sequence[Encoded],
    *,
    device: torch.device | str = "cpu",
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Finding]:
    """Processes picture files in order. Memory doesn't grow with their number, and a broken file is no error.

    Args:
        task: of the network.
        model: in evaluation mode, on ``device``.
        preprocessing: of its pictures.
        files: the pictures.
        device: where the network is.
        max_pixels: a file with more can't be read.
    """
    read = Reading(None, preprocessing.channels, max_pixels)
    for file in files:
        try:
            picture = read(file)
        except DataError as error:
            yield Finding(file, error=error)
            continue
        yield Finding(file, picture, find_on(task, model, preprocessing, picture, device))


@torch.inference_mode()
def find_on(
    task: Detection | Semantic,
    model: torch.nn.Module,
    preprocessing: Preprocessing,
    picture: Tensor,
    device: torch.device | str = "cpu",
) -> Detections | Tensor:
    """A network's prediction for one picture, uint8 (C, H, W)."""
    truth = Annotation((picture.shape[1], picture.shape[2]))
    seen, placement = picture, None
    if preprocessing.mode != "own":
        seen, _, placement = fit_annotated(picture, truth, preprocessing.how)
    framed = [Framed(truth, placement)]
    scaled = floats(seen, preprocessing.normalization).to(device)[None]
    if isinstance(task, Semantic):
        return task.maps(model, scaled, framed)[0]
    return task.detect(model, scaled, framed)[0]
