"""Networks of several inputs: one is explained, the others are held, by every method alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from striate import explain
from striate.errors import ExplainError
from striate.explain.inputs import Call, call_of
from striate.explain.methods import METHODS

#: The cheapest settings of methods that repeat themselves.
QUICK: dict[str, dict[str, Any]] = {
    "rise": {"masks": 6},
    "smooth_grad": {"samples": 2, "noise": 0.0},
    "integrated_gradients": {"steps": 4},
    "occlusion": {"window": 6},
}


class Gated(nn.Module):
    """An image whose channels are weighed by a vector of four numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, 5)

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        found = self.relu(self.conv(image)) * meta[:, :, None, None]
        return self.head(found.mean((2, 3)))


class FromDict(nn.Module):
    """The same, of one dict."""

    def __init__(self, like: Gated) -> None:
        super().__init__()
        self.like = like

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.like(batch["image"], batch["meta"])


class Held(nn.Module):
    """The same with a vector that it knows."""

    def __init__(self, like: Gated, meta: Tensor) -> None:
        super().__init__()
        self.conv, self.relu, self.head = like.conv, like.relu, like.head
        self.meta = meta

    def forward(self, image: Tensor) -> Tensor:
        return Gated.forward(self, image, self.meta)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in METHODS if name != "cam"])
def test_every_method_holds_what_it_does_not_explain(name: str) -> None:
    model, images, meta = Gated(), torch.rand(3, 3, 12, 12), torch.rand(3, 4) + 0.1
    options = QUICK.get(name, {})
    found = METHODS[name](model, (images, meta), [1, 2, 1], **options)
    for place, target in enumerate((1, 2, 1)):
        alone = METHODS[name](Held(model, meta[place : place + 1]), images[place], target, **options)
        assert torch.allclose(found.map[place], alone.map[0], atol=1e-6), place
    if name != "eigen_cam":  # which looks at nothing after its layer
        assert not torch.allclose(found.map, METHODS[name](model, (images, meta.flip(0)), [1, 2, 1], **options).map)


@pytest.mark.parametrize("name", ["grad_cam", "saliency", "occlusion"])
def test_inputs_in_every_form_give_the_same_map(name: str) -> None:
    model, images, meta = Gated(), torch.rand(2, 3, 12, 12), torch.rand(2, 4)
    method = METHODS[name]
    true = method(model, (images, meta), 1).map
    for network, given in (
        (model, {"image": images, "meta": meta}),
        (model, {"meta": meta, "image": images}),
        (model, (images.numpy(), meta.numpy())),
        (model, explain.Inputs((images, meta), explained=0)),
        (model, explain.Inputs({"image": images, "meta": meta}, explained="image")),
        (FromDict(model), {"image": images, "meta": meta}),
        (FromDict(model), ({"meta": meta, "image": images},)),
        (FromDict(model), explain.Inputs(({"image": images, "meta": meta},), explained=(0, "image"))),
    ):
        layer = {"layer": "like.relu" if isinstance(network, FromDict) else "relu"} if name == "grad_cam" else {}
        assert torch.allclose(method(network, given, 1, **layer).map, true, atol=1e-6)


def test_another_input_can_be_explained() -> None:
    class Both(nn.Module):
        def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
            return scale * torch.stack([left.sum((1, 2, 3)), right.square().sum((1, 2, 3))], 1)

    left, right = torch.rand(2, 1, 4, 4), torch.rand(2, 2, 6, 6)
    assert explain.saliency(Both(), (left, right), 0).map.shape == (2, 4, 4)
    found = explain.saliency(Both(), explain.Inputs((left, right, 3.0), explained=1), 1)
    assert torch.allclose(found.values, 6 * right)
    found = explain.saliency(Both(), explain.Inputs({"left": left, "right": right}, explained="right"), 1)
    assert torch.allclose(found.values, 2 * right)
    for explained in (2, "middle", (0, 1)):
        with pytest.raises(ExplainError, match=r"explained: got .*there are 0: float32 of 2x1x4x4, 1: float32 of 2x2"):
            explain.saliency(Both(), explain.Inputs((left, right), explained=explained))


def test_what_one_image_has_is_repeated_for_its_copies() -> None:
    call = call_of(nn.Identity(), (torch.rand(1, 3, 4, 4), torch.rand(1, 5), torch.rand(7, 2), torch.tensor(2.0), None))
    args, _ = call.of(torch.rand(6, 3, 4, 4))
    assert [getattr(each, "shape", None) for each in args] == [(6, 3, 4, 4), (6, 5), (7, 2), (), None]
    call = call_of(nn.Identity(), (torch.rand(2, 3, 4, 4), torch.tensor([[1], [2]]), torch.rand(1, 5)))
    args, _ = call.of(torch.rand(3, 3, 4, 4), torch.tensor([1, 0, 1]))
    assert args[1].tolist() == [[2], [1], [2]]
    assert args[1].dtype == torch.int64
    assert args[2].shape == (3, 5)


