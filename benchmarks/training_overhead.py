"""What training costs beyond a bare PyTorch loop that does the same with images in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from torch import Tensor

from benchmarks.measure import circumstances, in_turns
from benchmarks.steps import plain
from striate import data, models
from striate.engine import tuning
from striate.training.display import Display
from striate.training.environment import Stop
from striate.training.loop import Training
from striate.training.recipe import Recipe
from striate.training.run import Settings, versions

STEPS = 8  # in an epoch: what is timed


def main(
    model: Annotated[str, typer.Option(help="A network's name.")] = "simple_cnn",
    batch: Annotated[int, typer.Option(help="Images a step.")] = 128,
    turns: Annotated[int, typer.Option(help="How often each loop runs an epoch.")] = 25,
    augment: Annotated[str, typer.Option(help="Also with this augmentation.")] = "digits",
) -> None:
    """Times an epoch of a few steps: PyTorch alone, striate's loop with PyTorch's kernels, with its own, and augmented.

    The first two compute the same. Their ratio is the overhead of batches, records, checks and the generators' seeds.

    Example: python -m benchmarks overhead --model lenet5 --batch 32
    """
    images = data.ImageSet(
        torch.randint(0, 256, (STEPS * batch, 1, 28, 28), dtype=torch.uint8),
        torch.arange(STEPS * batch) % 10,
        tuple(map(str, range(10))),
    )
    with tempfile.TemporaryDirectory() as folder, tuning.fixed():
        loops = {
            "PyTorch": bare(model, images, batch),
            "striate, aten": epochs(Path(folder), model, images, batch, engine="aten"),
            "striate": epochs(Path(folder), model, images, batch, engine="auto"),
            f"striate, {augment}": epochs(Path(folder), model, images, batch, engine="auto", augment=augment),
        }
        times = in_turns(loops, turns)
    console = Console()
    console.print(f"{model}, {batch} images a step: " + ", ".join(circumstances().values()), highlight=False)
    for name in loops:
        low, middle, high = times.ratio("PyTorch", name)
        console.print(
            f"{name:18} {times.median(name) / STEPS * 1e3:8.3f} ms a step, "
            f"{middle - 1:+7.1%} over PyTorch ({low - 1:+.1%} to {high - 1:+.1%})",
            highlight=False,
        )


def bare(name: str, images: data.ImageSet, batch: int) -> Callable[[], object]:
    """What somebody writes who has the images as a tensor."""
    model = plain(models.create(name)).train()
    recipe = Recipe(name)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-3, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    normalization = data.Normalization.of(images)
    mean, std = normalization.mean[0] * 255, normalization.std[0] * 255

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in torch.randperm(len(images)).split(batch):
            yield (images.images[chosen].float() - mean) / std, images.labels[chosen]

    def epoch() -> None:
        for pixels, labels in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(pixels), labels, label_smoothing=0.1).backward()
            optimizer.step()

    return epoch


def epochs(
    folder: Path, name: str, images: data.ImageSet, batch: int, *, engine: str, augment: str = "none"
) -> Callable[[], object]:
    """An epoch of a run's own loop, over and over, without tests and checkpoints."""
    recipe = Recipe(name, batch_size=batch, learning_rate=1e-3, engine=engine, augment=augment, device="cpu")
    settings = Settings(
        recipe=recipe,
        versions=versions(),
        device="cpu",
        threads=torch.get_num_threads(),
        classes=images.classes,
        preprocessing=data.Preprocessing(None, images.image_size, data.Normalization.of(images), mode="frame"),
        source="digits",
        augment=augment,
        learning_rate=1e-3,
        optimizer="sgd",
        new_head=False,
        small_input=False,
        train_images=len(images),
        test_images=len(images),
        parameters=0,
    )
    display = Display(1, STEPS, quiet=True)
    training = Training(folder, settings, data.Split(images, images, "random"), display, Stop())

    def epoch() -> None:
        training._begin_epoch()
        training._train()

    return epoch
