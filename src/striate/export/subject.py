"""What can be exported: a network, and all that others must know to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

import striate
from striate.data import Preprocessing
from striate.errors import ExportError
from striate.models import Pretrained
from striate.training import Run

#: Images of noise that a file is verified with where the run's own aren't at hand.
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

    Raises:
        ExportError: images of another form.
    """

    model: torch.nn.Module
    name: str
    classes: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    images: Tensor
    synthetic: bool = False

    def __post_init__(self) -> None:
        if self.images.dtype != torch.float32 or self.images.dim() != 4 or not len(self.images):
            got = f"{str(self.images.dtype).removeprefix('torch.')} {tuple(self.images.shape)}"
            raise ExportError(self.name, f"got images of {got}", "needed float32 (N, C, H, W), N 1 or more")

    @classmethod
    def of_run(cls, run: Run) -> Subject:
        """The network of a finished run, with held-out images that are where they were, or else noise.

        Raises:
            ModelError, RunError, DataError: a folder with damaged weights or images.
        """
        settings = run.settings
        examples = run.examples()
        model = run.task.exported(run.model())
        if examples:
            pixels = torch.stack([settings.preprocessing.fit(example.image[None])[0] for example in examples])
        else:
            size = (_NOISE, settings.channels, *settings.image_size)
            pixels = torch.randint(256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        images = settings.normalization(pixels)
        how = _described(settings.preprocessing)
        return cls(model, settings.recipe.model, settings.classes, how, images, synthetic=not examples)

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
        """What every exported file says of itself: text by name; ``classes`` and ``preprocessing`` are JSON.

        Pixels from 0 to 255 are brought to ``image_size`` and become ``(pixel * scale - mean) / std``.
        """
        return {
            "striate": striate.__version__,
            "model": self.name,
            "classes": json.dumps(self.classes),
            "preprocessing": json.dumps(self.preprocessing, allow_nan=False),
        }


def _described(how: Preprocessing) -> dict[str, Any]:
    """A preprocessing in words for people, and in ``"striate"`` as striate reads it back."""
    height, width = how.image_size
    if how.mode == "crop":
        scaled = how.resize or min(how.image_size)
        resize = f"the shorter side to {scaled}, {how.interpolation} and antialiased; its middle of image_size"
    elif how.mode == "squash":
        resize = f"each side by itself to {height}x{width}, {how.interpolation} and antialiased"
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
