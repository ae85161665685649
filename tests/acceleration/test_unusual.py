"""Modules written as few are, and what people do with modules: an accelerated one goes through all of it as it would.

Results are compared with the same module's that wasn't accelerated, from the same state and the same random numbers.
What PyTorch refuses of the one has to be refused of the other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from accuracy import tensors
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from unusual import CASES, Case

import striate


def alike(mine: Sequence[Tensor | None], theirs: Sequence[Tensor | None], what: str) -> None:
    """The same up to rounding, which is that of terms as large as the largest number of all."""
    assert [each is None for each in mine] == [each is None for each in theirs], what
    pairs = [(one, other) for one, other in zip(mine, theirs, strict=True) if one is not None and other is not None]
    largest = max((other.abs().max().item() for _, other in pairs if other.numel()), default=0.0)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5 * largest, msg=lambda told: f"{what}: {told}")


def pair(case: Case) -> tuple[nn.Module, nn.Module]:
    """The module as it is, and accelerated; made twice, since not all of them can be copied."""
    made = []
    for _ in range(2):
        torch.manual_seed(1)
        made.append(case.make())
    return made[0], striate.accelerate(made[1], quiet=True)


def moded(case: Case, model: nn.Module, train: bool) -> nn.Module:
    model.train(train)
    case.settle(model)
    return model


def told(compute: Callable[[nn.Module], list[Tensor | None]], model: nn.Module) -> list[Tensor | None] | type:
    """What a model comes to, from the same random numbers; the class of the error if it is refused."""
    torch.manual_seed(5)
    try:
        return compute(model)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return type(error)


def agree(
    compute: Callable[[nn.Module], list[Tensor | None]], model: nn.Module, fast: nn.Module, what: str, refused: str = ""
) -> None:
    """Both come to the same; that is an error where it is what is ``refused``, and only there."""
    theirs, mine = told(compute, model), told(compute, fast)
    if isinstance(theirs, type) or isinstance(mine, type):
        assert what == refused, (what, theirs, mine)
        assert theirs == mine, what
        return
    assert what != refused, what
    alike(mine, theirs, what)


def leaves(inputs: tuple[Any, ...]) -> list[Tensor]:
    """Inputs that gradients can be asked of, which they are from now on."""
    return [each.requires_grad_() for each in tensors(inputs)]


def loss_of(result: Any) -> Tensor:
    """A sum of all results with coefficients of different sizes, and of their squares."""
    total = torch.zeros(())
    for each in tensors(result):
        coefficients = torch.randn(each.shape, generator=torch.Generator().manual_seed(each.dim()))
        total = total + (each * coefficients).mean() + each.square().mean()
    return total


@pytest.mark.usefixtures("planning")
@pytest.mark.parametrize("name", CASES)
def test_evaluation(name: str) -> None:
    """Calls of one size until plans are taken, then of another one; what is kept on the way is the same as well."""
    case = CASES[name]
    model, fast = pair(case)
    for each in (model, fast):
        moded(case, each, False)
    for batch in (2, 2, 2, 2, 3, 1):
        inputs = case.inputs(batch)
        with torch.no_grad():
            agree(lambda each: tensors(each(*inputs)), model, fast, f"{batch} images")  # noqa: B023 - called at once
    alike([*fast.buffers()], [*model.buffers()], "buffers")


@pytest.mark.parametrize("name", CASES)
def test_derivatives(name: str) -> None:
    """Gradients in both modes, of each sample, and of gradients; then five steps of training."""
    case = CASES[name]
    model, fast = pair(case)
    for each in (model, fast):
        moded(case, each, False)
    inputs = case.inputs(2)
    agree(lambda each: gradients(each, inputs), model, fast, "gradients in evaluation")
    agree(lambda each: of_each_sample(each, inputs), model, fast, "each sample", case.refused)
    for each in (model, fast):
        moded(case, each, True)
    agree(lambda each: gradients(each, inputs), model, fast, "gradients in training")
    agree(lambda each: penalties(each, inputs), model, fast, "gradients of gradients", case.refused)
    steps = {each: torch.optim.SGD(each.parameters(), 0.05, momentum=0.9) for each in (model, fast)}
    for batch in (3, 3, 3, 3, 2):
        inputs = case.inputs(batch)
        agree(lambda each: step(each, steps[each], inputs), model, fast, "loss")  # noqa: B023 - called at once
    alike([*fast.parameters()], [*model.parameters()], "parameters")
    alike([*fast.buffers()], [*model.buffers()], "buffers")
    assert fast.state_dict().keys() == model.state_dict().keys()


def wanted(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def gradients(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor | None]:
    given = copy.deepcopy(inputs)
    asked = [*leaves(given), *wanted(model)]
    result = model(*given)
    return [*tensors(result), *torch.autograd.grad(loss_of(result), asked, allow_unused=True)]


def penalties(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor | None]:
    """Of gradients by the inputs, or by the parameters where inputs are none that one can derive by."""
    given = copy.deepcopy(inputs)
    by = leaves(given) or wanted(model)
    first = torch.autograd.grad(loss_of(model(*given)), by, create_graph=True)
    penalty = torch.stack([each.square().sum() for each in first]).sum()
    return [*first, *torch.autograd.grad(penalty, wanted(model), allow_unused=True)]


def of_each_sample(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor | None]:
    def loss(state: dict[str, Tensor], *sample: Any) -> Tensor:
        return loss_of(functional_call(model, state, torch.utils._pytree.tree_map(lambda leaf: leaf[None], sample)))

    state = {name: p.detach() for name, p in model.named_parameters()}
    axes = (None, *[0] * len(inputs))
    return list(vmap(grad(loss), axes, randomness="different")(state, *inputs).values())


def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: tuple[Any, ...]) -> list[Tensor | None]:
    optimizer.zero_grad()
    loss = loss_of(model(*inputs))
    loss.backward()
    optimizer.step()
    return [loss.detach()]
