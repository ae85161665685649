"""Commands that measure: summary, field, bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from striate.cli.app import Json, MaxPixels, app, draw, network_of, print_json, refuse_loss, show
from striate.errors import RunError


@app.command()
def summary(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|RUN", help="A network's name, or the folder of a finished run.")
    ],
    size: Annotated[str | None, typer.Option(help="CxHxW [default: the network's own].")] = None,
    batch: Annotated[int, typer.Option(min=1, help="How many images at once.")] = 1,
    roofline: Annotated[bool, typer.Option(help="Measure this machine, and tell what holds each layer up.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw it as well.")] = None,
    as_json: Json = False,
) -> None:
    """Count what a network costs: parameters, multiply-accumulates, memory, layer by layer.

    \b
    Example:
      striate summary lenet5
      striate summary resnet18 --size 3x64x64 --batch 32 --out cost.png
    """
    import torch

    from striate.analysis import summarize
    from striate.engine.timing import roofline as measured
    from striate.report import measures

    network = network_of(model, size)
    machine = measured(torch.get_num_threads()) if roofline else None
    result = summarize(network.model, (batch, *network.shape), roofline=machine, name=network.name)
    if out is not None:
        draw(out, lambda: measures.costs(result))
    if as_json:
        print_json(result.to_dict())
    else:
        show(measures.cost(result), measures.totals(result))
        if out is not None:
            show(f"drawn in {out}")


@app.command()
def field(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|RUN", help="A network's name, or the folder of a finished run.")
    ],
    size: Annotated[str | None, typer.Option(help="CxHxW [default: the network's own].")] = None,
    at: Annotated[str | None, typer.Option(metavar="LAYER,Y,X", help="What this position of a layer sees.")] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="With --at: draw it on this image.")] = None,
    effective: Annotated[bool, typer.Option(help="With --image: how much each pixel matters, by gradients.")] = False,
    max_pixels: MaxPixels = None,
    out: Annotated[Path, typer.Option(metavar="PNG", help="Where --image draws.")] = Path("field.png"),
    as_json: Json = False,
) -> None:
    """Compute the part of the image that each layer of a network sees.

    \b
    Example:
      striate field lenet5
      striate field lenet5 --at s4,1,1 --image digit.png --out field.png
    """
    from striate.analysis import effective_receptive_field, receptive_field
    from striate.report import measures

    network = network_of(model, size, max_pixels)
    found = receptive_field(network.model, network.shape, name=network.name)
    if at is None:
        if image is not None or effective:
            raise RunError(
                "field", "got an image and no position", "needed --at LAYER,Y,X", "striate field lists the layers"
            )
        if as_json:
            print_json(found.to_dict())
        else:
            show(measures.fields(found))
            if found.misaligned:
                show(measures.misaligned(found))
        return
    layer, position = _position(at)
    row, box = found.at(layer), found.box(layer, position)
    if image is not None:
        if box is None:
            raise RunError("field", f"{layer} sees nothing of the image there", "needed a position that sees some")
        refuse_loss(out, [image])
        pixels = network.read(image)
        shown = pixels.permute(1, 2, 0).numpy()
        if effective:
            seen_by = network.prepare(pixels[None])
            density = effective_receptive_field(network.model, seen_by, layer, position, name=found.model)
            draw(out, lambda: measures.effective(shown, density, box))
        else:
            draw(out, lambda: measures.field_box(shown, row, position, box))
    if as_json:
        seen = None if box is None else [list(span) for span in box]
        print_json({"layer": layer, "position": list(position), "box": seen, "row": row.to_dict()})
    elif box is None:
        show(f"{layer} at {at.partition(',')[2]} sees nothing of the image")
    else:
        show(f"{layer} at {at.partition(',')[2]} sees " + ", ".join(f"{a} to {b}" for a, b in box))
        if image is not None:
            show(f"drawn in {out}")


@app.command()
def bench(
    problem: Annotated[str, typer.Argument(help="A line such as 'conv2d 8x64x56x56 128x64x3x3 stride=2 padding=1'.")],
    dtype: Annotated[str, typer.Option(help="float32, float64, float16 or bfloat16.")] = "float32",
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Images with channels side by side.")] = False,
    threads: Annotated[int | None, typer.Option(help="[default: PyTorch's number]", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Time a convolution or pooling on this machine's CPU: each pass, with every backend that computes it.

    Beside each time is its share of the roofline: the limit by the processor's arithmetic and memory, both measured at
    the start. Notes below explain shares above 100 % and why a backend refuses. Results are written to memory that the
    process has already, as in an accelerated model, because fresh memory from the system often costs more than the
    convolution.

    \b
    Example:
      striate bench "conv2d 16x96x28x28 96x1x3x3 padding=1 groups=96"
      striate bench "max_pool2d 8x64x112x112 kernel=3 stride=2 padding=1" --channels-last
    """
    import torch

    from striate.engine import time_problem
    from striate.engine.memory import keep_freed_memory
    from striate.report import tables

    kinds = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype not in kinds:
        raise RunError("--dtype", f"got {dtype!r}", "needed " + " or ".join(kinds))
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()
    found = time_problem(problem, kinds[dtype], channels_last)
    if as_json:
        print_json(found.to_dict())
    else:
        show(tables.timing(found))


def _position(text: str) -> tuple[str, tuple[int, ...]]:
    layer, *places = text.split(",")
    if not layer or len(places) != 2 or not all(place.strip().isdecimal() for place in places):
        raise RunError("--at", f"got {text!r}", "needed a layer and a position in its map", "as s4,1,1")
    return layer, tuple(int(place) for place in places)
