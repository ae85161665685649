"""What a recipe says of its images: which, in what way they are changed, and who decodes them."""

from __future__ import annotations

import os

from striate import data
from striate.training.recipe import Recipe


def load_data(recipe: Recipe, source: str, image_size: tuple[int, int], channels: int | None) -> data.Split:
    """The images of a source, brought to a size, with the recipe's hold-out where the source has none."""
    return data.load(
        source,
        image_size=image_size,
        channels=channels,
        test_fraction=recipe.test_fraction,
        seed=recipe.seed,
        stream=None if recipe.workers is None else True,
    )


def augmentation(recipe: Recipe) -> data.Augmentation | None:
    """How training images are changed; None for not at all."""
    if recipe.augment == "none" and not recipe.erase and not recipe.mixup and not recipe.cutmix:
        return None
    return data.Augmentation(recipe.augment, recipe.erase, recipe.mixup, recipe.cutmix, recipe.seed)


def workers(recipe: Recipe) -> int:
    """Processes that decode images where these stay in their files."""
    return min(4, os.cpu_count() or 1) if recipe.workers is None else recipe.workers
