"""Colours of classes: black letters can be read on them, and they differ for all kinds of eyes."""

from __future__ import annotations

import numpy as np
import pytest

from striate.tasks.colours import COLOURS, map_colours, rgb

#: From linear sRGB to what is seen without one kind of cones: Machado, Oliveira and Fernandes 2009, severity 1.
EYES = {
    "three kinds": np.eye(3),
    "no long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no medium": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear() -> np.ndarray:
    shares = np.array([rgb(colour) for colour in COLOURS]) / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def oklab(colours: np.ndarray) -> np.ndarray:
    """Ottosson 2020."""
    cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    axes = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.cbrt(colours.clip(0) @ np.transpose(cones)) @ np.transpose(axes)


def test_black_letters_can_be_read() -> None:
    luminance = linear() @ [0.2126, 0.7152, 0.0722]
    contrast = (luminance + 0.05) / 0.05
    assert contrast.min() > 4.5  # as WCAG 2 asks of text


@pytest.mark.parametrize("eyes", EYES)
def test_colours_differ(eyes: str) -> None:
    seen = oklab((linear() @ np.transpose(EYES[eyes])).clip(0, 1))
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=2) + np.eye(len(seen))
    assert distances[:10, :10].min() > 0.075
    assert distances.min() > 0.045


def test_an_object_has_its_colour_on_maps() -> None:
    assert map_colours(("background", "cat", "dog"))[1:] == COLOURS[:2]
    assert map_colours(("road", "cat")) == COLOURS[:2]
    assert len(map_colours(tuple(map(str, range(255))))) == 255
