"""The result of a reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from striate.data.annotated import AnnotatedSet
from striate.data.images import ImageSet
from striate.data.recorded import Recorded
from striate.data.streamed import Stored


@dataclass(frozen=True)
class Found:
    """The contents of a source, before anything is decoded or divided.

    Args:
        parts: the images for ``"train"``, ``"val"`` and ``"test"``, as far as they exist; or all images under ``""`` if
            the source doesn't divide them.
        skipped: files that were left out, each with the reason.
        notes: how files and folders were interpreted.
    """

    parts: Mapping[str, ImageSet | Stored] | Mapping[str, AnnotatedSet] | Mapping[str, Recorded]
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
