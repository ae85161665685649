"""A number followed back: its operands make it again, for random operators at random places, down to the pixels."""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from strange import strange
from torch import Tensor, nn

from cases import slow_but
from striate import models
from striate.errors import StudioError
from striate.studio.derivation import derive
from striate.studio.derivation.code import preamble
from striate.studio.derivation.result import Derivation
from striate.studio.recording import Recording, record

STRANGE = strange()


class Calls(nn.Module):
    """A function as a network, with learnt tensors of these shapes."""

    def __init__(self, function: Callable[..., Any], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(shape)) for shape in shapes])

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.weights)


def conv(rank: int, transposed: bool, draw: random.Random) -> nn.Module:
    groups = draw.choice((1, 1, 2, 4))
    kernel, stride, dilation = draw.randint(1, 4), draw.randint(1, 3), draw.randint(1, 2)
    settings: dict[str, Any] = {
        "stride": stride, "padding": draw.randint(0, 3), "dilation": dilation, "groups": groups,
        "bias": draw.random() < 0.5,
    }  # fmt: skip
    if transposed:
        settings["padding"] = draw.randint(0, 1)
        settings["output_padding"] = draw.randint(0, max(stride, dilation) - 1)
        kinds: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    else:
        kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return kinds[rank - 1](4, 4 * draw.randint(1, 2), kernel, **settings)


def pool(rank: int, draw: random.Random) -> nn.Module:
    kernel, stride = draw.randint(2, 3), draw.randint(1, 3)
    ceil = draw.random() < 0.5
    kind = draw.choice(("max", "avg", "adaptive avg", "adaptive max"))
    if kind.startswith("adaptive"):
        name = "AdaptiveAvgPool" if kind.endswith("avg") else "AdaptiveMaxPool"
        return getattr(nn, f"{name}{rank}d")(draw.randint(1, 7))
    if kind == "max":
        made = {"dilation": draw.randint(1, 2), "padding": draw.randint(0, 1), "ceil_mode": ceil}
        return getattr(nn, f"MaxPool{rank}d")(kernel, stride, **made)
    made = {"padding": draw.randint(0, 1), "ceil_mode": ceil, "count_include_pad": draw.random() < 0.5}
    return getattr(nn, f"AvgPool{rank}d")(kernel, stride, **made)


def shape_of(rank: int, draw: random.Random) -> tuple[int, ...]:
    return (2, 4, *(draw.randint(8, 9) for _ in range(rank)))


def check_places(recording: Recording, value: int, draw: random.Random, many: int) -> list[Derivation]:
    """Derives numbers at random places, each of which has to be made again by what is shown."""
    shape = recording.values[value].shape
    found = []
    for _ in range(many):
        place = tuple(draw.randrange(length) for length in shape)
        derived = derive(recording, value, place)
        json.dumps(derived.to_dict(), allow_nan=True)
        if derived.kind == "source":  # a constant in the code
            continue
        assert derived.check is not None, derived.title
        recorded = recording.numbers[value][place].item()
        assert derived.check.recorded == recorded or math.isnan(recorded)
        assert derived.check.holds, (derived.title, derived.check)
        if derived.terms is not None:
            assert_terms(recording, derived)
        found.append(derived)
    return found


