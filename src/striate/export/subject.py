"""The subject of an export: a network, and the metadata that are needed to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

import striate
from striate.data import Preprocessing
from striate.errors import ExportError
from striate.models import Pretrained
from striate.tasks.exportable import Exportable
from striate.training import Run

#: Number of noise images for verification if the run's own images aren't available.
_NOISE: Final = 8


@dataclass(frozen=True, eq=False)
class Subject:
    """A network to export.

    Args:
        model: the network; it is copied, and left as it is.
        name: of the network, for the file's metadata.
        classes: the names of its K outputs.
        preprocessing: how pixels become the network's input, as JSON can have it.
        images: float32 (N, C, H, W), images as the network gets them, to verify the file with. No file holds them.
        synthetic: whether they are noise, for want of real ones.
        given: the network as the file holds it; None for one from (N, C, H, W) to (N, K).

    Raises:
        ExportError: images of another form.
    """

    model: torch.nn.Module
    name: str
    classes: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    images: Tensor
    synthetic: bool = False
    given: Exportable | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.float32 or self.images.dim() != 4 or not len(self.images):
            got = f"{str(self.images.dtype).removeprefix('torch.')} {tuple(self.images.shape)}"
            raise ExportError(self.name, f"got images of {got}", "needed float32 (N, C, H, W), N 1 or more")

    @property
    def form(self) -> Exportable:
        """The network as the file holds it."""
        return self.given or Exportable(self.model)

    @classmethod
    def of_run(cls, run: Run, suppression: str | None = None) -> Subject:
        """The network of a finished run, with held-out images that are where they were, or else noise.

        Args:
            run: the run.
            suppression: where boxes that overlap better ones are left out; see :func:`striate.export.export`.

        Raises:
            ModelError, RunError, DataError: a folder with damaged weights or images; a choice that the network hasn't.
        """
        settings = run.settings
        form = run.task.exported(run.model(), suppression)
        examples, size = run.examples(), settings.image_size
        seen = settings.preprocessing
        if seen.mode == "own":  # the file expects pictures that are already scaled
            unit, least = form.unit or 1, form.least
            size = (max(least, -(-size[0] // unit) * unit), max(least, -(-size[1] // unit) * unit))
            seen = replace(seen, resize=None, crop=size, mode="squash")
        if examples:
            pixels = torch.stack([seen.fit(example.image[None])[0] for example in examples])
        else:
            shape = (_NOISE, settings.channels, *size)
            pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        images = settings.normalization(pixels)
        how = _described(settings.preprocessing, form)
        return cls(form.network, settings.recipe.model, settings.classes, how, images, not examples, form)

    @classmethod
    def of_pretrained(cls, trained: Pretrained, name: str) -> Subject:
        """A network that others trained, with the two photographs that scikit-learn has.

        Args:
            trained: the network.
            name: its name.
        """
        from sklearn.datasets import load_sample_images

        how = trained.preprocessing
        photographs = [torch.from_numpy(pixels.copy()).permute(2, 0, 1) for pixels in load_sample_images().images]
        return cls(trained.model, name, trained.classes, _described(how), how(torch.stack(photographs)))

    def metadata(self) -> dict[str, str]:
        """The metadata of every exported file: text by name; ``classes`` and ``preprocessing`` are JSON.

        Pixels from 0 to 255 are brought to ``image_size`` and become ``(pixel * scale - mean) / std``.
        """
        return {
            "striate": striate.__version__,
            "model": self.name,
            "classes": json.dumps(self.classes),
            "preprocessing": json.dumps(self.preprocessing, allow_nan=False),
            **{name: json.dumps(value, allow_nan=False) for name, value in self.form.about.items()},
        }


def _described(how: Preprocessing, form: Exportable | None = None) -> dict[str, Any]:
    """A preprocessing in words for people, and in ``"striate"`` as striate reads it back."""
    height, width = how.image_size
    if how.mode == "crop":
        scaled = how.resize or min(how.image_size)
        resize = f"the shorter side to {scaled}, {how.interpolation} and antialiased; its middle of image_size"
    elif how.mode == "squash":
        resize = f"each side by itself to {height}x{width}, {how.interpolation} and antialiased"
    elif how.mode == "own":
        least, most = min(height, width), max(height, width)
        unit = 1 if form is None or form.unit is None else form.unit
        resize = (
            f"by one factor for both sides, so that the shorter has {least} pixels or the longer {most}, whichever is "
            "less, bilinear and not antialiased"
            if unit > 1
            else "none: the network stretches images itself"
        )
        if unit > 1:
            resize += f"; filled up with the mean colour, on the right and below, to multiples of {unit}"
    else:
        resize = (
            "larger images to image_size, bilinear and antialiased; smaller ones by the largest whole factor that fits "
            "(bilinear), and framed with zeros"
        )
    return {
        "channels": how.channels,
        "image_size": [height, width],
        "resize": resize,
        "scale": 1 / 255,
        **how.normalization.to_dict(),
        "striate": how.to_dict(),
    }
