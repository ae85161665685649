"""Maps, patches and the hierarchy: patches against a search over all images and places."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from tangled import KINDS, Tangled, untouched
from torch import Tensor, nn

from cases import slow_but
from striate.errors import ExplainError
from striate.explain import activation_maps, hierarchy, top_patches


def test_maps_are_the_layers_output() -> None:
    model = Tangled().train()
    image = torch.rand(1, 12, 12)
    found = activation_maps(model, image, "deep.part.0")
    model.eval()
    x = model.stem(image[None]).relu()
    x = model.again(model.again(x).relu()).relu()
    torch.testing.assert_close(found.maps, model.deep["part"][0](F.max_pool2d(x, 2))[0].detach())
    means = [float(each.abs().mean()) for each in found.maps]
    assert list(found.strongest) == sorted(range(8), key=lambda channel: -means[channel])


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (5, 2, 2), (4, 3, 0), (3, 2, 3)])
def test_patches_are_found_by_a_search_over_everything(kernel: int, stride: int, padding: int) -> None:
    layer = nn.Conv2d(2, 3, kernel, stride, padding)
    images = torch.rand(6, 2, 11, 13)
    found = top_patches(nn.Sequential(layer), images, "0", 1, count=4, batch_size=4)
    outputs = layer(images)[:, 1].detach()
    best = []
    for number in range(6):
        places = {
            (y, x): float(outputs[number, y, x]) for y in range(outputs.shape[1]) for x in range(outputs.shape[2])
        }
        place = max(places, key=lambda each: places[each])
        best.append((places[place], number, place))
    best.sort(reverse=True)
    assert [(patch.image, patch.position) for patch in found.patches] == [(number, at) for _, number, at in best[:4]]
    for patch in found.patches:
        # The patch is what the window saw: its product with the kernel is the activation.
        assert patch.pixels.shape == (2, kernel, kernel)
        value = (patch.pixels * layer.weight[1]).sum() + layer.bias[1]
        assert patch.activation == pytest.approx(float(value.detach()), abs=1e-5)
        rows = torch.arange(kernel) + patch.top
        columns = torch.arange(kernel) + patch.left
        inside = ((rows >= 0) & (rows < 11))[:, None] & ((columns >= 0) & (columns < 13))
        assert torch.equal(patch.inside, inside)
        seen = images[patch.image][:, rows[(rows >= 0) & (rows < 11)]][:, :, columns[(columns >= 0) & (columns < 13)]]
        assert torch.equal(patch.pixels[:, inside], seen.flatten(1))


def test_a_patch_is_all_that_a_deep_place_sees() -> None:
    class Places(nn.Module):
        """Two layers of windows without padding, so that a patch by itself gives the same number."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 4, 3, 2), nn.Conv2d(4, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).relu())

    model = Places()
    for patch in top_patches(model, torch.rand(5, 1, 20, 20), "second", 2).patches:
        assert patch.pixels.shape == (1, 7, 7)
        assert float(model(patch.pixels[None])[0, 2].squeeze()) == pytest.approx(patch.activation, abs=1e-5)


def test_where_everything_is_seen_the_patch_is_the_image() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.out(x * x.mean((2, 3), keepdim=True).sigmoid())

    patch = top_patches(Gated(), torch.rand(2, 1, 9, 9), "out", 0).patches[0]
    assert patch.pixels.shape == (1, 9, 9)
    assert bool(patch.inside.all())


@pytest.mark.formula("S11")
def test_stages_grow() -> None:
    layers: list[nn.Module] = []
    for channels in (1, 4, 4, 4, 4):
        layers += [nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    found = hierarchy(nn.Sequential(*layers), torch.rand(1, 64, 64))
    assert [stage.name for stage in found.stages] == ["edges", "textures", "parts", "objects"]
    sizes = [max(stage.field) for stage in found.stages]
    assert sizes == sorted(set(sizes))
    assert sizes[0] <= 64 / 12
    assert sizes[1] <= 64 / 4
    assert sizes[2] <= 64 * 2 / 3
    assert found.stages[-1].layer == "14"
    for stage in found.stages:
        for channel, map_, patch in zip(stage.channels, stage.maps, stage.patches, strict=True):
            assert float(map_.max()) == pytest.approx(patch.activation)
            assert float(map_[patch.position]) == pytest.approx(patch.activation)
            assert 0 <= channel < 4


@pytest.mark.parametrize("kind", slow_but(KINDS, ["channels_last"]))
def test_every_kind_of_network(kind: str, tmp_path: object) -> None:
    model, images = KINDS[kind]()
    with untouched(model):
        found = activation_maps(model, images[0], "again@1")
        best = top_patches(model, images, "again@1", 0)
        levels = hierarchy(model, images[0])
    assert best.patches[0].pixels.shape == (1, 5, 5)
    for number, result in enumerate((found, best, levels)):
        json.dumps(result.to_dict(), allow_nan=False)
        result.save(f"{tmp_path}/{number}.png")
    found.figure(alike=False, most=2)


def test_patches_are_seen_in_the_picture() -> None:
    # The window around (0, 0) is the first that sees all that is white; two rows and columns of it hang over.
    network = nn.Sequential(nn.Conv2d(1, 1, 5, padding=2))
    nn.init.ones_(network[0].weight)
    images = torch.zeros(1, 1, 9, 9)
    images[0, 0, :3, :3] = 1
    figure = top_patches(network, images, "0", 0, count=1).figure()
    figure.canvas.draw()
    axes = next(each for each in figure.axes if each.images)
    assert axes.patches[0].get_zorder() < axes.images[0].get_zorder()
    left, right, bottom, top = axes.images[0].get_extent()
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 4.5), (4.5, -0.5))
    assert (left, right, bottom, top) == (1.5, 4.5, 4.5, 1.5)


def test_mistakes() -> None:
    model, images = Tangled(), torch.rand(2, 1, 12, 12)
    with untouched(model):
        with pytest.raises(ExplainError, match="near: stem"):
            activation_maps(model, images[0], "steam")
        with pytest.raises(ExplainError, match="has no places"):
            activation_maps(model, images[0], "head")
        with pytest.raises(ExplainError, match="got 2 images"):
            activation_maps(model, images, "stem")
        with pytest.raises(ExplainError, match="got 6; needed 0 to 5"):
            top_patches(model, images, "stem", 6)
        with pytest.raises(ExplainError, match="needed 1 or more"):
            top_patches(model, images, "stem", 0, count=0)
        with pytest.raises(ExplainError, match="no layer whose output has places"):
            hierarchy(nn.Sequential(nn.Flatten(), nn.Linear(144, 4)), images[0])