def assert_terms(recording: Recording, derived: Derivation) -> None:
    """Every factor is the recorded number at its place; products and bias add up to the recorded result."""
    assert derived.terms is not None
    assert derived.check is not None
    again = torch.ones(()) if derived.terms.coefficients is None else derived.terms.coefficients
    for strand in derived.terms.strands:
        numbers = recording.numbers[strand.value]
        assert torch.equal(strand.numbers, numbers[tuple(strand.places.T)].double())
        again = again * strand.numbers
    total = float(again.sum()) + sum(
        float(hop.number if hop.contribution is None else hop.contribution) for hop in derived.added
    )
    assert total == pytest.approx(derived.check.recorded, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("seed", slow_but(range(40), [0, 1, 2, 5, 8, 14, 20, 26, 29, 32, 38]))
def test_windows_of_random_convolutions_and_poolings(seed: int) -> None:
    """2,400 places in all, in float64."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    rank = draw.choice((1, 2, 2, 2, 3))
    layer = (conv(rank, False, draw), conv(rank, True, draw), pool(rank, draw))[seed % 3].double()
    x = torch.randn(shape_of(rank, draw), dtype=torch.float64)
    if seed % 3 == 2:
        x = (x * 2).round() / 2  # ties
    recording = record(layer, x)
    check_places(recording, recording.outputs, draw, 60)


POINTWISE = {
    **{name: getattr(torch, name) for name in ("relu", "sigmoid", "tanh", "exp", "abs", "neg", "sin", "erf", "square")},
    **{name: getattr(F, name) for name in
       ("gelu", "silu", "mish", "softplus", "hardswish", "hardsigmoid", "elu", "selu", "leaky_relu", "relu6", "celu",
        "logsigmoid", "softsign", "tanhshrink", "hardtanh", "softshrink")},
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "pow": lambda x: (x.abs() + 0.1) ** 1.7,
    "div": lambda x: x / (x * x + 1),
    "add": lambda x: x.add(x[:, :1], alpha=0.5),
    "sub": lambda x: 1.5 - x,
    "mul": lambda x: x * x.flip(-1),
    "where": lambda x: torch.where(x > 0, x, x.exp()),
    "maximum": lambda x: torch.maximum(x, x.flip(1)),
    "in place": lambda x: x.mul_(2).add_(1).relu_(),
    "lerp": lambda x: torch.lerp(x, x.flip(0), 0.3),
    "glu": lambda x: F.glu(x, 1),
}  # fmt: skip

MOVES = {
    "cat": lambda x: torch.cat([x, x.flip(1), 2 * x], 1),
    "stack": lambda x: torch.stack([x, -x], 2),
    "permute": lambda x: x.permute(0, 2, 3, 1).reshape(2, -1, 4)[:, 3:],
    "split": lambda x: torch.cat(x.split((1, 3), 1)[::-1], 1),
    "chunk": lambda x: x.chunk(2, 1)[1],
    "roll": lambda x: x.roll((1, 2), (2, 3)),
    "flip": lambda x: x.flip(2),
    "expand": lambda x: x[:, :1].expand(-1, 5, -1, -1) * 1,
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "reflect": lambda x: F.pad(x, (1, 2, 2, 1), "reflect"),
    "replicate": lambda x: F.pad(x, (1, 2, 2, 1), "replicate"),
    "circular": lambda x: F.pad(x, (1, 2, 2, 1), "circular"),
    "shuffle": lambda x: F.pixel_shuffle(x, 2),
    "unshuffle": lambda x: F.pixel_unshuffle(x[..., :8, :8], 2),
    "channel shuffle": lambda x: F.channel_shuffle(x, 2),
    "unfold": lambda x: F.unfold(x, 3),
    "index": lambda x: x[:, torch.tensor([2, 0])],
    "index_select": lambda x: x.index_select(1, torch.tensor([1, 3])),
    "nearest": lambda x: F.interpolate(x, scale_factor=2.0),
    "nearest exact": lambda x: F.interpolate(x, size=(5, 13), mode="nearest-exact"),
    "transpose": lambda x: x.flatten(2).transpose(1, 2).contiguous(),
    "unbind": lambda x: x.unbind(1)[2],
    "diagonal": lambda x: x.diagonal(0, 2, 3),
    "squeeze": lambda x: x[:, :1].squeeze(1).unsqueeze(-1),
    "topk": lambda x: x.topk(3, 1)[0],
    "sort": lambda x: x.sort(-1, descending=True)[0],
    "as_strided": lambda x: x.contiguous().as_strided((2, 3, 4), (7, 5, 2), 3),
    "to": lambda x: x.to(torch.float32),
}  # fmt: skip

SUMS = {
    "bilinear": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, size=(7, 15), mode="bicubic", align_corners=True),
    "antialias": lambda x: F.interpolate(x, size=(4, 5), mode="bilinear", antialias=True),
    "mean": lambda x: x.mean((2, 3)),
    "mean kept": lambda x: x.mean((1, 3), keepdim=True),
    "sum": lambda x: x.sum(),
    "sum dim": lambda x: x.sum(1),
    "linear": lambda x: F.linear(x.flatten(2), torch.linspace(-1, 1, 3 * 72, dtype=torch.float64).view(3, 72)),
    "matmul": lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
    "mm": lambda x: x[0, 0] @ x[1, 1].t(),
    "mv": lambda x: x[0, 0] @ x[0, 1, 0],
    "einsum": lambda x: torch.einsum("nchw,ndhw->ncd", x, x.flip(1)),
    "baddbmm": lambda x: torch.baddbmm(x[:, :1, 0, :4], x[:, :, 0], x[:, :, 1].transpose(1, 2), beta=0.5, alpha=2.0),
    "addmm": lambda x: torch.addmm(x[0, 0, 0], x[0, 1], x[0, 2, :8, :8].new_ones(9, 9), beta=2, alpha=0.25),
}  # fmt: skip

OTHERS = {
    "softmax": lambda x: x.softmax(1),
    "log softmax": lambda x: x.log_softmax(-1),
    "logsumexp": lambda x: x.logsumexp((1, 2)),
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "batch norm eval": lambda x: F.batch_norm(
        x, torch.arange(4.0).double(), torch.arange(1.0, 5.0).double(), torch.ones(4).double() * 3
    ),
    "layer norm": lambda x: F.layer_norm(x, x.shape[2:], x[0, 0], x[0, 1]),
    "group norm": lambda x: F.group_norm(x, 2, x[0, :, 0, 0], x[0, :, 1, 0]),
    "instance norm": lambda x: F.instance_norm(x),
    "amax": lambda x: x.amax((1, 2)),
    "max": lambda x: x.max(1)[0],
    "min": lambda x: x.min(2, keepdim=True)[0],
    "argmax": lambda x: x.argmax(1),
    "norm": lambda x: F.normalize(x),
    "var": lambda x: x.var(1),
    "std": lambda x: x.std((1, 2), correction=0),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [
    *(("pointwise", name) for name in POINTWISE), *(("move", name) for name in MOVES),
    *(("sum", name) for name in SUMS), *(("other", name) for name in OTHERS),
])  # fmt: skip
def test_every_operator(kind: str, name: str) -> None:
    """Every result of every operator on the way, at random places, in float64."""
    table: dict[str, Any] = {"pointwise": POINTWISE, "move": MOVES, "sum": SUMS, "other": OTHERS}[kind]
    draw = random.Random(name)
    torch.manual_seed(5)
    recording = record(Calls(table[name]), torch.randn(2, 4, 8, 9, dtype=torch.float64))
    kinds = set()
    for operation in recording.trace.operations:
        value = recording.number_of(operation.outputs[0])
        if recording.values[value].numel == 0 or "empty" in operation.name or "new_ones" in operation.name:
            continue
        if operation.inputs and all(each.known is not None for each in operation.inputs):
            continue  # constants in the code
        if "lift_fresh" in operation.name:
            continue
        found = check_places(recording, value, draw, 8)
        kinds |= {each.kind for each in found}
    if kind != "other":
        assert kind in kinds, kinds


def test_the_general_case_says_what_it_depends_on() -> None:
    torch.manual_seed(0)
    recording = record(Calls(lambda x: torch.cumsum(x, 1)), torch.randn(2, 4, 3, 3, dtype=torch.float64))
    derived = derive(recording, recording.outputs, (1, 2, 1, 1))
    assert derived.kind == "general"
    assert {hop.place for hop in derived.hops} == {(1, channel, 1, 1) for channel in range(3)}
    total = sum(hop.contribution or 0.0 for hop in derived.hops)
    assert total == pytest.approx(float(recording.numbers[recording.outputs][1, 2, 1, 1]))
    unknown = record(Calls(lambda x: torch.bincount(x.flatten().long())), torch.rand(1, 1, 4, 4) * 5)
    derived = derive(unknown, unknown.outputs, (1,))
    assert derived.facts["dependence"] == "unknown"
    assert "unknown" in derived.words


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", sorted(STRANGE))
def test_strange_networks(name: str, training: bool) -> None:
    model, inputs = STRANGE[name]
    draw = random.Random(name)
    recording = record(model, inputs, training=training)
    for number, value in enumerate(recording.values):
        for _ in range(3 if value.numel else 0):
            derived = derive(recording, number, tuple(draw.randrange(length) for length in value.shape))
            assert derived.check is None or derived.check.holds, (derived.title, derived.check)
            assert derived.check is not None or derived.kind in ("source", "drawn", "general")
            for hop in derived.hops:
                assert recording.numbers[hop.value][hop.place].item() == hop.number


def test_the_walk_ends_at_the_pixels() -> None:
    torch.manual_seed(0)
    model = models.create("lenet5")
    recording = record(model, torch.rand(1, 1, 28, 28))
    draw = random.Random(0)
    for _ in range(20):
        value, place = recording.outputs, (0, draw.randrange(10))
        for _ in range(40):
            derived = derive(recording, value, place)
            if derived.kind == "source":
                break
            hop = next(each for each in derived.hops if recording.values[each.value].kind != "parameter")
            value, place = hop.value, hop.place
        assert recording.names[value] == "input"
        assert derived.kind == "source"


def test_a_winner_is_where_the_gradient_goes() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0], [2.0, 3.0, 0.0], [0.0, 1.0, 2.0]], dtype=torch.float64)[None, None]
    recording = record(nn.MaxPool2d(2, 1), x)
    derived = derive(recording, recording.outputs, (0, 0, 0, 0))
    assert derived.ties == (1, 3)
    assert derived.winner == 1
    assert derived.hops[0].place == (0, 0, 0, 1)
    leaf = x.clone().requires_grad_()
    F.max_pool2d(leaf, 2, 1)[0, 0, 0, 0].backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert leaf.grad.nonzero().tolist() == [list(derived.hops[0].place)]


def test_sharing_and_sparse_connectivity_are_counted() -> None:
    recording = record(nn.Conv2d(3, 4, 3, padding=1), torch.rand(2, 3, 6, 5))
    derived = derive(recording, recording.outputs, (1, 2, 0, 0))
    assert derived.facts["sharing"]["count"] == 2 * 6 * 5
    assert len(derived.facts["sharing"]["places"]) == 30
    assert derived.facts["dense"]["dense"] == (3 * 6 * 5) * (4 * 6 * 5)
    assert derived.facts["dense"]["weights"] == 4 * 3 * 9
    assert derived.facts["dense"]["used"] == 3 * 4
    assert derived.terms is not None
    assert derived.terms.padded == 3 * 5
    sums = derived.terms.partial
    assert [group for group, _, _ in sums] == [0, 1, 2]
    assert sum(total for _, total, _ in sums) == pytest.approx(derived.terms.total)
    transposed = record(nn.ConvTranspose2d(3, 4, 3, 2), torch.rand(1, 3, 4, 4))
    derived = derive(transposed, transposed.outputs, (0, 2, 4, 4))
    assert derived.facts["dense"]["dense"] == (3 * 4 * 4) * (4 * 9 * 9)
    assert derived.facts["dense"]["one"] == 3 * 4 * 4


def test_the_true_convolution_has_the_flipped_kernel() -> None:
    torch.manual_seed(2)
    layer, x = nn.Conv2d(3, 4, (3, 2), padding=1).double(), torch.randn(1, 3, 6, 5, dtype=torch.float64)
    recording = record(layer, x)
    true = F.conv2d(x, layer.weight.flip(2, 3), layer.bias, padding=1)
    for place in ((0, 1, 2, 3), (0, 3, 0, 0), (0, 0, 5, 4)):
        flipped = derive(recording, recording.outputs, place).facts["flipped"]
        assert flipped["number"] == pytest.approx(float(true[place].detach()))
        assert sum(flipped["terms"]["products"]) + float(layer.bias[place[1]].detach()) == pytest.approx(
            flipped["number"]
        )  # type: ignore[index]


def test_attention_has_its_row_of_weights() -> None:
    model, inputs = STRANGE["Attending"]
    recording = record(model, inputs)
    found = []
    for operation in recording.trace.operations:
        if operation.name == "aten.bmm":
            value = recording.number_of(operation.outputs[0])
            found.append(derive(recording, value, (1, 2, 0)).facts.get("attention"))
    rows = [each for each in found if each]
    assert len(found) == 2
    assert len(rows) == 1
    assert rows[0]["grid"] == [2, 2]
    assert sum(rows[0]["row"]) == pytest.approx(1.0)


def test_many_terms_are_sent_by_channel() -> None:
    recording = record(nn.Conv2d(256, 2, 3), torch.rand(1, 256, 4, 4))
    sent = derive(recording, recording.outputs, (0, 1, 1, 1)).to_dict()["terms"]
    assert (sent["count"], sent["shown"], len(sent["partial"])) == (2304, 64, 256)
    one = derive(recording, recording.outputs, (0, 1, 1, 1)).to_dict(7)["terms"]
    assert (one["shown"], set(one["groups"])) == (9, {7})
    assert sum(one["products"]) == pytest.approx(one["partial"][7]["sum"])


@pytest.mark.parametrize("name", [*sorted(set(STRANGE) - {"Closed", "WritesWeights"}), "lenet5"])
def test_the_call_prints_the_number(name: str) -> None:
    torch.manual_seed(0)
    model, picture = (models.create(name), torch.rand(1, 1, 28, 28)) if name == "lenet5" else STRANGE[name]
    draw = random.Random(name)
    recording = record(model, picture)
    known: dict[str, Any] = {"model": model, "inputs": picture}
    exec(preamble(False), known)
    for number, value in enumerate(recording.values):
        if not value.numel or (recording.operation_of(number) is not None and "empty" in recording.names[number]):
            continue
        place = tuple(draw.randrange(length) for length in value.shape)
        derived = derive(recording, number, place)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(derived.call, known)
        expected = recording.numbers[number][place].item()
        got = float(printed.getvalue()) if not isinstance(expected, bool) else printed.getvalue().strip() == "True"
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-6), derived.call


def test_places_are_checked() -> None:
    recording = record(nn.Conv2d(1, 1, 3), torch.rand(1, 1, 5, 5))
    for value, place in ((9, (0,)), (-1, ()), (0, (0, 0)), (0, (0, 0, 5, 0)), (0, (0, 0, -1, 0))):
        with pytest.raises(StudioError, match="needed"):
            derive(recording, value, place)
