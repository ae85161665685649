"""Feature maps by name: values, keys, and what is left out."""

from __future__ import annotations

import pytest
import torch

from striate import models, nn
from striate.errors import ModelError


def test_maps_are_those_that_the_network_computes() -> None:
    network = models.create("resnet18", small_input=True).eval()
    maps = nn.FeatureMaps(network, {"layer2": "0", "layer4": "1"})
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        found = maps(x)
        second = network.layer2(network.layer1(network.stem(x)))
        assert torch.equal(found["0"], second)
        assert torch.equal(found["1"], network.layer4(network.layer3(second)))
    assert list(found) == ["0", "1"]


def test_keys_are_the_networks_and_what_is_not_needed_is_left_out() -> None:
    with torch.device("meta"):
        network = models.create("resnet18")
    keys = nn.FeatureMaps(network, {"layer1": "low", "layer3": "high"}).state_dict().keys()
    assert keys == {key for key in network.state_dict() if not key.startswith(("layer4.", "fc."))}


def test_an_unknown_layer_is_one_line() -> None:
    with torch.device("meta"):
        network = models.create("resnet18")
    with pytest.raises(ModelError, match="ResNet has no layer 'layer5'; needed names of conv1, bn1"):
        nn.FeatureMaps(network, {"layer5": "0"})
