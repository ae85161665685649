"""Commands about networks' behaviour when images move or change: equivariance, robustness, checkerboard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from striate.cli.app import Json, MaxPixels, SkipBroken, app, draw, network_of, print_json, refuse_loss, say, show
from striate.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from striate.training import Run

_Model = Annotated[str, typer.Argument(metavar="MODEL|RUN", help="A network's name, or the folder of a finished run.")]
_Size = Annotated[str | None, typer.Option(help="CxHxW [default: the network's own].")]
_Out = Annotated[Path | None, typer.Option(metavar="PNG", help="Draw it as well.")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ...")]
#: Default number of held-out images of a run; for other data, all images are used.
_IMAGES: Final = 500
#: Number of noise images if no image is given.
_NOISE: Final = 8
_BORDERS: Final = ("circular", "zeros")


@app.command()
def equivariance(
    model: _Model,
    size: _Size = None,
    image: Annotated[
        list[str] | None, typer.Option(help="An image to move; several may be given [default: noise].")
    ] = None,
    shifts: Annotated[str, typer.Option(help="Pixels along both axes, with commas between.")] = "0.5,1,2,3,4",
    borders: Annotated[str, typer.Option(help="circular or zeros.")] = "circular",
    device: _Device = "auto",
    max_pixels: MaxPixels = None,
    out: _Out = None,
    as_json: Json = False,
) -> None:
    """Measure how each layer's map follows a shift of the image.

    If the image moves by some pixels, the map of a layer with total stride s should move by 1/s of that. The command
    prints how much the map of the moved image differs from the moved map: 0 up to rounding for convolution, much for a
    max pooling with stride 2. Images are rolled and the network's borders are circular; or zeros enter the image, and
    only positions count that see nothing but the image.

    \b
    Example:
      striate equivariance lenet5
      striate equivariance runs/first --image digit.png --shifts 1,2 --borders zeros --out shifts.png
    """
    import torch

    from striate.analysis import equivariance as measured
    from striate.report import invariance
    from striate.training.environment import find_device

    place = find_device(device)
    torch.manual_seed(0)  # for the weights of an untrained network
    network = network_of(model, size, max_pixels)
    if image:
        source = network.prepare(torch.stack([network.read(path) for path in image]))
    else:
        source = torch.randn(_NOISE, *network.shape, generator=torch.Generator().manual_seed(0))
    distances, edges = _numbers("--shifts", shifts), _named("--borders", borders, _BORDERS)
    found = measured(network.model.to(place), source.to(place), distances, borders=edges, name=network.name)  # type: ignore[arg-type]
    if out is not None:
        refuse_loss(out, image or ())
        draw(out, lambda: invariance.heat_map(found))
    if as_json:
        print_json(found.to_dict())
    else:
        show(invariance.equivariance(found))


@app.command()
def robustness(
    run: Annotated[str, typer.Argument(help="The folder of a finished run.")],
    data: Annotated[
        str | None, typer.Option(help="Other data, of classes of the run [default: the run's held-out images].")
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(min=1, help="How many, spread evenly [default: all of other data, 500 of the run's]."),
    ] = None,
    only: Annotated[str | None, typer.Option(help="Some disturbances, with commas between [default: all].")] = None,
    attack: Annotated[bool, typer.Option("--attack", help="Attack it as well, by FGSM and PGD.")] = False,
    device: _Device = "auto",
    skip_broken: SkipBroken = False,
    max_pixels: MaxPixels = None,
    out: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the curves.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a trained network's accuracy on images that are moved, rotated, faded, covered, noisy or attacked.

    \b
    Example:
      striate robustness runs/first --out curves.png
      striate robustness runs/first --only rotation,scale --images 200 --attack
      striate robustness runs/first --data folder:SCANS
    """
    from striate.analysis import DISTURBANCES, adversarial, shift_consistency
    from striate.analysis import robustness as measured
    from striate.report import invariance
    from striate.training import Run
    from striate.training.environment import find_device

    place = find_device(device)
    opened = Run.open(run)
    settings, network = opened.settings, opened.model().to(place)
    names = None if only is None else [_named("--only", name.strip(), list(DISTURBANCES)) for name in only.split(",")]
    pixels, labels = (each.to(place) for each in _labelled(opened, data, images, skip_broken, max_pixels))

    def prepare(shown: Tensor) -> Tensor:
        mean, std = (
            shown.new_tensor(each)[:, None, None] for each in (settings.normalization.mean, settings.normalization.std)
        )
        return (shown - mean) / std

    say(f"disturbing {len(pixels)} images")
    called = settings.recipe.model
    found = measured(network, pixels, labels, names, prepare=prepare, name=called)
    say("moving them")
    reach = min(4, min(settings.image_size) - 1)
    moved = shift_consistency(network, pixels, reach, borders="zeros", prepare=prepare, name=called)
    attacked = None
    if attack:
        say("attacking them")
        attacked = adversarial(network, pixels, labels, prepare=prepare, name=called)
    if out is not None:
        draw(out, lambda: invariance.curves(found, pixels[:1].cpu()))
    if as_json:
        hit = {} if attacked is None else {"adversarial": attacked.to_dict()}
        print_json({"robustness": found.to_dict(), "consistency": moved.to_dict(), **hit})
        return
    show(invariance.robustness(found), invariance.consistency(moved))
    if attacked is not None:
        show(invariance.adversarial(attacked))


@app.command()
def checkerboard(model: _Model, size: _Size = None, out: _Out = None, as_json: Json = False) -> None:
    """Measure how evenly a network's strided windows cover positions, outputs or gradients.

    If the stride doesn't divide the kernel, some positions are covered more often than their neighbours, which shows as
    a checkerboard.

    \b
    Example:
      striate checkerboard lenet5
    """
    import torch

    from striate.analysis import checkerboard as counted
    from striate.report import invariance

    torch.manual_seed(0)
    network = network_of(model, size)
    found = counted(network.model, network.shape, name=network.name)
    if out is not None:
        draw(out, lambda: invariance.coverages(found))
    if as_json:
        print_json(found.to_dict())
    elif len(found):
        show(invariance.checkerboards(found))
    else:
        show(f"{found.model} has no strided convolution or pooling")


def _labelled(
    run: Run, data: str | None, most: int | None, skip_broken: bool, max_pixels: int | None
) -> tuple[Tensor, Tensor]:
    """Pixels (N, C, H, W) in 0..1, and the numbers that the run gives to their classes.

    Of the run's own data those that it held out, of other data all.
    """
    import torch

    from striate.training.assess import images_to_test

    images, notes, _ = images_to_test(run, data, skip_broken=skip_broken, max_pixels=max_pixels)
    for note in notes:
        say(note)
    if most is None:
        most = _IMAGES if data is None else len(images)
    count = min(most, len(images))
    chosen = torch.arange(count) * len(images) // count
    return images.gather(chosen).float() / 255, images.labels[chosen]


def _named(option: str, text: str, known: Sequence[str]) -> str:
    """One of some names; an unknown name is returned unchanged, and a later check reports it."""
    from striate.explain.names import find

    place = find(text, known, option)
    return text if place is None else known[place]


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError as error:
        raise RunError(option, f"got {text!r}", "needed numbers with commas between", "as 0.5,1,2") from error
