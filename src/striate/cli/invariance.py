"""Commands about what follows when images move or change: equivariance, robustness, checkerboard."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from striate.cli.app import Json, app, draw, network_of, print_json, show
from striate.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

_Model = Annotated[str, typer.Argument(metavar="MODEL|RUN", help="A network's name, or the folder of a finished run.")]
_Size = Annotated[str | None, typer.Option(help="CxHxW [default: the network's own].")]
_Out = Annotated[Path | None, typer.Option(metavar="PNG", help="Draw it as well.")]


@app.command()
def equivariance(
    model: _Model,
    size: _Size = None,
    image: Annotated[
        list[str] | None, typer.Option(help="An image to move; several may be given [default: noise].")
    ] = None,
    shifts: Annotated[str, typer.Option(help="Pixels along both axes, with commas between.")] = "0.5,1,2,3,4",
    borders: Annotated[str, typer.Option(help="circular or zeros.")] = "circular",
    out: _Out = None,
    as_json: Json = False,
) -> None:
    """Tell how each layer's map follows when the image moves.

    A layer of stride s should move its map by 1/s of what the image moves. What is told is by how much the map of the
    moved image differs from that: 0 to rounding for convolution, much for a maximum of stride 2. Images are rolled and
    the network's borders circular, or zeros come in and only positions count that see nothing but the image.

    \b
    Example:
      striate equivariance lenet5
      striate equivariance runs/first --image digit.png --shifts 1,2 --borders zeros --out shifts.png
    """
    import torch

    from striate.analysis import equivariance as measured
    from striate.data import load_image
    from striate.report import invariance

    torch.manual_seed(0)  # of the weights of a network that isn't trained
    network, shape, prepare = network_of(model, size)
    source: Any = shape
    if image:
        channels, height, width = shape
        pixels = [load_image(path, channels=channels, image_size=(height, width)) for path in image]
        source = prepare(torch.stack(pixels))
    found = measured(network, source, _numbers("--shifts", shifts), borders=borders)  # type: ignore[arg-type]
    if out is not None:
        draw(out, lambda: invariance.heat_map(found))
    if as_json:
        print_json(found.to_dict())
    else:
        show(invariance.equivariance(found))


@app.command()
def robustness(
    run: Annotated[str, typer.Argument(help="The folder of a finished run.")],
    data: Annotated[str | None, typer.Option(help="Other data, with the run's classes [default: the run's].")] = None,
    images: Annotated[int, typer.Option(min=1, help="How many held-out images, the first ones.")] = 500,
    only: Annotated[str | None, typer.Option(help="Some disturbances, with commas between [default: all].")] = None,
    attack: Annotated[bool, typer.Option("--attack", help="Attack it as well, by FGSM and PGD.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the curves.")] = None,
    as_json: Json = False,
) -> None:
    """Tell how a trained network does on images that are moved, turned, faded, covered, noisy or attacked.

    \b
    Example:
      striate robustness runs/first --out curves.png
      striate robustness runs/first --only rotation,scale --images 200 --attack
    """
    import torch

    from striate.analysis import adversarial, shift_consistency
    from striate.analysis import robustness as measured
    from striate.report import invariance
    from striate.training import Run
    from striate.training.assess import images_to_test

    opened = Run.open(run)
    settings, network = opened.settings, opened.model()
    held_out, _, _ = images_to_test(opened, data)
    chosen = torch.arange(min(images, len(held_out)))
    pixels, labels = held_out.gather(chosen).float() / 255, held_out.labels[chosen]

    def prepare(shown: Tensor) -> Tensor:
        mean, std = (
            shown.new_tensor(each)[:, None, None] for each in (settings.normalization.mean, settings.normalization.std)
        )
        return (shown - mean) / std

    names = None if only is None else [name.strip() for name in only.split(",")]
    _say(f"disturbing {len(pixels)} images")
    found = measured(network, pixels, labels, names, prepare=prepare)
    _say("moving them")
    reach = min(4, min(settings.image_size) - 1)
    moved = shift_consistency(network, pixels, reach, borders="zeros", prepare=prepare)
    attacked = None
    if attack:
        _say("attacking them")
        attacked = adversarial(network, pixels, labels, prepare=prepare)
    if out is not None:
        draw(out, lambda: invariance.curves(found, pixels))
    if as_json:
        hit = {} if attacked is None else {"adversarial": attacked.to_dict()}
        print_json({"robustness": found.to_dict(), "consistency": moved.to_dict(), **hit})
        return
    show(invariance.robustness(found), invariance.consistency(moved))
    if attacked is not None:
        show(invariance.adversarial(attacked))


@app.command()
def checkerboard(model: _Model, size: _Size = None, out: _Out = None, as_json: Json = False) -> None:
    """Tell how evenly a network's strided windows cover positions, outputs or gradients.

    Where the stride doesn't divide the kernel some positions get more than their neighbours, in a checkerboard.

    \b
    Example:
      striate checkerboard lenet5
    """
    import torch

    from striate.analysis import checkerboard as counted
    from striate.report import invariance

    torch.manual_seed(0)
    network, shape, _ = network_of(model, size)
    found = counted(network, shape)
    if out is not None:
        draw(out, lambda: invariance.coverages(found))
    if as_json:
        print_json(found.to_dict())
    elif len(found):
        show(invariance.checkerboards(found))
    else:
        show(f"{found.model} has no strided convolution or pooling")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError as error:
        raise RunError(option, f"got {text!r}", "needed numbers with commas between", "as 0.5,1,2") from error
