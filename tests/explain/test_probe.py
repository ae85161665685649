"""Layers are captured in every kind of network, and the network is left as it was found."""

from __future__ import annotations

import copy

import pytest
import torch
from explained_networks import Functional, Nested, Reused
from torch import Tensor, nn

from striate import explain
from striate.errors import ExplainError
from striate.explain import probing
from striate.explain.methods import METHODS
from striate.explain.probe import input_of, survey


def state(model: nn.Module) -> list[object]:
    return [
        *((m.training, tuple(m._forward_hooks), tuple(m._forward_pre_hooks)) for m in model.modules()),
        *((p.requires_grad, None if p.grad is None else p.grad.clone(), p._version) for p in model.parameters()),
        *((name, b.clone()) for name, b in model.named_buffers()),
    ]


def same(before: list[object], after: list[object]) -> bool:
    flat = lambda items: [x for item in items for x in (item if isinstance(item, tuple) else (item,))]  # noqa: E731
    pairs = list(zip(flat(before), flat(after), strict=True))
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def unusual(model: nn.Module) -> nn.Module:
    """Some layers in training mode, some weights frozen, some with gradients, a user's hook."""
    model.train()
    model.stem[1].eval()
    model.fc.weight.requires_grad_(False)
    model.last.weight.grad = torch.ones_like(model.last.weight)
    model.act.register_forward_hook(lambda *_: None)
    return model


def test_in_place_operations_do_not_change_what_is_captured() -> None:
    model, x = Nested().eval(), torch.randn(2, 3, 8, 8)
    with probing(model, "last", "stem.1", "body.block.0") as probe:
        output = probe(x)
        inner = model.stem[1](model.stem[0](x))
        assert (inner < 0).any()
        assert torch.equal(probe["stem.1"], inner)
        # An in-place ReLU would have made these all positive.
        assert (probe["last"] < 0).any()
        gradient = probe.gradient(output[:, 1].sum(), "last")
    expected = (probe["last"] > 0) * model.fc.weight[1].view(1, -1, 1, 1) / 16
    assert torch.allclose(gradient, expected)
    assert torch.equal(output, model(x))


def test_the_callers_image_is_not_written_into() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten())
    x = torch.randn(1, 1, 6, 6)
    kept = x.clone()
    explain.saliency(model, x)
    explain.grad_cam(model, x)
    assert torch.equal(x, kept)
    assert not x.requires_grad


def test_calls_of_a_reused_layer() -> None:
    model, x = Reused().eval(), torch.randn(1, 4, 6, 6)
    with probing(model, "conv@1", "conv@2", "conv@3", "conv") as probe:
        probe(x)
        values = [x]
        for number in (1, 2, 3):
            values.append(model.conv(values[-1]).relu())
            assert torch.equal(probe[f"conv@{number}"].relu(), values[-1])
        assert torch.equal(probe["conv"], probe["conv@3"])
    assert list(survey(model, x))[:6] == ["conv@1", "relu@1", "conv@2", "relu@2", "conv", "relu"]


@pytest.mark.parametrize("name", METHODS)
def test_the_network_is_left_as_it_was_found(name: str) -> None:
    model = unusual(Nested())
    before = state(model)
    options = {"rise": {"masks": 4}, "smooth_grad": {"samples": 2}, "integrated_gradients": {"steps": 2}}
    METHODS[name](model, torch.randn(2, 3, 16, 16), **options.get(name, {}))
    assert same(before, state(model))


def test_the_check_of_the_state_sees_changes() -> None:
    model = unusual(Nested())
    for change in (
        lambda m: m.stem.eval(),
        lambda m: m.fc.weight.requires_grad_(True),
        lambda m: setattr(m.last.weight, "grad", torch.ones_like(m.last.weight)),
        lambda m: m.stem[1].running_mean.add_(1),
        lambda m: m.pool.register_forward_hook(lambda *_: None),
    ):
        other = copy.deepcopy(model)
        before = state(other)
        assert same(before, state(other))
        change(other)
        assert not same(before, state(other))


