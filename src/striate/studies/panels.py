"""The contents of a study's figure as numbers; :mod:`striate.report.studies` draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from striate.analysis.information import InformationPlane


@dataclass(frozen=True)
class Curve:
    """One line: ``y`` over ``x``, and the spread of ``y`` over the seeds where there is one."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    spread: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Curves:
    """Lines in one frame; ``x`` and ``y`` name the axes with their units."""

    title: str
    x: str
    y: str
    curves: tuple[Curve, ...]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Bars:
    """A bar for each label, with its spread where there is one; ``x`` names the axis with its unit.

    Args:
        span: the part of the axis that is shown; values are dots then, as a bar has to begin at zero.
        reference: where a dashed line stands, and what it says.
    """

    title: str
    x: str
    labels: tuple[str, ...]
    values: tuple[float, ...]
    spreads: tuple[float | None, ...]
    log: bool = False
    span: tuple[float, float] | None = None
    reference: tuple[float, str] | None = None


@dataclass(frozen=True, eq=False)
class Pictures:
    """Small images, row by row, each (H, W) with a caption; zero is the middle of the colours if ``signed``."""

    title: str
    images: tuple[NDArray[np.floating[Any]], ...]
    captions: tuple[str, ...]
    columns: int
    signed: bool = False


@dataclass(frozen=True)
class Plane:
    """An information plane under a title."""

    title: str
    plane: InformationPlane


Panel: TypeAlias = Curves | Bars | Pictures | Plane
