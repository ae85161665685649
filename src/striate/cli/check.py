"""The command that checks data before training: check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from striate.cli.app import Json, MaxPixels, app, draw, print_json, refuse_loss, say, show
from striate.errors import readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from striate.data.checking import Checked, Counts
    from striate.data.sources import Collection

#: Number of faults that are shown without --all.
_SHOWN = 20
#: Pictures of the sheet.
_PICTURES = 9
#: Of one of them on the sheet, pixels.
_WIDTH = 480


@app.command()
def check(
    data: Annotated[
        str, typer.Argument(help="Images, with labels or annotations: scenes, coco:FILE, folder:PATH, ...")
    ],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Compare the boxes with the strides of this network.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw some pictures with their annotations there.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show all faults, not the first 20.")] = False,
    max_pixels: MaxPixels = None,
    as_json: Json = False,
) -> None:
    """Count the contents of a data set, and find its faults.

    Every picture is decoded, and every annotation is checked against its picture. If there are faults, the exit code is
    2.

    \b
    Example:
      striate check folder:photos
      striate check scenes:128,40,20 --out sample.png
      striate check scenes:64,20,10 --model resnet18 --json
    """
    from striate.data import MAX_PIXELS
    from striate.data.checking import check as checked_of
    from striate.data.decoding import Reading
    from striate.data.streamed import Wanted

    if out is not None:
        refuse_loss(out)
    reading = Reading(max_pixels=MAX_PIXELS if max_pixels is None else max_pixels)
    checked, collection = checked_of(data, Wanted(reading))
    strides = None if model is None else _strides(model, checked)
    if as_json:
        print_json({**checked.to_dict(), **({} if strides is None else {"strides": strides})})
    else:
        _print(checked, None if everything else _SHOWN)
        if strides is not None:
            _print_strides(str(model), strides)
    if out is not None and collection is not None:
        draw(out, lambda: _sheet(collection))
    if checked.faults:
        raise typer.Exit(2)


def _print(checked: Checked, limit: int | None) -> None:
    for note in checked.notes:
        say(note)
    for name, counts in checked.parts.items():
        show(*_counts(name, counts))
    left_out = [f"left out: {file}: {reason}" for file, reason in checked.skipped[:limit]]
    if left_out:
        show(*left_out)
    if not checked.faults:
        show("no faults")
        return
    lines = [f"{len(checked.faults):,} fault{'s' * (len(checked.faults) != 1)}:"]
    lines += [f"  {readable(fault)}" for fault in checked.faults[:limit]]
    if limit is not None and len(checked.faults) > limit:
        lines.append(f"  and {len(checked.faults) - limit:,} more, which --all shows")
    show(*lines)


def _counts(name: str, counts: Counts) -> list[str]:
    """A part in a few lines."""
    lines = [f"{name or 'all'}: {counts.pictures:,} pictures{_sizes(counts)}"]
    total = sum(counts.classes.values())
    if counts.counted == "objects":
        least, middle, most = counts.each
        lines.append(f"  {total:,} objects, {least} to {most} a picture (median {middle:g}); {counts.crowds:,} crowds")
        if counts.smallest is not None and counts.largest is not None:
            lines.append(f"  boxes from {counts.smallest} to {counts.largest}; {counts.small:,} below 32x32 pixels")
        if counts.unlabelled:
            some = ", ".join(counts.unlabelled[:3]) + (", ..." if len(counts.unlabelled) > 3 else "")
            lines.append(f"  {len(counts.unlabelled):,} pictures without objects: {some}")
    if counts.unknown is not None:
        lines.append(f"  {counts.unknown:.1%} of the pixels not counted")
    ranked = sorted(counts.classes.items(), key=lambda item: -item[1])
    shares = counts.counted == "pixels"
    shown = [f"{each} {number / max(1, total):.1%}" if shares else f"{each} {number:,}" for each, number in ranked[:12]]
    lines.append(f"  {counts.counted}: " + ", ".join(shown) + (f", and {len(ranked) - 12} more" if ranked[12:] else ""))
    return lines


def _sizes(counts: Counts) -> str:
    if not counts.sizes:
        return ""
    if len(counts.sizes) == 1:
        return " of {}x{}".format(*counts.sizes[0][0])
    widths, heights = ([size[axis] for size, _ in counts.sizes] for axis in (0, 1))
    return (
        f" of {len(counts.sizes)} sizes, {min(widths)} to {max(widths)} wide and {min(heights)} to {max(heights)} high"
    )


def _strides(model: str, checked: Checked) -> dict[str, Any]:
    """The strides of a network, and how the boxes compare with the finest of them."""
    from striate import models

    network = models.create(model)
    strides = _strides_of(network)
    boxes = [side for counts in checked.parts.values() for side in counts.sides]
    scales = [_scale(network, size) for _, _, size in boxes]
    shorter = [min(width, height) * scale for (width, height, _), scale in zip(boxes, scales, strict=True)]
    longer = [max(width, height) * scale for (width, height, _), scale in zip(boxes, scales, strict=True)]
    return {
        "strides": strides,
        "boxes": len(boxes),
        "below_finest": sum(side < strides[0] for side in shorter),
        "smallest_side": min(shorter, default=None),
        "largest_side": max(longer, default=None),
        "scale": sum(scales) / len(scales) if scales else 1.0,
    }


def _print_strides(model: str, found: dict[str, Any]) -> None:
    strides = ", ".join(map(str, found["strides"]))
    lines = [f"{model} looks at strides of {strides} pixels, at pictures scaled by {found['scale']:.2f} on average"]
    if found["boxes"]:
        share = found["below_finest"] / found["boxes"]
        lines.append(
            f"  there boxes have sides from {found['smallest_side']:.0f} to {found['largest_side']:.0f} pixels; "
            f"{found['below_finest']:,} ({share:.1%}) are narrower than the finest stride, where objects merge"
        )
    show(*lines)


def _strides_of(network: nn.Module) -> list[int]:
    """The strides that a network or its backbone names, or else the stride of its last convolution's map."""
    import torch

    for part in (network, getattr(network, "backbone", None)):
        if isinstance(named := getattr(part, "strides", None), tuple | list) and named:
            return sorted(map(int, named))
    sides: list[int] = []
    layers = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    if not layers:
        return [1]
    height, width = getattr(network, "input_size", (256, 256))
    picture = torch.zeros(layers[0].in_channels, height, width)
    hooks = [
        layer.register_forward_hook(lambda layer, given, result: sides.append(result.shape[-1])) for layer in layers
    ]
    try:
        with torch.no_grad():
            network.eval()([picture] if _takes_lists(network) else picture[None])
    finally:
        for hook in hooks:
            hook.remove()
    return [max(1, round(width / sides[-1]))]


