"""Attribution without gradients: how the score changes when parts of the image are missing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.errors import ExplainError
from striate.explain.arguments import checked, pair
from striate.explain.inputs import Input
from striate.explain.result import Explanation
from striate.explain.subject import asking, in_batches
from striate.explain.targets import Target

_FINE = 8  # windows along an image's side, by default


@checked
def occlusion(
    model: torch.nn.Module,
    image: Input,
    target: Target = None,
    *,
    window: int | Sequence[int] | None = None,
    stride: int | Sequence[int] | None = None,
    fill: float = 0.0,
    batch_size: int = 32,
) -> Explanation:
    """The fall of the score when a window of the image is covered, averaged over the windows that contain a pixel.

    Args:
        model: any network; it is left as it is.
        image: (C, H, W) or (N, C, H, W), normalised as the network wants it; or all inputs of a network that takes
            several, as a tuple or a dict of keywords (:class:`striate.explain.Inputs`).
        target: a class, one for each image, a function of the output that gives (N,); the predicted class by default.
        window: rows and columns covered; an eighth of each side by default.
        stride: from window to window; half a window by default. The last windows are cut at the image's end.
        fill: the value of covered pixels, in the input's units: 0 is the mean colour of a normalised image.
        batch_size: covered images computed at once.

    Returns:
        An explanation whose ``values`` (N, rows, columns) are the score's fall for each window.

    Raises:
        ExplainError: an image that the network can't take, a class out of range, a window larger than the image, a
            stride that leaves pixels out.

    Source: Zeiler & Fergus, "Visualizing and understanding convolutional networks" (2014), section 4.2.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1)).double()
    >>> picture = torch.rand(1, 2, 2, dtype=torch.float64)
    >>> found = occlusion(network, picture, window=1)
    >>> torch.allclose(found.map.flatten(), (network[1].weight * picture.flatten())[0])
    True
    """
    with asking(model, image, target) as subject:
        images = subject.images
        size, fill = images.shape[2:], subject.fill(fill)
        spans = tuple(max(1, length // _FINE) for length in size) if window is None else pair("window", window)
        steps = tuple(max(1, span // 2) for span in spans) if stride is None else pair("stride", stride)
        for span, step, length in zip(spans, steps, size, strict=True):
            if not 1 <= step <= span <= length:
                raise ExplainError(
                    "occlusion", f"got window {span} with stride {step}", f"needed 1 <= stride <= window <= {length}"
                )
        starts = [
            torch.arange(0, length - span + step, step) for span, step, length in zip(spans, steps, size, strict=True)
        ]
        # (rows, H) and (columns, W): which pixels a window covers along each axis
        inside = [
            (torch.arange(length) >= start[:, None]) & (torch.arange(length) < start[:, None] + span)
            for start, span, length in zip(starts, spans, size, strict=True)
        ]
        rows, columns = (each.to(images.device) for each in inside)
        count = len(rows) * len(columns)
        before = subject.scores(images, torch.arange(len(images)))
        falls = torch.empty(len(images) * count, dtype=torch.float64, device=images.device)
        for part in in_batches(len(falls), batch_size, "occlusion"):
            part = part.to(images.device)
            which, place = part // count, part % count
            covered = rows[place // len(columns), :, None] & columns[place % len(columns), None, :]
            falls[part] = before[which] - subject.scores(images[which].masked_fill(covered[:, None], fill), which)
        values = falls.view(len(images), len(rows), len(columns))
        summed = torch.einsum("nrc,rh,cw->nhw", values, rows.double(), columns.double())
        cover = rows.sum(0)[:, None] * columns.sum(0)
        return subject.explanation(
            "occlusion",
            values,
            summed / cover,
            "fall of the score when covered",
            signed=True,
            detail="regions",
            empty="covering any window leaves the score as it is",
        )


@checked
def rise(
    model: torch.nn.Module,
    image: Input,
    target: Target = None,
    *,
    masks: int = 1000,
    cells: int = 7,
    keep: float = 0.5,
    seed: int = 0,
    batch_size: int = 32,
) -> Explanation:
    """The mean score under random soft masks that show a pixel, minus the mean score under all masks.

    Classes are scored by their probability. Arguments and errors are those of :func:`occlusion`, and these:

    Args:
        masks: number of masks; the map's noise falls with its square root.
        cells: of a mask's coarse grid, along each side.
        keep: probability that a cell is shown.
        seed: of the masks.

    Returns:
        An explanation whose ``values`` (N, H, W) are the source's map, the expected score where a pixel is shown; the
        map is that less the mean score, each mask by its own cover, so that noise common to all pixels cancels.

    Source: Petsiuk, Das & Saenko, "RISE: randomized input sampling for explanation of black-box models" (2018),
    equations 5 and 6, section 3.2.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    >>> rise(network, torch.rand(1, 8, 8), masks=8).map.shape
    torch.Size([1, 8, 8])
    """
    if masks < 1 or cells < 1 or not 0 < keep < 1:
        raise ExplainError("rise", f"got {masks} masks of {cells} cells, keep {keep}", "needed 1 or more, 0 < keep < 1")
    with asking(model, image, target) as subject:
        images = subject.images
        height, width = images.shape[2:]
        generator = torch.Generator().manual_seed(seed)
        summed = torch.zeros(len(images), height, width, dtype=torch.float64, device=images.device)
        cover = summed[0].clone()
        mean = summed.new_zeros(len(images))
        every = torch.arange(len(images), device=images.device)
        for part in in_batches(masks, max(1, batch_size // len(images)), "rise"):
            shown = _soft_masks(len(part), (height, width), cells, keep, generator).to(images)
            scores = subject.scores(
                (images[:, None] * shown[:, None]).flatten(0, 1), every.repeat_interleave(len(part)), probabilities=True
            )
            scores = scores.view(len(images), -1)
            summed += torch.einsum("nm,mhw->nhw", scores, shown.double())
            cover += shown.double().sum(0)
            mean += scores.sum(1) / masks
        return subject.explanation(
            "rise",
            summed / (masks * keep),
            (summed - mean[:, None, None] * cover) / (masks * keep),
            "gain of the mean score where shown",
            signed=True,
            detail="regions",
            empty="the score is the same under all masks",
        )


def _soft_masks(count: int, size: tuple[int, int], cells: int, keep: float, generator: torch.Generator) -> Tensor:
    """(count, H, W): coarse grids enlarged to one cell more than the image and cropped at random places."""
    height, width = size
    cell = (-(-height // cells), -(-width // cells))
    coarse = (torch.rand(count, 1, cells, cells, generator=generator) < keep).float()
    large = F.interpolate(coarse, ((cells + 1) * cell[0], (cells + 1) * cell[1]), mode="bilinear")[:, 0]
    tops = torch.randint(cell[0], (count,), generator=generator).tolist()
    lefts = torch.randint(cell[1], (count,), generator=generator).tolist()
    return torch.stack(
        [each[t : t + height, l : l + width] for each, t, l in zip(large, tops, lefts, strict=True)]  # noqa: E741
    )
