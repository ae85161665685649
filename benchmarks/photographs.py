"""Real annotated pictures, few of them: nuclei under a microscope outlined, trees seen from the air in boxes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from PIL import Image
from rich.console import Console

from benchmarks.measure import RESULTS, circumstances
from benchmarks.packages import nuclei, tiles
from striate import models, nn
from striate.models.fcos import FCOS
from striate.models.registry import register

_LITE: Final = "efficientnet_lite0"
#: Children of EfficientNet-Lite's features whose maps are every 8th, 16th and 32nd pixel.
_STAGES: Final = ("3", "5", "7")
#: Width and height of the picture that is kept, at most; of many pictures it shows the first.
_SHOWN: Final = (1000, 2000)
_TREES: Final = "fcos_efficientnet_lite0"


def fcos_lite(num_classes: int = 2, in_channels: int = 3) -> FCOS:
    """FCOS on a pyramid over EfficientNet-Lite0 with its ImageNet weights, whose batch normalisation stays frozen."""
    lite = models.pretrained(_LITE)
    scale = lite.preprocessing.normalization
    features = lite.model.get_submodule("features")
    nn.freeze_batch_norm(features)
    body = nn.FeatureMaps(features, {stage: str(index) for index, stage in enumerate(_STAGES)})
    channels = (40, 112, 320)
    pyramid = nn.PyramidBackbone(body, channels, FCOS.strides[:3], extra_blocks=nn.LastLevelP6P7(256, 256))
    assert scale is not None
    return FCOS(
        num_classes,
        in_channels,
        backbone=pyramid,
        image_mean=scale.mean,
        image_std=scale.std,
        min_size=400,
        max_size=400,
        score_thresh=0.05,
    )


register(fcos_lite, _TREES, "FCOS on EfficientNet-Lite0 with ImageNet's weights, 400x400 images.", task="detection")


@dataclass(frozen=True)
class Case:
    """What is trained on which pictures, and how."""

    model: str
    write: Any
    recipe: dict[str, Any] = field(hash=False)


CASES: Final = {
    "nuclei": Case(
        "condinst_small",
        nuclei,
        {
            "image_size": (512, 256),
            "epochs": 200,
            "batch_size": 1,
            "augment": "flip+scale+colour",
            "learning_rate": 0.003,
            "warmup": 0.1,
            "ema": 0.99,
        },
    ),
    "trees": Case(
        _TREES,
        tiles,
        {
            "image_size": (400, 400),
            "epochs": 8,
            "batch_size": 1,
            "augment": "flip+scale+colour",
            "optimizer": "adamw",
            "learning_rate": 0.0005,
            "backbone_lr_factor": 0.5,
            "warmup": 0.1,
            "ema": 0.99,
        },
    ),
}


def main(
    case: Annotated[str, typer.Argument(help=" or ".join(CASES) + ".")],
    seed: Annotated[int, typer.Option(help="Of the weights and the order.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="Other than the case's.")] = None,
    threads: Annotated[int | None, typer.Option(help="PyTorch's.")] = None,
    out: Annotated[Path, typer.Option(help="Where pictures and runs lie.")] = Path("runs/photographs"),
    save: Annotated[bool, typer.Option(help="Write results/photographs-CASE.json and the picture.")] = False,
) -> None:
    """Trains a small network on one part of the pictures and tests it on the other, once.

    The pictures come out of the wheels of stardist and deepforest, which are downloaded.

    \b
    Example:
      python -m benchmarks photographs nuclei --save
    """
    from striate.cli import pictures
    from striate.training import Recipe, fit

    if case not in CASES:
        raise typer.BadParameter(f"got {case}; needed {' or '.join(CASES)}")
    wanted = CASES[case]
    recipe = {**wanted.recipe, **({} if epochs is None else {"epochs": epochs})}
    folder = out / f"{case}-{seed}"
    source = wanted.write(out / "data")
    run = fit(Recipe(wanted.model, data=source, out=str(folder), seed=seed, threads=threads, **recipe), resume=True)
    history = [epoch.held_out for epoch in run.history]
    seconds = sum(epoch.seconds for epoch in run.history)
    Console().print(f"{case}: {history[-1]}, {seconds:,.0f} s")
    if save:
        RESULTS.mkdir(exist_ok=True)
        told = {**circumstances(), "threads": str(run.settings.threads)}
        content = {
            "model": wanted.model, "pictures": case, **told, "seed": seed, "recipe": recipe,
            "held out": history[-1], "training_seconds": round(seconds, 1),
        }  # fmt: skip
        (RESULTS / f"photographs-{case}.json").write_text(json.dumps(content, indent=2) + "\n")
        pictures.save(run)
        with Image.open(folder / "predictions.png") as drawn:
            first = drawn.crop((0, 0, drawn.width, min(drawn.height, 2 * drawn.width)))
            first.thumbnail(_SHOWN)
            first.convert("RGB").save(RESULTS / f"photographs-{case}.jpg", quality=80)
