"""Recipes: what can't be is refused by name, and JSON brings back what it was given."""

from __future__ import annotations

import json
from typing import Any

import pytest

from striate.data import STYLES
from striate.errors import RunError
from striate.training import Recipe
from striate.training.recipe import AUGMENTS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ""),
        ("data", None),
        ("out", ""),
        ("epochs", 0),
        ("epochs", True),
        ("epochs", 2.5),
        ("batch_size", 0),
        ("optimizer", "adam"),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", "0.1"),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("schedule", "onecycle"),
        ("warmup", 1.0),
        ("label_smoothing", 1.0),
        ("clip_norm", 0.0),
        ("seed", -1),
        ("seed", 2**32),
        ("test_fraction", 1.0),
        ("image_size", (28,)),
        ("image_size", (28, 0)),
        ("image_size", 28),
        ("channels", 2),
        ("threads", 0),
        ("device", ""),
        ("checkpoint_every", -1.0),
        ("augment", "rotate"),
        ("erase", 1.1),
        ("mixup", -0.1),
        ("cutmix", float("inf")),
        ("weights", ""),
        ("freeze", "head"),
        ("backbone_lr_factor", -1.0),
        ("freeze_batch_norm", 1),
        ("engine", "fast"),
        ("precision", "float16"),
        ("accumulate", 0),
        ("ema", 1.0),
        ("checkpoint_activations", "yes"),
        ("workers", -1),
        ("tensorboard", None),
    ],
)
def test_what_cannot_be_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(RunError, match=rf"^{field}: got .*; needed "):
        Recipe(**{"model": "lenet5", field: value})


def test_styles_are_those_of_the_data() -> None:
    assert tuple(STYLES) == AUGMENTS


def test_json_brings_it_back() -> None:
    recipe = Recipe("lenet5", image_size=(32, 28), clip_norm=1.0, out="runs/x", epochs=7)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_unknown_and_missing_fields_are_named() -> None:
    fields = Recipe("lenet5").to_dict()
    with pytest.raises(RunError, match="unknown colour"):
        Recipe.from_dict(fields | {"colour": 1})
    with pytest.raises(RunError, match=r"unknown epoch; .*did you mean epochs\?"):
        Recipe.from_dict(fields | {"epoch": 1})
    del fields["seed"]
    assert Recipe.from_dict(fields) == Recipe("lenet5"), "what an older version didn't have has its default"
    del fields["model"]
    with pytest.raises(RunError, match="no model"):
        Recipe.from_dict(fields)


def test_differences_are_those_that_change_numbers() -> None:
    begun = Recipe("lenet5", out="a", checkpoint_every=1.0)
    assert Recipe("lenet5", out="b", checkpoint_every=2.0).differences(begun) == []
    assert Recipe("lenet5", epochs=5, seed=3).differences(begun) == [
        f"epochs 5, not {begun.epochs}",
        "seed 3, not 0",
    ]
