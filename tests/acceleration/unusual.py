"""Modules that are written as few are, each small: what the tests of accelerated models are tried on."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint


class Case(NamedTuple):
    """A module and what it is called with.

    Args:
        make: the module, with random parameters.
        inputs: from a batch size to the arguments of a call.
        settle: is called with the module after ``train()`` and ``eval()``, which would undo what it does.
        refused: what PyTorch can't do with it.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Any, ...]] = lambda batch: (torch.randn(batch, 3, 9, 9),)
    settle: Callable[[nn.Module], object] = lambda module: None
    refused: str = ""


def conv(inner: int = 3, outer: int = 4, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3, padding=1, **options)


def block(inner: int = 3, outer: int = 4) -> nn.Sequential:
    return nn.Sequential(conv(inner, outer, bias=False), nn.BatchNorm2d(outer), nn.ReLU(), nn.MaxPool2d(2))


class Written(nn.Module):
    """A forward and its layers."""

    def __init__(self, compute: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs: Any) -> Any:
        return self.compute(self, *inputs)


class Tied(nn.Module):
    """Two layers with one weight, one of which is called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = conv(3, 3), conv(3, 3, bias=False), nn.BatchNorm2d(3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = F.relu(self.norm(self.first(x)))
        return self.second(x)


def spectral() -> nn.Module:
    return nn.Sequential(parametrizations.spectral_norm(conv()), nn.ReLU(), nn.MaxPool2d(2))


def spectral_by_hooks() -> nn.Module:
    return nn.Sequential(nn.utils.spectral_norm(conv()), nn.BatchNorm2d(4), nn.ReLU())


def weight_normed() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(conv()), nn.ReLU(), nn.MaxPool2d(2))


def weight_normed_by_hooks() -> nn.Module:
    return nn.Sequential(nn.utils.weight_norm(conv()), nn.BatchNorm2d(4), nn.ReLU())


def pruned() -> nn.Module:
    model = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 4))
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.random_structured(model[3], "weight", 0.5, dim=0)
    return model


class Adapted(nn.Module):
    """A frozen layer and a product of small matrices beside it."""

    def __init__(self, layer: nn.Conv2d, rank: int = 2) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, layer.weight[0].numel()) / 8)
        self.up = nn.Parameter(torch.randn(layer.out_channels, rank) / 8)

    @property
    def weight(self) -> Tensor:
        return self.layer.weight + (self.up @ self.down).view_as(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.layer.bias, padding=self.layer.padding)


def adapted() -> nn.Module:
    return nn.Sequential(Adapted(conv()), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), Adapted(conv(4, 4)))


def branches_on_numbers(self: Any, x: Tensor) -> Tensor:
    y = self.first(x)
    for layer in self.others:
        if y.abs().mean() > 0.1:
            y = layer(y)
            continue
        break
    return y if y[0, 0, 0, 0] > 0 else -y


class Remembering(nn.Module):
    """Keeps coordinates of sizes that it has met, and the last result."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(5, 4)
        self.known: dict[Any, Tensor] = {}
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        if size not in self.known:
            self.known[size] = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij"))
        y = torch.cat([x, self.known[size].to(x).expand(len(x), -1, -1, -1)], 1)
        self.last = F.max_pool2d(F.relu(self.conv(y)), 2)
        return self.last


