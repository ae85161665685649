"""What is frozen stays to the bit, what isn't learns; the head is found by structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from striate import models
from striate.errors import ModelError, RunError
from striate.tasks.classification import Classification
from striate.tasks.heads import Parts
from striate.training import Recipe, fit
from striate.training.transfer import Learning


def names(model: nn.Module, layers: tuple[nn.Module, ...]) -> list[str]:
    return [name for name, module in model.named_modules() if module in layers]


class Convolutional(nn.Module):
    """A head that is a 1x1 convolution, and a name that comes after it in the order of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Conv2d(8, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.norm(self.first(x)))).mean((2, 3))


def test_parts() -> None:
    lenet = models.create("lenet5")
    parts = Parts.of(lenet, 10)
    assert names(lenet, parts.backbone) == ["c1", "c3", "c5"]
    assert names(lenet, parts.classifier) == ["f6", "output"]
    assert names(lenet, (parts.head,)) == ["output"]
    convolutional = Convolutional()
    assert names(convolutional, Parts.of(convolutional, 10).classifier) == ["head"]
    with pytest.raises(
        RunError, match="has no linear layer or 1x1 convolution of 11 outputs; needed one, to be the head"
    ):
        Parts.of(convolutional, 11)


def test_frozen_layers_are_in_evaluation_mode_and_the_dropout_between_them() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.Dropout(), nn.BatchNorm2d(8), nn.Dropout(), nn.Flatten(), nn.Linear(8, 10)
    )
    learning = Learning.of(model, Recipe("x", freeze="backbone"), Classification(), 10)
    assert [index for index, layer in enumerate(model) if layer in learning.still] == [0, 1, 2]
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] * 4 + [True] * 2
    free = Learning.of(Convolutional(), Recipe("x", freeze_batch_norm=True), Classification(), 10)
    assert [type(layer) for layer in free.still] == [nn.BatchNorm2d]
    for settings, norms in (({}, 0), ({"weights": "w"}, 1), ({"weights": "w", "freeze_batch_norm": False}, 0)):
        assert len(Learning.of(Convolutional(), Recipe("x", **settings), Classification(), 10).still) == norms, settings
    with pytest.raises(RunError, match="backbone of x is nothing"):
        Learning.of(nn.Sequential(nn.Linear(4, 10)), Recipe("x", freeze="backbone"), Classification(), 10)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.manual_seed(5)
    path = tmp_path / "weights.safetensors"
    save_file(models.create("lenet5").state_dict(), path)
    return str(path)


@pytest.mark.parametrize(
    ("settings", "learns"),
    [
        ({"freeze": "all-but-head"}, {"output"}),
        ({"freeze": "backbone"}, {"f6", "output"}),
        pytest.param({"backbone_lr_factor": 0.0}, {"f6", "output"}, marks=pytest.mark.slow),
        ({}, {"c1", "c3", "c5", "f6", "output"}),
    ],
)
def test_what_learns(settings: dict[str, Any], learns: set[str], weights: str, tmp_path: Path) -> None:
    recipe = Recipe(
        "lenet5", out=str(tmp_path / "run"), epochs=1, batch_size=256, threads=1, weights=weights, **settings
    )
    if "backbone_lr_factor" in settings:
        recipe = Recipe(**{**recipe.to_dict(), "weight_decay": 0.0})
    trained = fit(recipe, quiet=True).model()
    begun = models.create("lenet5", weights=weights)
    changed = {
        name.partition(".")[0]
        for name, tensor in trained.state_dict().items()
        if not torch.equal(tensor, begun.state_dict()[name])
    }
    assert changed == learns


def test_slow_backbones_learn_by_their_factor() -> None:
    model = models.create("lenet5")
    groups = Learning.of(model, Recipe("lenet5", backbone_lr_factor=0.1), Classification(), 10).groups
    assert [factor for _, factor in groups] == [1.0, 0.1]
    assert sum(len(parameters) for parameters, _ in groups) == len(list(model.parameters()))


def test_weights_of_another_network(weights: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"weights\.safetensors"):
        fit(Recipe("simple_cnn", out=str(tmp_path / "run"), weights=weights), quiet=True)
    assert not (tmp_path / "run").exists()