def _takes_lists(network: nn.Module) -> bool:
    return hasattr(network, "transform") or getattr(network, "task", "") in ("detection", "instance")


def _scale(network: nn.Module, size: tuple[int, int]) -> float:
    """The factor by which a network scales a picture: its shorter side becomes ``min_size``, at most ``max_size``."""
    transform = getattr(network, "transform", None)
    least, most = getattr(transform, "min_size", None), getattr(transform, "max_size", None)
    if least is None or most is None:
        return 1.0
    shorter = least[-1] if isinstance(least, tuple | list) else least
    return float(min(shorter / min(size), most / max(size)))


def _sheet(collection: Collection[Any]) -> Figure:
    """Some pictures with their annotations."""
    from striate.data.checking import sample_of
    from striate.errors import DataError
    from striate.report import maps, objects
    from striate.report.sheets import sheet

    panels = []
    for name, images, index in sample_of(collection, _PICTURES):
        picture, truth = images.sample(index)
        if "boxes" in images.holds:
            panels.append(objects.annotated(picture, truth, images.classes, title=name, width=_WIDTH))
        else:
            assert truth.class_map is not None
            panels.append(maps.mapped(picture, truth.class_map, images.map_classes, title=name))
    if not panels:
        raise DataError("--out", "these images have only labels", "needed boxes, masks or class maps to draw")
    return sheet([panels[start : start + 3] for start in range(0, len(panels), 3)], width=_WIDTH)