def test_all_floating_inputs_take_the_networks_dtype() -> None:
    found = explain.grad_cam(Gated().double(), (torch.rand(1, 3, 8, 8), torch.rand(1, 4).half()), 1)
    assert found.map.dtype == torch.float64


def test_the_callers_other_inputs_are_not_written_into() -> None:
    class Writes(nn.Module):
        def forward(self, image: Tensor, meta: Tensor) -> Tensor:
            return image.mean((2, 3)) * meta.mul_(2)

    meta = torch.ones(1, 3)
    explain.occlusion(Writes(), (torch.rand(1, 3, 8, 8), meta), 1)
    assert torch.equal(meta, torch.ones(1, 3))


def test_views_and_checks_take_several_inputs() -> None:
    model, images, meta = Gated(), torch.rand(3, 3, 16, 16), torch.rand(3, 4) + 0.1
    first = (images[:1], meta[:1])
    held = Held(model, meta[:1])
    assert torch.equal(
        explain.activation_maps(model, first, "relu").maps, explain.activation_maps(held, images[0], "relu").maps
    )
    stages, true = explain.hierarchy(model, first).stages, explain.hierarchy(held, images[0]).stages
    assert [(s.layer, s.field, s.channels) for s in stages] == [(s.layer, s.field, s.channels) for s in true]
    best = explain.top_patches(model, (images, meta), "conv", 1, count=3, batch_size=2)
    assert {patch.image for patch in best.patches} == {0, 1, 2}
    assert best.patches[0].pixels.shape == (3, 3, 3)
    again = explain.invert(model, first, "conv", steps=20).rows[0]
    assert again.feature_error == pytest.approx(explain.invert(held, images[0], "conv", steps=20).rows[0].feature_error)
    checked = explain.check(explain.saliency, model, (images, meta), 1)
    assert checked.randomisation.layers == ("head", "conv")
    assert len(checked.curves.deletion) == 3


def test_made_pictures_get_the_other_inputs_from_prepare() -> None:
    model, meta = Gated(), torch.rand(1, 4) + 0.1
    nn.init.zeros_(model.head.bias)  # else it decides

    def prepare(pictures: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * pictures - 1, meta.expand(len(pictures), -1)

    held: dict[str, Any] = {"prepare": lambda pictures: 2 * pictures - 1}
    other = Held(model, meta)
    picture = torch.rand(3, 16, 16)
    options: dict[str, Any] = {"layer": "conv", "channel": 1, "steps": 4}
    made = explain.maximize(model, (3, 16, 16), prepare=prepare, count=2, **options)
    assert torch.allclose(made.pictures, explain.maximize(other, (3, 16, 16), count=2, **held, **options).pictures)
    dream = explain.deep_dream(model, picture, "conv", prepare=prepare, steps=2)
    assert torch.allclose(dream.after, explain.deep_dream(other, picture, "conv", steps=2, **held).after)
    for norm in ("l2", "linf"):
        changed = explain.smallest_perturbation(model, picture, norm=norm, prepare=prepare)
        assert changed.l2 == pytest.approx(explain.smallest_perturbation(other, picture, norm=norm, **held).l2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.rand(1, 3, 8, 8), "several inputs go as a tuple"),
        ((torch.rand(1, 3, 8, 8),), "several inputs go as a tuple"),
        ((torch.rand(3, 8, 8), torch.rand(1, 4)), r"image: got 0: float32 of 3x8x8, .*needed a floating tensor"),
        ((torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.rand(1, 4)), "image: got uint8; .*image / 255"),
        ({}, "image: got no input"),
        ([torch.rand(3, 8, 8)], "image: got a list; needed a tensor.*torch.stack"),
        ((torch.rand(2, 3, 8, 8), torch.rand(3, 4)), "Gated: can't take 2x3x8x8 and 3x4 images"),
        ({"photo": torch.rand(1, 3, 8, 8), "meta": torch.rand(1, 4)}, "Gated: can't take 1x3x8x8 and 1x4 images"),
    ],
)
def test_inputs_that_will_not_do(given: Any, message: str) -> None:
    for method in (explain.saliency, explain.grad_cam, explain.occlusion):
        with pytest.raises(ExplainError, match=message):
            method(Gated(), given, 1)


def test_a_call_is_settled_once() -> None:
    call = call_of(Gated(), (np.zeros((1, 3, 4, 4)), np.zeros((1, 4))))
    assert isinstance(call, Call)
    assert call_of(Gated(), call) is call
    assert not call.alone
    assert call_of(Gated(), torch.rand(3, 4, 4)).alone
