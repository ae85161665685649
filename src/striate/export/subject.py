"""What can be exported: a network, and all that others must know to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

import striate
from striate.data import Normalization
from striate.errors import ExportError
from striate.models import Pretrained
from striate.training import Run


@dataclass(frozen=True, eq=False)
class Subject:
    """A network to export.

    Args:
        model: the network; it is copied, and left as it is.
        name: of the network, for the file's metadata.
        classes: the names of its K outputs.
        preprocessing: how pixels become the network's input, as JSON can have it.
        images: float32 (N, C, H, W), real images as the network gets them, to verify the file with.

    Raises:
        ExportError: images of another form.
    """

    model: torch.nn.Module
    name: str
    classes: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    images: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.float32 or self.images.dim() != 4 or not len(self.images):
            got = f"{str(self.images.dtype).removeprefix('torch.')} {tuple(self.images.shape)}"
            raise ExportError(self.name, f"got images of {got}", "needed float32 (N, C, H, W), N 1 or more")

    @classmethod
    def of_run(cls, run: Run) -> Subject:
        """The network of a finished run, with the held-out images that the run keeps.

        Raises:
            ModelError, RunError, DataError: a folder with damaged weights or images.
        """
        settings = run.settings
        resize = (
            "larger images to image_size, bilinear and antialiased; smaller ones by the largest whole factor that fits "
            "(bilinear), and framed with zeros"
        )
        preprocessing = _preprocessing(settings.image_size, resize, settings.normalization)
        images = settings.normalization(torch.stack([example.image for example in run.examples()]))
        return cls(run.model(), settings.recipe.model, settings.classes, preprocessing, images)

    @classmethod
    def of_pretrained(cls, trained: Pretrained, name: str) -> Subject:
        """A network that others trained, with the two photographs that scikit-learn has.

        Args:
            trained: the network.
            name: its name.
        """
        how = trained.preprocessing
        resize = f"the shorter side to {how.resize}, {how.interpolation} and antialiased; its middle of image_size"
        preprocessing = _preprocessing(how.image_size, resize, how.normalization)
        photographs = [torch.from_numpy(pixels.copy()).permute(2, 0, 1) for pixels in load_sample_images().images]
        return cls(trained.model, name, trained.classes, preprocessing, how(torch.stack(photographs)))

    def metadata(self) -> dict[str, str]:
        """What every exported file says of itself: text by name; ``classes`` and ``preprocessing`` are JSON.

        Pixels from 0 to 255 are brought to ``image_size`` and become ``(pixel * scale - mean) / std``.
        """
        return {
            "striate": striate.__version__,
            "model": self.name,
            "classes": json.dumps(self.classes),
            "preprocessing": json.dumps(self.preprocessing, allow_nan=False),
        }


def _preprocessing(image_size: tuple[int, int], resize: str, normalization: Normalization) -> dict[str, Any]:
    return {
        "channels": len(normalization.mean),
        "image_size": list(image_size),
        "resize": resize,
        "scale": 1 / 255,
        **normalization.to_dict(),
    }
