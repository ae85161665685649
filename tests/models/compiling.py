"""What every network must bear besides computing: a step that learns, torch.compile and torch.export."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def loss_before_and_after_a_step(model: torch.nn.Module, x: torch.Tensor, rate: float = 0.01) -> tuple[float, float]:
    """The loss of a fixed batch, in evaluation mode, around one step of SGD."""
    labels = torch.arange(len(x))
    model.eval()
    before = F.cross_entropy(model(x), labels)
    before.backward()
    torch.optim.SGD(model.parameters(), rate).step()
    with torch.no_grad():
        return before.item(), F.cross_entropy(model(x), labels).item()


def compiled(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch._dynamo.reset()
    with torch.no_grad():
        return torch.compile(model, backend="aot_eager", fullgraph=True)(x)  # type: ignore[no-any-return]


def exported(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the exported program gives for half of a batch that it was exported with."""
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    return program.module()(x[: len(x) // 2])  # type: ignore[no-any-return]