class Yielding(nn.Module):
    """Goes through its layers by a generator."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([block(), block(4, 4)])

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        for layer in self.layers:
            x = layer(x)
            yield x

    def forward(self, x: Tensor) -> list[Tensor]:
        return [F.adaptive_avg_pool2d(each, 1) for each in self.stages(x)]


class EnoughError(Exception):
    pass


def raises_to_end(self: Any, x: Tensor) -> Tensor:
    y = x
    try:
        for depth, layer in enumerate(self.layers):
            y = layer(y)
            if depth == 1:
                raise EnoughError
    except EnoughError:
        return y.relu()
    return y


class Cell(nn.Module):
    """A convolutional gated recurrent unit over the frames of (N, T, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.new = conv(3 + 4, 8), conv(3 + 4, 4)

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        update, reset = self.gates(torch.cat([x, state], 1)).sigmoid().chunk(2, 1)
        new = self.new(torch.cat([x, reset * state], 1)).tanh()
        return (1 - update) * state + update * new

    def forward(self, frames: Tensor, state: Tensor | None = None) -> Tensor:
        for x in frames.unbind(1):
            state = self.step(x, x.new_zeros(len(x), 4, *x.shape[2:]) if state is None else state)
        assert state is not None
        return state


def frozen_norm() -> nn.Module:
    return nn.Sequential(block(), block(4, 4))


def freeze(module: nn.Module) -> None:
    for each in module[0]:  # type: ignore[index]
        if isinstance(each, nn.BatchNorm2d):
            each.eval()


def computed_kernels(self: Any, x: Tensor) -> Tensor:
    """A kernel for each image, from the image."""
    kernels = self.linear(x.mean((2, 3))).view(-1, 3, 3, 3)
    y = F.conv2d(x.flatten(0, 1)[None], kernels.flatten(0, 1)[:, None], padding=1, groups=3 * len(x))
    return y.view(len(x), 3, *x.shape[2:]).relu()


class Averaging(nn.Module):
    """Averages what it has seen in a buffer, counts its calls, and scales by both."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls = conv(), 0
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("count", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.mul_(0.9).add_(x.detach().mean((0, 2, 3)), alpha=0.1)
        self.count += 1
        return F.max_pool2d(self.conv(x - self.seen[:, None, None]), 2) / (self.count + self.calls % 2)


@dataclass
class Found:
    features: Tensor
    scores: dict[str, Tensor] = field(default_factory=dict)


def gives_a_dataclass(self: Any, x: Tensor) -> Found:
    features = self.body(x)
    return Found(features, {"mean": features.mean((2, 3)), "largest": features.amax((2, 3))})


class Doubled(torch.autograd.Function):
    """Twice its input, with another derivative than that."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return upstream * 7


def in_frequencies(self: Any, x: Tensor) -> Tensor:
    y = self.first(x)
    return self.second(torch.fft.irfft2(torch.fft.rfft2(y) * 0.5, s=y.shape[-2:])).relu()


def shuffled(self: Any, x: Tensor) -> Tensor:
    n, _, h, w = (y := self.first(x)).shape
    y = y.view(n, 2, 2, h, w).transpose(1, 2).reshape(n, 4, h, w)
    left, right = y.chunk(2, 1)
    return torch.cat([self.second(left), right.flip(-1)], 1).permute(0, 2, 3, 1).mT.contiguous()


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 3, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.patches(x).flatten(2).mT).mean(1)


class Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner = block(), conv(4, 4)
        self.up, self.out = nn.ConvTranspose2d(4, 4, 2, 2), nn.Sequential(conv(7, 8), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(F.silu(self.inner(self.down(x))))
        return self.out(torch.cat([F.interpolate(y, x.shape[2:], mode="bilinear"), x], 1))


def noisy(self: Any, x: Tensor) -> Tensor:
    y = self.first(x + 0.1 * torch.randn_like(x))
    return F.dropout(self.second(y.relu()), 0.3) + torch.rand(())


def routed(self: Any, x: Tensor) -> Tensor:
    """Each image by the expert that likes it most."""
    best = self.router(x.mean((2, 3))).argmax(1)
    y = x.new_zeros(len(x), 4, *x.shape[2:])
    for number, expert in enumerate(self.experts):
        chosen = best == number
        if chosen.any():
            y[chosen] = expert(x[chosen])
    return y


class Growing(nn.Module):
    """One more of its layers each time it is called, up to all."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.depth = nn.ModuleList([block(), conv(4, 4), block(4, 4)]), 0

    def forward(self, x: Tensor) -> Tensor:
        self.depth = min(self.depth + 1, len(self.layers))
        for layer in self.layers[: self.depth]:
            x = layer(x)
        return x


def words(self: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    y = self.conv(self.embedding(tokens).mT)
    return F.max_pool1d(y.masked_fill(mask[:, None], -9.0).relu(), 2)


def targets_without_gradients(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        target = self.second(x).relu()
    y = self.first(x).relu()
    return y - target, y.detach() * self.second(x)


class Numbers(nn.Module):
    """No layers, only parameters by name and number."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.ParameterList([nn.Parameter(torch.randn(3, 3, k, k) / 5) for k in (1, 3, 5)])
        self.by_name = nn.ParameterDict({"scale": nn.Parameter(torch.rand(3, 1, 1))})

    def forward(self, x: Tensor) -> Tensor:
        y = sum(F.conv2d(x, kernel, padding=len(kernel[0, 0]) // 2) for kernel in self.kernels)
        return self.by_name["scale"] * y


def pyramid(self: Any, images: list[Tensor]) -> dict[str, Any]:
    fine, coarse = self.first(images[0]), self.second(images[1])
    fine = fine + F.interpolate(coarse, fine.shape[2:])
    return {"maps": [fine, coarse], "pooled": {"fine": F.max_pool2d(fine.relu(), 2)}}


class Standardized(nn.Conv2d):
    """A convolution whose class says otherwise what it computes."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(input, weight / (weight.flatten(1).std(1)[:, None, None, None] + 1e-3), self.bias)


class Wrapping(nn.Module):
    """Has whatever attributes the wrapped module has."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("wrapped"), name)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.wrapped(x) * self.out_channels), 2)


def through_numpy(self: Any, x: Tensor) -> Tensor:
    shift = torch.from_numpy(np.sort(x.detach().numpy().mean((0, 2, 3)))).to(x)
    return self.second(self.first(x + shift[:, None, None]).relu())


def straight_through(self: Any, x: Tensor) -> Tensor:
    y = self.first(x)
    rounded = y + (torch.round(y * 4) / 4 - y).detach()
    return F.max_pool2d(rounded.relu(), 2)


def until_it_stays(self: Any, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    for _ in range(20):
        new = torch.tanh(0.2 * self.first(y) + x)
        if (new - y).norm() < 1e-1 * y.norm():
            break
        y = new
    return y


def partly_checkpointed(self: Any, x: Tensor) -> Tensor:
    """What is computed again draws random numbers, and changes buffers."""
    y = checkpoint(self.norm, checkpoint(self.first, x, use_reentrant=False), use_reentrant=False)
    return self.second(checkpoint(lambda y: F.max_pool2d(F.dropout(y, 0.4).relu(), 2), y, use_reentrant=False))


class Squared(torch.autograd.Function):
    """A square that keeps its input, its output and a number, each in another way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float, weight: Tensor) -> tuple[Tensor, Tensor]:
        y = factor * weight * x * x
        ctx.save_for_backward(x, y)
        ctx.weight, ctx.factor = weight, factor
        return y, y.argmax()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        back = upstream * 2 * ctx.factor * ctx.weight * x
        return back, None, (upstream * y / ctx.weight).sum() if ctx.needs_input_grad[2] else None


class Squaring(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.scale = conv(3, 3), conv(3, 3), nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(Squared.apply(self.first(x), 0.5, self.scale)[0]).relu()


def cubes() -> nn.Module:
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten())


def rows() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 4, 5, 2, 2), nn.BatchNorm1d(4), nn.ReLU6(), nn.MaxPool1d(3, 2, 1), nn.ConvTranspose1d(4, 3, 4, 2)
    )


def in_half(self: Any, x: Tensor) -> Tensor:
    y = self.first(x)
    return self.second(y.bfloat16().float() + y.double().float()).relu()


def without_statistics() -> nn.Module:
    return nn.Sequential(
        conv(),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.ReLU(),
        conv(4, 4),
        nn.BatchNorm2d(4, affine=False, momentum=None),
        nn.Hardswish(),
        conv(4, 4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
    )


def with_partials(self: Any, x: Tensor) -> Tensor:
    pool = functools.partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
    steps: list[Callable[[Tensor], Tensor]] = [self.first, torch.relu_, pool, lambda y: y * math.sqrt(2)]
    return functools.reduce(lambda y, step: step(y), steps, x)


def in_a_context(self: Any, x: Tensor) -> Tensor:
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.callback(lambda: None)
        y = self.first(x)
    return self.second(y.relu())


def adds_into_views(self: Any, x: Tensor) -> Tensor:
    y = self.first(x)
    y[:, ::2] += 1
    y[:, 1].mul_(2)
    z = y.view(len(y), -1)
    z.clamp_(min=-0.5)
    return self.second(y) + z.sum(1)[:, None, None, None] / 100


def by_flag(self: Any, x: Tensor, scale: float = 1.0, *, flip: bool = False, other: Tensor | None = None) -> Tensor:
    y = F.max_pool2d(self.first(x.flip(-1) if flip else x).relu(), 2) * scale
    return y if other is None else y + other


def two(compute: Callable[..., Any]) -> Callable[[], nn.Module]:
    """A forward with two convolutions."""
    return lambda: Written(compute, first=conv(3, 3), second=conv(3, 3))


CASES: dict[str, Case] = {
    "shared weights": Case(Tied),
    "spectral norm": Case(spectral),
    "spectral norm by hooks": Case(spectral_by_hooks),
    "weight norm": Case(weight_normed),
    "weight norm by hooks": Case(weight_normed_by_hooks),
    "pruning": Case(pruned),
    "adapters of low rank": Case(adapted),
    "control flow on numbers": Case(
        lambda: Written(branches_on_numbers, first=conv(), others=nn.ModuleList([conv(4, 4), conv(4, 4)])),
        refused="each sample",
    ),
    "a cache": Case(Remembering),
    "a generator": Case(Yielding),
    "an exception as control flow": Case(
        lambda: Written(raises_to_end, layers=nn.ModuleList([block(), conv(4, 4), conv(4, 4)]))
    ),
    "a recurrent cell": Case(Cell, lambda batch: (torch.randn(batch, 3, 3, 6, 6),)),
    "a frozen norm": Case(frozen_norm, settle=freeze),
    "computed kernels": Case(lambda: Written(computed_kernels, linear=nn.Linear(3, 27))),
    "buffers that move": Case(Averaging, refused="each sample"),
    "a dataclass": Case(lambda: Written(gives_a_dataclass, body=block())),
    "a derivative of its own": Case(
        two(lambda self, x: self.second(Doubled.apply(self.first(x)).relu())), refused="each sample"
    ),
    "a derivative that keeps what it needs": Case(Squaring, refused="each sample"),
    "frequencies": Case(two(in_frequencies)),
    "shuffled channels": Case(lambda: Written(shuffled, first=conv(), second=conv(2, 2))),
    "attention": Case(Attending, refused="gradients of gradients"),
    "a U": Case(Unet),
    "random numbers": Case(two(noisy)),
    "experts": Case(
        lambda: Written(routed, router=nn.Linear(3, 2), experts=nn.ModuleList([conv(), conv()])), refused="each sample"
    ),
    "a network that grows": Case(Growing),
    "words": Case(
        lambda: Written(words, embedding=nn.Embedding(9, 3), conv=nn.Conv1d(3, 4, 3, padding=1)),
        lambda batch: (torch.randint(9, (batch, 8)), torch.rand(batch, 8) < 0.2),
    ),
    "targets without gradients": Case(two(targets_without_gradients)),
    "parameters alone": Case(Numbers),
    "a pyramid": Case(two(pyramid), lambda batch: ([torch.randn(batch, 3, side, side) for side in (10, 5)],)),
    "a layer of one's own": Case(
        lambda: nn.Sequential(Standardized(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    ),
    "a wrapper": Case(lambda: Wrapping(conv())),
    "NumPy": Case(two(through_numpy), refused="each sample"),
    "a straight-through estimator": Case(two(straight_through)),
    "until it stays": Case(two(until_it_stays), refused="each sample"),
    "checkpoints": Case(
        lambda: Written(partly_checkpointed, first=conv(3, 3), norm=nn.BatchNorm2d(3), second=conv(3, 3)),
        refused="each sample",
    ),
    "three dimensions": Case(cubes, lambda batch: (torch.randn(batch, 2, 4, 6, 6),)),
    "one dimension": Case(rows, lambda batch: (torch.randn(batch, 3, 17),)),
    "other numbers on the way": Case(two(in_half)),
    "norms of all kinds": Case(without_statistics),
    "functions of functions": Case(two(with_partials)),
    "a context": Case(two(in_a_context)),
    "writes into views": Case(two(adds_into_views)),
    "arguments by name": Case(two(by_flag)),
}
