"""A model card of a run that finds objects or classes of pixels: its use, its pictures and its measures."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from striate.report.markdown import code, escaped, nameless, table
from striate.tasks.maps import MapMeasures
from striate.tasks.objects import ObjectMeasures
from striate.training.run import Run

_DOES = {
    "detection": "finds objects on pictures: a box, a class and a score for each",
    "instance": "finds objects on pictures: a mask, a class and a score for each",
    "semantic": "says of each pixel of a picture which class it is of",
}


def short_card(run: Run) -> str:
    """The card, in Markdown.

    Args:
        run: a finished one, of the tasks detection, instance or semantic.
    """
    settings, folder = run.settings, shlex.quote(run.path.name)
    images = [("training", settings.train_images), ("validation", settings.val_images), ("test", settings.test_images)]
    seconds = sum(epoch.seconds for epoch in run.history)
    parts = [
        f"# {escaped(settings.recipe.model)} trained on {escaped(nameless(settings.recipe.data))}",
        f"The network {_DOES[run.task.name]}. It has {settings.parameters:,} parameters.",
        "## Classes",
        ", ".join(escaped(name) for name in run.classes),
        "## Images",
        table(("part", "pictures"), [(part, f"{count:,}") for part, count in images if count]),
        f"Preprocessing: {escaped(settings.preprocessing)}.",
        "## Measures on the test pictures",
        table(("measure", "value"), _rows(run.evaluation)),
        "## Each class",
        table(*_classes(run.evaluation)),
        "## Training",
        f"{len(run.history)} epochs in {seconds / 60:.1f} minutes on {escaped(settings.device)}, "
        f"seed {settings.recipe.seed}; "
        + ", ".join(f"{name} {escaped(version)}" for name, version in settings.versions.items())
        + ".",
        "## Use",
        code([f"striate predict PHOTO.jpg --model {folder} --out FOLDER", f"striate evaluate {folder}"], "sh"),
        "## Limits",
        "The measures hold for pictures like those of the test set. Objects of other sizes, other lighting or other "
        "classes than those above were not measured.",
    ]
    return "\n\n".join(parts) + "\n"


def _rows(record: object) -> list[tuple[str, str]]:
    if isinstance(record, MapMeasures):
        rows = [("mean IoU", record.mean_iou), ("pixel accuracy", record.accuracy), ("mean Dice", record.mean_dice)]
        return [(name, _number(value)) for name, value in rows]
    assert isinstance(record, ObjectMeasures)
    regions = {"boxes": record.boxes} | ({} if record.masks is None else {"masks": record.masks})
    return [
        (f"{name.replace('_', ' ').upper()} of {what}", _number(value))
        for what, region in regions.items()
        for name, value in region.numbers.items()
    ]


def _classes(record: object) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    if isinstance(record, MapMeasures):
        each = zip(record.classes, record.iou, record.precision, record.recall, strict=True)
        return ("class", "IoU", "precision", "recall"), [
            (escaped(name), *map(_number, numbers)) for name, *numbers in each
        ]
    assert isinstance(record, ObjectMeasures)
    return ("class", "objects", "AP", "AP50", "precision", "recall"), [
        (escaped(one.name), f"{one.objects:,}", *map(_number, (one.ap, one.ap50, one.precision, one.recall)))
        for one in record.main.classes
    ]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
