"""Messages before training begins: which images, how they are divided, and their preprocessing."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import torch
from rich.cells import cell_len

from striate.data import AnnotatedSet, Split
from striate.models.registry import SMALL
from striate.training.record import Record
from striate.training.run import Settings, build

#: Largest number of classes that are listed one by one; for more, only the extremes are.
_LISTED: Final = 20
#: Largest number of files that are listed one by one.
_FILES: Final = 10


def told(settings: Settings, split: Split[Any], record: Record) -> list[str]:
    """Lines about a run's images and their preprocessing, for 80 columns except for long names."""
    annotated = isinstance(split.train, AnnotatedSet)
    lines = counted_pictures(settings.recipe.data, split) if annotated else counted(settings.recipe.data, split)
    lines += [f"  {note}" for note in split.notes]
    lines += [f"  {line}" for line in overlapping(record)]
    lines += left_out(split.skipped)
    whose = "the weights' own" if settings.recipe.weights and settings.preprocessing.mode == "crop" else "the data's"
    how, _, scale = str(settings.preprocessing).partition("; ")
    lines += [f"preprocessing ({whose}): {how}", f"  {scale}"]
    if settings.small_input:
        small, usual = (_macs(settings, small_input=small) for small in (True, False))
        lines.append(f"{settings.recipe.model} in its form for images up to {SMALL} pixels, which keeps maps large:")
        lines.append(
            f"  {small / 1e6:,.0f} million MACs an image, {small / usual:.1f} times those of its usual form, which "
            f"--image-size {SMALL + 1} takes"
        )
    if settings.new_head:
        lines.append(f"the last layer is new, for {len(settings.classes):,} classes")
    if settings.augment != "none":
        lines.append(f"training images are changed: {settings.augment}")
    return lines


def _macs(settings: Settings, *, small_input: bool) -> float:
    """Multiply-accumulates of an image in one of a network's two forms."""
    from torch.utils.flop_counter import FlopCounterMode

    shape = (settings.channels, *settings.image_size)
    with torch.device("meta"):
        model = build(settings.recipe.model, len(settings.classes), shape, None, small_input).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape, device="meta"))
    return float(counter.get_total_flops()) / 2


def overlapping(record: Record) -> list[str]:
    """A line if test images have the same content as training images."""
    count = record.overlap()
    if not count:
        return []
    before = ", or of images that the weights had learnt from before," if record.earlier else ""
    have = "has the same content as an image" if count == 1 else "have the same content as images"
    return [f"{count:,} of test {have} to learn from{before} and will look easier"]


def counted_pictures(source: str, split: Split[AnnotatedSet]) -> list[str]:
    """The numbers of pictures of each part, and their annotations."""
    images = split.train
    shares = ", ".join(f"{len(images):,} {part}" for part, images in split.parts.items())
    whole = sum(len(images) for images in split.parts.values())
    names = images.map_classes if images.holds == {"map"} else images.classes
    held = " and ".join({"map": "class maps"}.get(part, part) for part in sorted(images.holds))
    return [f"{source}: {whole:,} pictures with {held} of {len(names):,} classes ({shares})"]


def counted(source: str, split: Split) -> list[str]:
    """The numbers of images of each class and part."""
    parts = split.parts
    classes = split.train.classes
    counts = {part: images.labels.bincount(minlength=len(classes)).tolist() for part, images in parts.items()}
    total = sum(len(images) for images in parts.values())
    shares = ", ".join(f"{len(images):,} {part}" for part, images in parts.items())
    lines = [f"{source}: {total:,} images of {len(classes):,} classes ({shares})"]
    if len(classes) > _LISTED:
        lines += [f"  {part}: {_spread(each, classes)}" for part, each in counts.items()]
        return lines
    width = max(5, *map(cell_len, classes))  # characters may take two columns
    lines.append("  " + "class".ljust(width) + "".join(part.rjust(8) for part in parts))
    for index, name in enumerate(classes):
        lines.append(
            "  " + name + " " * (width - cell_len(name)) + "".join(f"{each[index]:8,}" for each in counts.values())
        )
    return lines


def left_out(skipped: Sequence[tuple[str, str]]) -> list[str]:
    """The files that were left out, and why."""
    if not skipped:
        return []
    lines = [f"left out {len(skipped):,} file{'s' * (len(skipped) > 1)}:"]
    lines += [f"  {name}: {reason}" for name, reason in skipped[:_FILES]]
    if len(skipped) > _FILES:
        reasons = Counter(reason for _, reason in skipped[_FILES:]).most_common(5)
        more = "; ".join(f"{count:,} {reason}" for reason, count in reasons)
        lines.append(f"  and {len(skipped) - _FILES:,} more: {more}")
    return lines


def _spread(counts: Sequence[int], classes: Sequence[str]) -> str:
    least, most = counts.index(min(counts)), counts.index(max(counts))
    return (
        f"{counts[least]:,} ({classes[least]}) to {counts[most]:,} ({classes[most]}) images a class, "
        f"median {statistics.median(counts):,.0f}"
    )
