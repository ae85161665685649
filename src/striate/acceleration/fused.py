"""What generated forwards call for layers put together: each gets them, or their arguments, as they are at the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import ops
from striate.acceleration.calls import FUNCTIONS
from striate.ops import chain, conv_pool
from striate.ops.norm import batch_norm


def pays(input: Tensor, *others: Tensor | None) -> bool:
    """Whether a fused operation is taken on these operands, else its parts one after the other.

    The one place for this choice: float32 in main memory, for which the fused kernels are made. Times measured for a
    shape would be asked for here.
    """
    for each in (input, *others):
        if each is not None and (each.dtype is not torch.float32 or not each.is_cpu):
            return False
    return True


_ACTIVATE: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "": lambda activated: activated,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
}
_CONVOLVE: Final = {1: F.conv1d, 2: F.conv2d}
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


def normalize_by(
    layer: Any, input: Tensor, residual: Any, join: Callable[[Any, Any], Any] | None, activation: str
) -> Tensor:
    """A batch norm layer with its books, which are those of ``torch.nn.modules.batchnorm._BatchNorm.forward``."""
    layer._check_input_dim(input)
    momentum = layer.momentum
    if _counts(layer):
        _count(layer)
        if momentum is None:
            momentum = 1.0 / float(layer.num_batches_tracked)
    tables, of_batch = _read(layer)
    how = (of_batch, 0.0 if momentum is None else momentum, layer.eps)
    return normalize((input, *tables, *how), residual, join, activation)


def _counts(layer: Any) -> bool:
    return layer.training and layer.track_running_stats and layer.num_batches_tracked is not None


def _count(layer: Any) -> None:
    layer.num_batches_tracked.add_(1)


def _read(layer: Any) -> tuple[tuple[Tensor | None, ...], bool]:
    """Running mean and variance, if they count, weight and bias; and whether the batch's own statistics do."""
    training, mean, variance = layer.training, layer.running_mean, layer.running_var
    of_batch = training or (mean is None and variance is None)
    if training and not layer.track_running_stats:
        mean = variance = None
    return (mean, variance, layer.weight, layer.bias), of_batch


def normalize(norm: tuple[Any, ...], residual: Any, join: Callable[[Any, Any], Any] | None, activation: str) -> Tensor:
    """``norm``: the arguments of ``F.batch_norm``; ``join``: how the residual is added, if there is one."""
    input, mean, variance, weight, bias, *how = norm
    alike = join is None or (
        isinstance(residual, Tensor) and residual.shape == input.shape and residual.dtype is input.dtype
    )
    if alike and pays(input, weight, bias, mean, variance, residual):
        return batch_norm(input, weight, bias, mean, variance, *how, residual=residual, activation=activation)
    normed = F.batch_norm(*norm)
    return _ACTIVATE[activation](normed if join is None else join(normed, residual))


class Normed(NamedTuple):
    """A link of a chain: what :func:`normalize_by` or :func:`normalize` does, by their arguments."""

    by: Any  #: the layer, or the arguments of ``F.batch_norm`` after its input
    residual: Any
    join: Callable[[Any, Any], Any] | None
    activation: str

    def alone(self, input: Tensor) -> Tensor:
        added = self.residual, self.join, self.activation
        if isinstance(self.by, torch.nn.Module):
            return normalize_by(self.by, input, *added)
        return normalize((input, *self.by), *added)

    def keep_books(self) -> None:
        """What a layer keeps of a batch beside its statistics."""
        if isinstance(self.by, torch.nn.Module) and _counts(self.by):
            _count(self.by)

    def link(self) -> chain.Normalization | None:
        """As the operation takes it; None where it doesn't."""
        if isinstance(self.by, torch.nn.Module):
            layer: Any = self.by
            (mean, variance, weight, bias), of_batch = _read(layer)
            momentum, eps = layer.momentum, layer.eps
        else:
            mean, variance, weight, bias, of_batch, momentum, eps = self.by
        if self.join is not None and not isinstance(self.residual, Tensor):
            return None
        return chain.Normalization(
            weight, bias, mean, variance, of_batch, momentum, eps, self.residual, self.activation
        )


def chained(input: Tensor, *links: chain.Convolution | Normed) -> Tensor:
    """Convolutions and normalisations, each of the result of the one before."""
    if pays(input):
        known = [link.link() if isinstance(link, Normed) else link for link in links]
        found = chain.as_one(input, known, local=False)
        if found is not None:
            for link in links:
                if isinstance(link, Normed):
                    link.keep_books()
            return found
    for link in links:
        if isinstance(link, Normed):
            input = link.alone(input)
        else:
            input = FUNCTIONS[_CONVOLVE[link.weight.dim() - 2]](input, link.weight, link.bias, *link.how)
    return input
