"""Networks that do what users' networks do and textbooks' don't, for whoever shows any network."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Shared(nn.Module):
    """One layer at three places, one of them through another name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.again = self.conv

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.conv(self.conv(x)).relu())


class Answers(nn.Module):
    """A dictionary with a list, a number and a word in it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Any]:
        maps = self.body(x)
        return {"maps": [maps, maps.relu()], "logits": self.head(maps.mean((2, 3))), "count": 7, "word": "done"}


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Linear(5, 4)

    def forward(self, picture: Tensor, hint: Tensor) -> Tensor:
        return self.left(picture) * self.right(hint)[:, :, None, None]


class Functional(nn.Module):
    """No layer at all."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 3, 3, 3) - 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), self.weight)
        x = F.interpolate(F.leaky_relu(x, 0.1), scale_factor=2.0, mode="bilinear")
        return torch.einsum("nchw,kc->nkhw", x, self.weight[:, :, 0, 0].t()).flatten(2).softmax(-1)


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Writing(nn.Module):
    """Writes into its input, into parts of a tensor, and through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5)
        y = self.conv(x)
        y[:, 1] = x[:, 0]
        y[:, 2:].add_(1.0)
        part = y.view(len(y), -1)
        part[:, :3] = 0.25
        return y.clamp_(max=0.9) + part.sum()


class Empty(nn.Module):
    """A map without positions, as a detector has for no proposals."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, :0].sum((1, 2, 3)) + self.conv(x).mean()


class Steered(nn.Module):
    """Values decide what runs and how long the result is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if float(y.mean()) > 100:
            return y
        return y.flatten()[(y > 0).flatten()] * 2


class WritesWeights(nn.Module):
    """Normalises its weight in place at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 3, 3, 3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        self.weight.div_(self.weight.norm())
        return F.conv2d(x, self.weight)


class Counting(nn.Module):
    """No gradient anywhere: whole numbers in, whole numbers out."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > 0.5).long().sum((2, 3)).argmax(1)


class Closed(nn.Module):
    """Keeps a tensor in a closure and writes into it."""

    def __init__(self) -> None:
        super().__init__()
        state = torch.zeros(1)
        self.state = [state]

        def act(x: Tensor) -> Tensor:
            state.add_(1)
            return x + state

        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 8, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.cut(x).flatten(2).transpose(1, 2)
        inner = self.norm(tokens)
        return tokens + self.attention(inner, inner, inner, need_weights=False)[0]


def strange() -> dict[str, tuple[nn.Module, Any]]:
    """Each with inputs that it takes."""
    torch.manual_seed(3)
    picture = torch.rand(2, 3, 8, 8)
    built = (
        Shared(), Answers(), Functional(), Dropping(), Writing(), Empty(), Steered(), WritesWeights(), Counting(),
        Closed(), Attending(),
    )  # fmt: skip
    found: dict[str, tuple[nn.Module, Any]] = {type(each).__name__: (each, picture) for each in built}
    found["TwoInputs"] = (TwoInputs(), {"picture": picture, "hint": torch.rand(2, 5)})
    return found
