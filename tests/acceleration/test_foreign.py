"""Plans of graphs in which something has no kernel: PyTorch's operators between kernels, on the plan's memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_plans import planned, uses_a_plan
from torch import Tensor, nn

import striate
from cases import quick_but, slow_but
from striate.acceleration import plan_of

pytestmark = pytest.mark.usefixtures("planning")


class Function(nn.Module):
    """A function of the module and an image, with some layers."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **layers: Any) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def conv(*arguments: Any, **named: Any) -> nn.Conv2d:
    return nn.Conv2d(*arguments, **named)


def shuffled(y: Tensor) -> Tensor:
    return y.view(y.shape[0], 2, 6, *y.shape[2:]).transpose(1, 2).contiguous().view(y.shape)


def attention(m: Any, x: Tensor) -> Tensor:
    rows = m.a(x.flatten(2).transpose(1, 2)).view(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
    return m.b(F.scaled_dot_product_attention(*rows).transpose(1, 2).flatten(2))


def squeezed(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    return y * torch.sigmoid(m.linear(y.mean((2, 3))))[:, :, None, None]


def unet(m: Any, x: Tensor) -> Tensor:
    a = m.a(x)
    return m.out(torch.cat([a, m.up(m.down(F.max_pool2d(a, 2)))], 1))


#: Models, and how many operators of PyTorch's their plans have; None where there is no plan.
MODELS: dict[str, tuple[Callable[[], nn.Module], int | None]] = {
    "concatenation": (
        lambda: Function(
            lambda m, x: m.c(torch.cat([m.a(x), m.b(x).relu()], 1)),
            a=conv(3, 5, 3, padding=1),
            b=conv(3, 9, 1),
            c=conv(14, 4, 3),
        ),
        0,
    ),
    "concatenated images": (
        lambda: Function(lambda m, x: torch.cat([m.a(x), m.b(x)]), a=conv(3, 5, 1), b=conv(3, 5, 1)),
        0,
    ),
    "concatenated columns": (
        lambda: Function(lambda m, x: torch.cat([m.a(x), m.b(x)], 3), a=conv(3, 5, 1), b=conv(3, 5, 1)),
        0,
    ),
    "concatenation with the input": (lambda: Function(lambda m, x: torch.cat([x, m.b(x)], 1), b=conv(3, 5, 1)), 0),
    "concatenated rows": (
        lambda: Function(lambda m, x: torch.cat([m.a(x).flatten(1), x.flatten(1)], 1).relu(), a=conv(3, 5, 3)),
        0,
    ),
    "split": (
        lambda: Function(
            lambda m, x: (lambda a, b, c: m.b(a) + m.b(b) * c.sigmoid())(*m.a(x).split(4, 1)),
            a=conv(3, 12, 3),
            b=conv(4, 4, 1),
        ),
        0,
    ),
    "unbind": (
        lambda: Function(
            lambda m, x: (lambda t: t[0] + t[1] * t[2])(m.a(x).unflatten(1, (3, 4)).unbind(1)), a=conv(3, 12, 1)
        ),
        0,
    ),
    "slice": (lambda: Function(lambda m, x: m.b(m.a(x)[:, 2:8, 1:-1, ::2]), a=conv(3, 12, 3), b=conv(6, 4, 1)), 1),
    "shuffled channels": (lambda: Function(lambda m, x: m.b(shuffled(m.a(x))), a=conv(3, 12, 3), b=conv(12, 4, 1)), 0),
    "convolution in groups": (
        lambda: nn.Sequential(
            conv(3, 8, 3), nn.ReLU(), conv(8, 16, 3, groups=4), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 4, 1)
        ),
        0,
    ),
    "padding before groups": (lambda: nn.Sequential(conv(3, 8, 3), nn.ZeroPad2d(1), conv(8, 16, 3, groups=4)), 0),
    "transposed convolution": (
        lambda: nn.Sequential(conv(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, 2), nn.ReLU(), conv(6, 4, 3)),
        0,
    ),
    "resizing": (
        lambda: nn.Sequential(
            conv(3, 8, 3), nn.Upsample(scale_factor=2, mode="bilinear"), conv(8, 6, 3), nn.Upsample(scale_factor=2)
        ),
        2,
    ),
    "softmax": (lambda: nn.Sequential(conv(3, 8, 3), nn.Softmax(1), conv(8, 4, 1)), 1),
    "group normalisation": (lambda: nn.Sequential(conv(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), conv(8, 4, 1)), 1),
    "statistics of the batch": (lambda: nn.Sequential(conv(3, 8, 3), nn.InstanceNorm2d(8)), None),
    "attention": (lambda: Function(attention, a=nn.Linear(3, 24), b=nn.Linear(8, 5)), 1),
    "attention over images": (
        lambda: Function(lambda m, x: (lambda y: F.scaled_dot_product_attention(y, y, y))(m.a(x)), a=conv(3, 8, 3)),
        3,  # in channels last; in planes attention is one operator
    ),
    "U-Net": (
        lambda: Function(
            unet,
            a=conv(3, 8, 3, padding=1),
            down=conv(8, 16, 3, padding=1),
            up=nn.ConvTranspose2d(16, 8, 2, 2),
            out=conv(16, 3, 1),
        ),
        0,
    ),
    "squeeze and excitation": (lambda: Function(squeezed, a=conv(3, 8, 3), linear=nn.Linear(8, 8)), 0),
    "comparison": (
        lambda: Function(lambda m, x: torch.where(m.a(x) > 0, m.a(x), m.b(x)), a=conv(3, 4, 1), b=conv(3, 4, 1)),
        2,
    ),
    "positions": (lambda: Function(lambda m, x: m.a(x) * (m.a(x).argmax(1, keepdim=True) == 0), a=conv(3, 4, 1)), 3),
    "largest": (lambda: Function(lambda m, x: m.a(x).flatten(2).topk(5, -1)[0], a=conv(3, 4, 3)), 1),
    "three dimensions": (lambda: Function(lambda m, x: m.c(x[:, None]).sum(2), c=nn.Conv3d(1, 4, 3, padding=1)), 2),
    "reflection": (lambda: nn.Sequential(conv(3, 8, 3), nn.ReflectionPad2d(2), conv(8, 4, 3)), 1),
    "shuffled pixels": (lambda: nn.Sequential(conv(3, 16, 3), nn.PixelShuffle(2), nn.ReLU(), conv(4, 4, 3)), 1),
    "functions": (
        lambda: nn.Sequential(conv(3, 8, 3), nn.PReLU(), nn.Mish(), nn.ELU(), nn.Hardshrink(), conv(8, 4, 3)),
        2,
    ),
    "uneven windows": (
        lambda: nn.Sequential(conv(3, 8, 3), nn.AdaptiveAvgPool2d(5), nn.Flatten(), nn.Linear(200, 4)),
        1,
    ),
    "other numbers": (lambda: Function(lambda m, x: m.a(x).double().mean((2, 3)).float(), a=conv(3, 4, 1)), 3),
    "results of other numbers": (lambda: Function(lambda m, x: (m.a(x) > 0, m.a(x)), a=conv(3, 4, 1)), 1),
    "the model's own": (
        lambda: Function(
            lambda m, x: m.a(x) * m.b.expand(x.shape[0], -1, -1, -1) + m.t[:, :, : x.shape[2] - 2],
            a=conv(3, 4, 3),
            b=nn.Parameter(torch.randn(1, 4, 1, 1)),
            t=nn.Parameter(torch.randn(1, 4, 40, 1)),
        ),
        2,
    ),
    "products of matrices": (
        lambda: Function(lambda m, x: torch.einsum("nchw,ndhw->ncd", m.a(x), m.b(x)), a=conv(3, 4, 1), b=conv(3, 6, 1)),
        1,
    ),
    "rolled and flipped": (
        lambda: Function(lambda m, x: m.a(x).roll((2, 1), (2, 3)) + m.a(x).flip(2), a=conv(3, 4, 1)),
        2,
    ),
    "stacked": (
        lambda: Function(lambda m, x: torch.stack([m.a(x), m.b(x)], 2).amax(2), a=conv(3, 4, 1), b=conv(3, 4, 1)),
        2,
    ),
    "several results": (lambda: Function(lambda m, x: (m.a(x).softmax(1), m.a(x).flatten(1)), a=conv(3, 4, 1)), 1),
    "permuted result": (lambda: Function(lambda m, x: m.a(x).softmax(1).permute(0, 2, 3, 1), a=conv(3, 4, 1)), 1),
    "norm": (lambda: Function(lambda m, x: F.normalize(m.a(x), dim=1) * 2, a=conv(3, 4, 1)), 2),
}


def masked(m: Any, x: Tensor) -> Tensor:
    y, mask = m.a(x), x.new_zeros(x.shape[2:])
    mask[1:3, 2:] = 2.0
    y[:, :2] += mask
    y[0].mul_(3)
    return y.relu_()


MODELS["writes into parts"] = lambda: Function(masked, a=conv(3, 4, 3, padding=1)), 9
MODELS["a view of what is changed"] = (
    lambda: Function(lambda m, x: (lambda y: (y[:, :1].relu_(), y)[1])(m.a(x)), a=conv(3, 4, 3)),
    1,
)


def results(made: Any) -> tuple[Tensor, ...]:
    return made if isinstance(made, tuple) else (made,)


#: What others have as well.
SLOW = [
    "U-Net",
    "concatenation",
    "concatenated images",
    "concatenated rows",
    "split",
    "resizing",
    "products of matrices",
    "comparison",
    "squeeze and excitation",
    "slice",
    "unbind",
    "writes into parts",
    "shuffled pixels",
    "transposed convolution",
]


@pytest.mark.parametrize("name", quick_but(MODELS, SLOW))
def test_plans_give_what_models_give(name: str) -> None:
    make, foreign = MODELS[name]
    told = checked(make())
    count = None if told.startswith("no plan") else told.count("PyTorch: ")
    assert count == foreign, told


def checked(model: nn.Module, size: tuple[int, int] = (14, 16)) -> str:
    """The plan of a model, after its results were those of the model itself."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    fast, precise = striate.accelerate(copy.deepcopy(model), quiet=True), copy.deepcopy(model).double()
    for layout in (torch.contiguous_format, torch.channels_last):
        for _ in range(4):
            x = torch.randn(2, 3, *size).contiguous(memory_format=layout)
            with torch.no_grad():
                found, plain, expected = fast(x), model(x), precise(x.double())
            for mine, theirs, truth in zip(*map(results, (found, plain, expected)), strict=True):
                assert (mine.shape, mine.dtype, mine.stride()) == (theirs.shape, theirs.dtype, theirs.stride())
                if mine.dtype.is_floating_point:
                    torch.testing.assert_close(
                        mine.double(), truth.double(), rtol=1e-5, atol=1e-5 * truth.abs().max().item()
                    )
                else:
                    assert torch.equal(mine, theirs)
    return plan_of(fast, x)


@pytest.mark.parametrize(
    "how",
    slow_but(
        [
            {"kernel_size": 2, "stride": 2},
            {"kernel_size": 4, "stride": 2, "padding": 1},
            {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
            {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
            {"kernel_size": 5, "stride": 3, "padding": 2, "output_padding": 1},
            {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 2},
            {"kernel_size": 3, "stride": 2, "padding": 3, "dilation": 3},
            {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)},
            {"kernel_size": (1, 7), "stride": (1, 4), "padding": (0, 3), "output_padding": (0, 2)},
        ],
        [{"kernel_size": 2, "stride": 2}, {"kernel_size": 5, "stride": 3, "padding": 2, "output_padding": 1}],
    ),
    ids=lambda how: " ".join(f"{name}={value}" for name, value in how.items()),
)
@pytest.mark.parametrize("channels", slow_but([1, 7, 35], [7]))
def test_transposed_convolutions(how: dict[str, Any], channels: int) -> None:
    up = nn.ConvTranspose2d(6, channels, **how)
    normalised = nn.Sequential(conv(3, 6, 1), up, nn.BatchNorm2d(channels), nn.ReLU())
    told = checked(normalised, (7, 6))
    assert "PyTorch: " not in told, told
    # The addition and the function belong to the sums.
    size = up(torch.zeros(1, 6, 7, 6)).shape[2:]
    added = Function(
        lambda m, x: (m.b(F.interpolate(x, size)) + m.up(m.a(x))).relu(), a=conv(3, 6, 1), b=conv(3, channels, 1), up=up
    )
    told = checked(added, (7, 6))
    assert "fadd" not in told, told


@pytest.mark.parametrize(
    "how", [{"kernel_size": 1, "stride": 2}, {"kernel_size": 2, "stride": 2, "groups": 2}], ids=str
)
def test_other_transposed_convolutions_are_pytorchs(how: dict[str, int]) -> None:
    told = checked(nn.Sequential(conv(3, 6, 1), nn.ConvTranspose2d(6, 4, **how)))
    assert told.count("PyTorch: convolution") == 1, told


#: Functions that concatenate results of sums, and how many parts are copied.
CONCATENATIONS: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "branches": (lambda m, x: torch.cat([m.one(x).relu(), m.norm(m.three(x)), m.five(x)], 1), 0),
    "by Winograd": (lambda m, x: torch.cat([m.wide(m.one(x)), m.wide(m.one(x + 1)).relu()], 1), 0),
    "of one position": (lambda m, x: torch.cat([m.one(x.mean((2, 3), keepdim=True)), m.whole(x)], 1), 0),
    "of one pixel of each": (lambda m, x: torch.cat([m.whole(x), m.whole(x + 1)], 1), 0),
    "with an image in between": (lambda m, x: torch.cat([m.one(x), x, m.five(x)], 1), 1),
    "in rows": (lambda m, x: torch.cat([m.one(x), m.three(x)], 2), 2),
    "twice the same": (lambda m, x: (lambda y: torch.cat([y, y], 1))(m.one(x)), 2),
    "used elsewhere": (lambda m, x: (lambda y: torch.cat([y, m.three(x)], 1) * y.mean())(m.one(x)), 1),
    "after an addition": (lambda m, x: torch.cat([m.one(x) + m.three(x), m.five(x)], 1), 1),
    "of concatenations": (lambda m, x: torch.cat([torch.cat([m.one(x), m.five(x)], 1), m.three(x)], 1), 1),
    "in groups": (lambda m, x: torch.cat([m.groups(m.one(x)), m.three(x)], 1), 1),
    "grown": (lambda m, x: torch.cat([m.up(x[:, :, ::2, ::2]), m.one(x)], 1), 0),
    "before a sum": (lambda m, x: m.last(torch.cat([m.one(x), m.five(x).relu()], 1)), 0),
}


@pytest.mark.parametrize("name", quick_but(CONCATENATIONS, ["of one pixel of each", "in groups", "before a sum"]))
def test_sums_write_into_concatenations(name: str) -> None:
    function, copied = CONCATENATIONS[name]
    model = Function(
        function,
        one=conv(3, 16, 1),
        three=conv(3, 16, 3, padding=1),
        five=conv(3, 7, 5, padding=2),
        wide=conv(16, 48, 3, padding=1),
        whole=conv(3, 9, (14, 16)),
        groups=conv(16, 16, 3, padding=1, groups=4),
        up=nn.ConvTranspose2d(3, 5, 2, 2),
        last=conv(23, 4, 3),
        norm=nn.BatchNorm2d(16),
    )
    told = checked(model)
    assert told.count("part from") == copied, told
    assert ("Winograd" in told) == (name == "by Winograd"), told


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), -1.0], ids=str)
@pytest.mark.parametrize("name", slow_but(["leaky_relu", "elu", "clamp_min", "hardtanh"], ["leaky_relu"]))
def test_functions_with_unusual_parameters(name: str, number: float) -> None:
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "leaky_relu": lambda y: F.leaky_relu(y, number),
        "elu": lambda y: F.elu(y, number),
        "clamp_min": lambda y: y.clamp(min=number),
        "hardtanh": lambda y: y.clamp(-2, number),
    }
    model = Function(lambda m, x: functions[name](F.relu(m.a(x)) - F.relu(-m.b(x))), a=conv(3, 4, 1), b=conv(3, 4, 1))
    fast, x = striate.accelerate(copy.deepcopy(model.eval()), quiet=True), torch.randn(2, 3, 6, 6)
    x[0] = 0
    for layer in (*model.children(), *fast.children()):
        layer.bias.data.zero_()  # so that zeros occur, of either sign
    with torch.no_grad():
        for _ in range(4):
            torch.testing.assert_close(fast(x), model(x), equal_nan=True)


def test_group_normalisation_keeps_its_digits() -> None:
    """PyTorch's group_norm in channels last is off by a tenth for such images."""
    model = nn.Sequential(conv(3, 8, 1, bias=False), nn.GroupNorm(2, 8)).eval()
    nn.init.constant_(model[0].weight, 1 / 3)  # all channels of a group lie at the same distance from zero
    fast, precise = striate.accelerate(copy.deepcopy(model), quiet=True), copy.deepcopy(model).double()
    x = torch.randn(2, 3, 40, 40) + 300
    with torch.no_grad():
        for _ in range(4):
            torch.testing.assert_close(fast(x).double(), precise(x.double()), rtol=0, atol=1e-3)
        assert uses_a_plan(fast, x)


def test_weights_of_pytorchs_operators_may_change() -> None:
    model = nn.Sequential(conv(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2), conv(4, 4, 1)).eval()
    x = torch.randn(1, 3, 9, 9)
    fast = planned(striate.accelerate(model, quiet=True), x)
    assert uses_a_plan(fast, x)
    for change in (lambda w: w.mul_(2), lambda w: w.data.add_(1), lambda w: w.numpy().__imul__(3)):
        with torch.no_grad():
            change(model[2].weight)
            torch.testing.assert_close(fast(x), model._call_impl(x), rtol=1e-4, atol=1e-4)
    model[2].weight = nn.Parameter(torch.randn(8, 4, 2, 2))
    with torch.no_grad():
        for _ in range(4):
            torch.testing.assert_close(fast(x), model._call_impl(x), rtol=1e-4, atol=1e-4)


def test_normalisation_in_weights_of_groups_may_change() -> None:
    model = nn.Sequential(conv(3, 8, 3), conv(8, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4, 1)).eval()
    x = torch.randn(1, 3, 9, 9)
    fast = planned(striate.accelerate(model, quiet=True), x)
    assert plan_of(fast, x).count("PyTorch: ") == 0
    assert len(plan_of(fast, x).splitlines()) == 1 + 5  # two copies, three convolutions
    for tensor in (model[1].weight, model[1].bias, model[2].weight, model[2].running_mean, model[2].running_var):
        with torch.no_grad():
            tensor.data.mul_(2).add_(0.1)
            torch.testing.assert_close(fast(x), model._call_impl(x), rtol=1e-4, atol=1e-4)


def test_results_are_the_callers_own() -> None:
    model = Function(lambda m, x: (m.a(x).softmax(1), m.a(x).sigmoid().cumsum(1).view(-1)), a=conv(3, 4, 1)).eval()
    x = torch.randn(1, 3, 5, 5)
    fast = planned(striate.accelerate(model, quiet=True), x)
    with torch.no_grad():
        first = fast(x)
        kept = [each.clone() for each in first]
        fast(torch.randn(1, 3, 5, 5))
    for each, before in zip(first, kept, strict=True):
        assert torch.equal(each, before)


@pytest.mark.parametrize("inference", slow_but([True, False], [False]))
def test_memory_that_was_made_in_inference_mode(inference: bool) -> None:
    model = Function(lambda m, x: m.b(m.a(x)[:, 2:8, 1:-1, ::2]), a=conv(3, 12, 3), b=conv(6, 4, 1)).eval()
    x = torch.randn(1, 3, 9, 9)
    fast = striate.accelerate(model, quiet=True)
    for mode in (inference, not inference) * 3:
        with torch.inference_mode(mode), torch.no_grad():
            for _ in range(3):
                torch.testing.assert_close(fast(x), model._call_impl(x))


class Tokens(nn.Module):
    """Reads words and a mask beside an image, and gives back a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer, self.a = nn.Embedding(11, 8), nn.Linear(8, 4), conv(3, 4, 1)

    def forward(self, image: Tensor, words: Tensor, *, mask: Tensor) -> dict[str, Tensor]:
        found = (self.layer(self.words(words)) * mask[..., None]).mean(1)
        return {"image": self.a(image) + found[:, :, None, None], "longest": mask.sum(1), "words": words + 1}


def test_inputs_of_other_numbers() -> None:
    model = Tokens().eval()
    fast = striate.accelerate(copy.deepcopy(model), quiet=True)
    for length in (5, 5, 5, 7, 7, 7):
        given = torch.randn(2, 3, 6, 6), torch.randint(11, (2, length))
        mask = torch.rand(2, length) > 0.4
        with torch.no_grad():
            found, expected = fast(*given, mask=mask), model(*given, mask=mask)
        assert found.keys() == expected.keys()
        for name, each in found.items():
            assert each.dtype == expected[name].dtype
            torch.testing.assert_close(each, expected[name], rtol=1e-5, atol=1e-5)
    assert "PyTorch: embedding" in plan_of(fast, *given, mask=mask)
