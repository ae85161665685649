"""What rewritten graphs call for operations put together: each gets their arguments."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import ops
from striate.acceleration.blocks.calls import FUNCTIONS
from striate.ops import chain, conv_pool
from striate.ops.norm import activate, batch_norm


def pays(input: Tensor, *others: Tensor | None) -> bool:
    """Whether a fused operation is taken on these operands, else its parts one after the other.

    The one place for this choice: float32 in main memory, for which the fused kernels are made. Times measured for a
    shape would be asked for here.
    """
    for each in (input, *others):
        if each is not None and (each.dtype is not torch.float32 or not each.is_cpu):
            return False
    return True


#: How a residual is added; the order of the operands decides in which layout PyTorch writes the sum.
_JOIN: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "add": operator.add,
    "iadd": operator.iadd,
    "radd": lambda normed, residual: residual + normed,
}
_CONVOLVE: Final = {1: F.conv1d, 2: F.conv2d}
_AVERAGE: Final = {1: F.avg_pool1d, 2: F.avg_pool2d}
_POOL: Final = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def convolve_and_pool(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    how: tuple[Any, Any, Any, Any],
    activation: str,
    window: tuple[Any, ...],
) -> Tensor:
    """``window`` is the pooling's, ``how`` the convolution's."""
    dims = weight.dim() - 2
    found = (
        conv_pool.as_one(input, weight, bias, how, activation, window, local=False)
        if pays(input, weight, bias)
        else None
    )
    if found is not None:
        return found
    return pool_and_activate(dims, FUNCTIONS[_CONVOLVE[dims]](input, weight, bias, *how), activation, window)


def pool_and_activate(dims: int, input: Tensor, activation: str, window: tuple[Any, ...]) -> Tensor:
    pool = FUNCTIONS.get(_POOL[dims], ops.max_pool3d)
    return conv_pool.CLAMPS[activation](pool(input, *window))


def normalize(norm: tuple[Any, ...], residual: Any, join: str, activation: str) -> Tensor:
    """``norm``: the arguments of ``F.batch_norm``; ``join``: the operator that adds the residual, if there is one."""
    input, mean, variance, weight, bias, *how = norm
    # The result lies as the input does. PyTorch's addition follows its first operand, which may be the residual.
    alike = not join or (
        isinstance(residual, Tensor)
        and residual.shape == input.shape
        and residual.stride() == input.stride()
        and residual.dtype is input.dtype
    )
    if alike and pays(input, weight, bias, mean, variance, residual):
        return batch_norm(input, weight, bias, mean, variance, *how, residual=residual, activation=activation)
    normed = F.batch_norm(*norm)
    return activate(activation, _JOIN[join](normed, residual) if join else normed)


class Normed(NamedTuple):
    """A link of a chain: what :func:`normalize` does, by its arguments."""

    norm: tuple[Any, ...]  #: the arguments of ``F.batch_norm`` after its input
    residual: Any
    join: str
    activation: str

    def alone(self, input: Tensor) -> Tensor:
        return normalize((input, *self.norm), self.residual, self.join, self.activation)

    def link(self) -> chain.Normalization | None:
        """As the operation takes it; None where it doesn't."""
        mean, variance, weight, bias, of_batch, momentum, eps = self.norm
        if self.join and not isinstance(self.residual, Tensor):
            return None
        return chain.Normalization(
            weight, bias, mean, variance, of_batch, momentum, eps, self.residual, self.activation
        )


def chained(input: Tensor, *links: chain.Convolution | chain.Activated | Normed) -> Tensor:
    """Convolutions, normalisations and activations, each of the result of the one before."""
    if pays(input):
        known = [link.link() if isinstance(link, Normed) else link for link in links]
        found = chain.as_one(input, known, local=False, mixed_layouts=False)
        if found is not None:
            return found
    for link in links:
        if isinstance(link, Normed):
            input = link.alone(input)
        elif isinstance(link, chain.Activated):
            input = activate(link.name, input) if link.name else input
            if link.window is not None:
                input = FUNCTIONS[_AVERAGE[input.dim() - 2]](input, *link.window)
        else:
            input = FUNCTIONS[_CONVOLVE[link.weight.dim() - 2]](input, link.weight, link.bias, *link.how)
    return input
