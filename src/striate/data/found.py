"""What a reader finds in a place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from striate.data.annotated import AnnotatedSet
from striate.data.images import ImageSet
from striate.data.recorded import Recorded
from striate.data.streamed import Stored


@dataclass(frozen=True)
class Found:
    """What a place holds, before anything is decoded or divided.

    Args:
        parts: the images for ``"train"``, ``"val"`` and ``"test"``, those that are there; or all under ``""`` where the
            place doesn't divide them.
        skipped: files that were left out, each with the reason.
        notes: what was taken for what.
    """

    parts: Mapping[str, ImageSet | Stored] | Mapping[str, AnnotatedSet] | Mapping[str, Recorded]
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
