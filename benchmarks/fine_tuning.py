"""Fine-tuning against logistic regression on the features of the same weights, on the same folds of small cuts."""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from PIL import Image
from sklearn.linear_model import LogisticRegression

from benchmarks.measure import RESULTS, circumstances
from striate import models
from striate.data import Batches, Fit
from striate.data.decoding import Reading
from striate.data.folds import folds
from striate.data.sources import gather
from striate.data.streamed import LabelledImages, Wanted
from striate.tasks.probe import features
from striate.training import Recipe
from striate.training.cross_validation import cross_validate

_NETWORK: Final = "efficientnet_lite0"


def main(
    cuts: Annotated[int, typer.Option(help="Of each of the ten photographs.")] = 24,
    epochs: Annotated[int, typer.Option(help="Of fine-tuning.")] = 8,
    parts: Annotated[int, typer.Option(help="Folds.")] = 5,
    seed: Annotated[int, typer.Option(help="Of cuts and folds.")] = 0,
    save: Annotated[bool, typer.Option(help="Write results/fine_tuning.json.")] = False,
) -> None:
    """Cross-validates both ways of using ImageNet's weights on cuts of 30 to 160 pixels, by the photograph of each."""
    with tempfile.TemporaryDirectory() as folder:
        source = f"folder:{_write(Path(folder) / 'cuts', cuts, seed)}"
        regression = {
            words: _regression(source, parts, seed, fit)
            for words, fit in (
                ("the weights' own preprocessing", models.pretrained(_NETWORK).preprocessing.how),
                ("framed, or squashed", Fit((224, 224))),
            )
        }
        recipe = Recipe(_NETWORK, source, str(Path(folder) / "runs"), epochs=epochs, seed=seed, weights="pretrained")
        tuned = [run.evaluation.accuracy for run in cross_validate(recipe, parts).runs]
    found: dict[str, Any] = {
        "cuts": 10 * cuts,
        "epochs": epochs,
        "seed": seed,
        "logistic regression": regression,
        "fine-tuning": tuned,
        **circumstances(),
    }
    for words, shares in (*regression.items(), ("fine-tuning, the defaults", tuned)):
        print(f"{words}: {statistics.mean(shares):.2%} right, folds {', '.join(f'{share:.1%}' for share in shares)}")
    if save:
        (RESULTS / "fine_tuning.json").write_text(json.dumps(found, indent=2) + "\n")


def _regression(source: str, parts: int, seed: int, fit: Fit) -> list[float]:
    """The share that logistic regression on the network's features gets right, of each fold."""
    known = models.pretrained(_NETWORK)
    images: LabelledImages = gather(source, Wanted(Reading(fit, 3))).parts[""]
    (head,) = [layer for layer in known.model.modules() if isinstance(layer, torch.nn.Linear)]
    inputs, labels = features(known.model, head, Batches(images, 32, known.preprocessing.normalization))
    shares = []
    for train, test in folds(images.labels, images.classes, parts, seed):
        fitted = LogisticRegression(max_iter=3_000).fit(inputs[train], labels[train])
        shares.append(float(fitted.score(inputs[test], labels[test])))
    return shares


def _write(folder: Path, cuts: int, seed: int) -> Path:
    """Random cuts of photographs that scikit-image and scikit-learn bring, a class for each photograph."""
    import skimage.data
    from sklearn.datasets import load_sample_images

    bundled = Path(skimage.data.__file__).parent
    china, flower = load_sample_images().images
    photographs = {"china": china, "flower": flower} | {
        name.partition(".")[0]: np.asarray(Image.open(bundled / name).convert("RGB"))
        for name in (
            *("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"),
            *("retina.jpg", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png"),
        )
    }
    random = np.random.default_rng(seed)
    for name, pixels in photographs.items():
        (folder / name).mkdir(parents=True)
        for number in range(cuts):
            height, width = random.integers(30, 161, 2)
            top, left = (
                random.integers(whole - part + 1) for whole, part in zip(pixels.shape, (height, width), strict=False)
            )
            Image.fromarray(pixels[top : top + height, left : left + width]).save(folder / name / f"{number:03}.png")
    return folder