def test_also_after_an_exception() -> None:
    model = unusual(Nested())
    before = state(model)

    def broken(_: object) -> Tensor:
        raise KeyError("of the target")

    with pytest.raises(ExplainError, match="KeyError: 'of the target'") as told:
        explain.grad_cam(model, torch.randn(1, 3, 16, 16), broken, "last")
    assert isinstance(told.value.__cause__, KeyError)
    with pytest.raises(ExplainError):
        explain.saliency(model, torch.randn(1, 4, 16, 16))
    with pytest.raises(ZeroDivisionError), probing(model, "act"):
        raise ZeroDivisionError
    assert same(before, state(model))


@pytest.mark.parametrize("name", ["grad_cam", "layer_cam", "saliency", "guided_backprop", "occlusion", "eigen_cam"])
def test_forms_of_one_network_give_the_same_map(name: str) -> None:
    model, x = Nested(), torch.randn(2, 3, 16, 16)
    layered = name in ("grad_cam", "layer_cam", "eigen_cam")
    method = METHODS[name]
    true = method(model, x, 1, **({"layer": "last"} if layered else {})).map
    assert true.any()
    forms: list[tuple[nn.Module, Tensor]] = [(Functional(model), x)]
    forms.append((model, x.contiguous(memory_format=torch.channels_last)))
    forms.append((copy.deepcopy(model).to(memory_format=torch.channels_last), x))
    frozen = copy.deepcopy(model)
    for weights in frozen.parameters():
        weights.requires_grad_(False)
    forms.append((frozen, x))
    forms.append((copy.deepcopy(model).train(), x))
    for form, images in forms:
        layer = {"layer": "like.last" if isinstance(form, Functional) else "last"} if layered else {}
        assert torch.allclose(method(form, images, 1, **layer).map, true, atol=1e-5)
    with torch.inference_mode():
        assert torch.allclose(
            method(model, x.clone(), 1, **({"layer": "last"} if layered else {})).map, true, atol=1e-5
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", METHODS)
def test_other_precisions(name: str, dtype: torch.dtype) -> None:
    model, x = Nested().eval(), torch.randn(1, 3, 16, 16)
    options = {"rise": {"masks": 16}, "smooth_grad": {"samples": 4}, "integrated_gradients": {"steps": 16}}
    true = METHODS[name](model, x, 2, **options.get(name, {}))
    found = METHODS[name](copy.deepcopy(model).to(dtype), x, 2, **options.get(name, {}))
    assert found.map.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    both = torch.stack([true.map.flatten().double(), found.map.flatten().double()])
    assert torch.corrcoef(both)[0, 1] > (0.9 if dtype == torch.bfloat16 else 0.99)


def test_a_backbone_under_no_grad() -> None:
    class Frozen(Nested):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.stem(x)
            return self.fc(self.pool(self.act(self.last(x))).flatten(1))

    model, x = Frozen(), torch.randn(1, 3, 16, 16)
    assert explain.grad_cam(model, x, layer="last").values.any()
    with pytest.raises(ExplainError, match="no gradient leads from class 1 back to the image"):
        explain.saliency(model, x, 1)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("lost", r"layer: got 'lost'; needed a layer of Nested; near: last"),
        ("stem.7", r"near: stem"),
        ("", r"got ''"),
        ("last@4", r"last@4: got call 4; needed 1 to 1"),
        ("last@x", r"got 'last@x'"),
        ("fc", r"fc: its output has no places; .*the last ones: body\.block, last, act"),
        ("pool", r"pool: its output has no places"),
    ],
)
def test_layers_that_will_not_do(layer: str, message: str) -> None:
    with pytest.raises(ExplainError, match=message) as error:
        explain.grad_cam(Nested(), torch.randn(1, 3, 16, 16), layer=layer)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.randn(16, 16), r"image: got a tensor of 16x16; needed \(C, H, W\)"),
        (torch.randn(0, 3, 16, 16), "0x3x16x16"),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), "got uint8; needed numbers normalised"),
        (torch.full((3, 16, 16), float("nan")), "NaN"),
        (torch.randn(1, 16, 16), r"Nested: can't take 1x1x16x16 images \("),
    ],
)
def test_images_that_will_not_do(image: Tensor, message: str) -> None:
    for method in (explain.saliency, explain.grad_cam, explain.occlusion):
        with pytest.raises(ExplainError, match=message):
            method(Nested(), image)


def test_the_batch_takes_the_networks_dtype() -> None:
    model = Nested().double()
    assert input_of(model, torch.rand(3, 4, 4)).dtype == torch.float64
    assert input_of(model, torch.rand(3, 4, 4)).shape == (1, 3, 4, 4)
