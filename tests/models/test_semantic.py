"""Semantic networks of torchvision's names: the same keys, initial weights, scores; weights with and without a head."""

from __future__ import annotations

import re
import warnings
from functools import partial
from pathlib import Path

import peer
import pytest
import torch
from peers import told_apart, without_chance
from safetensors.torch import save_file

from striate import models
from striate.errors import ModelError, OperandError, WeightsWarning
from striate.models.dilated import MOBILENET, RESNET50
from striate.models.fcn import FCN, FCNHead, Segmenter

#: From torchvision's documentation: parameters with 21 classes and the second head.
PARAMETERS = {
    "fcn_resnet50": 35_322_218,
    "fcn_resnet101": 54_314_346,
    "deeplabv3_resnet50": 42_004_074,
    "deeplabv3_resnet101": 60_996_202,
    "deeplabv3_mobilenet_v3_large": 11_029_328,
    "lraspp_mobilenet_v3_large": 3_221_538,
}
FAST = ("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
NAMES = [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in PARAMETERS]


def theirs(name: str, **options: object) -> torch.nn.Module:
    return peer.segmentation(name, **({} if name.startswith("lraspp") else {"aux_loss": True}), **options)


@pytest.mark.parametrize("name", models.names("semantic"))
def test_parameters_are_what_the_description_says(name: str) -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in models.create(name).parameters())
    told = re.search(r"([\d,]+) parameters, (\d+)x(\d+) images\.", models.describe(name))
    assert told is not None
    assert count == int(told[1].replace(",", "")) == PARAMETERS.get(name, count)
    assert models.input_shape(name) == (3, int(told[2]), int(told[3]))


@pytest.mark.parametrize("name", NAMES)
def test_names_initial_weights_and_scores_are_torchvisions(name: str) -> None:
    torch.manual_seed(3)
    other = theirs(name)
    torch.manual_seed(3)
    model = models.create(name)
    expected = other.state_dict()
    assert list(model.state_dict()) == list(expected)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[key]), key
    model, other = without_chance(model), without_chance(other)
    with torch.no_grad():
        for training in (True, False):
            # The first call of either mode sets statistics, or uses them: in evaluation of one image of another size.
            images = torch.randn(2, 3, 64, 48) if training else torch.randn(1, 3, 33, 81)
            here, there = model.train(training)(images.double()), other.train(training)(images.double())
            assert list(here) == list(there)
            for key, scores in here.items():
                assert scores.shape == (*scores.shape[:2], *images.shape[2:])
                assert there[key].std() > 0.01  # or a network that says nothing would pass
                torch.testing.assert_close(scores, there[key], rtol=0, atol=1e-9)


@pytest.mark.parametrize("trained", [True, False])
def test_weights_load_with_and_without_the_second_head(trained: bool, tmp_path: Path) -> None:
    """Files say both heads or one; networks have both or one; the head in front is what matters."""
    file = tmp_path / "model.safetensors"
    small = partial(Segmenter, torch.nn.Identity())
    source = told_apart(small(FCNHead(8, 5), FCNHead(4, 5) if trained else None))
    save_file(source.state_dict(), file)
    model = small(FCNHead(8, 5), None if trained else FCNHead(4, 5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        models.load_weights(model, file)
    assert [each.category for each in caught] == ([] if trained else [WeightsWarning])
    if not trained:
        assert "aux_classifier isn't in it, and stays random" in str(caught[0].message)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if name.startswith("aux") else source.state_dict()[name]), name


def test_heads_for_other_classes_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    source = told_apart(models.create("lraspp_mobilenet_v3_large", num_classes=3))
    save_file(source.state_dict(), file)
    with pytest.warns(
        WeightsWarning,
        match="low_classifier and classifier.high_classifier is for 3 classes, this network's for 4, and",
    ):
        model = models.create("lraspp_mobilenet_v3_large", num_classes=4, weights=file)
    for name, tensor in model.state_dict().items():
        same = tensor.shape == source.state_dict()[name].shape and torch.equal(tensor, source.state_dict()[name])
        assert same is not name.startswith(("classifier.low_classifier", "classifier.high_classifier")), name
    with pytest.raises(ModelError, match=r"weights of another model: classifier\.high_classifier"):
        models.load_weights(model, file)
    with pytest.raises(ModelError, match="weights of another model"):
        models.create("deeplabv3_mobilenet_v3_large", weights=file)


def test_one_head_gives_one_result() -> None:
    with torch.device("meta"):
        assert list(FCN(RESNET50, aux_loss=False)(torch.zeros(1, 3, 32, 32))) == ["out"]
        assert list(FCN(RESNET50, 7, 2)(torch.zeros(1, 2, 32, 32))["aux"].shape) == [1, 7, 32, 32]


def test_dilation_keeps_maps_at_a_stride_of_eight_and_sixteen() -> None:
    with torch.device("meta"):
        maps = RESNET50.build(3, aux=True)(torch.zeros(1, 3, 65, 97))
        assert {name: tuple(each.shape) for name, each in maps.items()} == {
            "aux": (1, 1024, 9, 13),
            "out": (1, 2048, 9, 13),
        }
        maps = MOBILENET.build(3, aux=True)(torch.zeros(1, 3, 65, 97))
        assert {name: tuple(each.shape) for name, each in maps.items()} == {
            "aux": (1, 40, 9, 13),
            "out": (1, 960, 5, 7),
        }


def test_deeplab_says_why_it_can_not_learn_from_one_image() -> None:
    model = models.create("deeplabv3_mobilenet_v3_large", num_classes=2)
    with pytest.raises(OperandError, match="deeplabv3: got a batch of one image"):
        model(torch.zeros(1, 3, 32, 32))
    assert model.eval()(torch.zeros(1, 3, 32, 32))["out"].shape == (1, 2, 32, 32)
