"""scikit-learn's handwritten digits."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from striate.errors import DataError


def read_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The digits of Alpaydin and Kaynak, 1998: numbers of black pixels in each 4x4 block, 0 to 16, scaled to 0 to 255.

    Returns:
        The images, uint8 (1797, 1, 8, 8), and their labels, int64 (1797,).

    Raises:
        DataError: scikit-learn isn't installed.
    """
    found = importlib.util.find_spec("sklearn")  # importing it would take longer than reading them
    if found is None or found.origin is None:
        raise DataError("digits", "scikit-learn, which has them, isn't installed", remedy="pip install scikit-learn")
    file = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(file, "rt") as lines:
        rows = np.loadtxt(lines, delimiter=",", dtype=np.int64)
    pixels = np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return pixels, rows[:, -1].copy()
